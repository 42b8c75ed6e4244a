#!/usr/bin/env python3
"""Losses of published methods in float64, and their gradients by torch's autograd.

Each function below is a method's loss as its paper (or its authors' code) has it, on one batch of distributions; nothing here
comes from mopd. `python references.py` writes a file of numbers for each into `numbers/`, with the loss and its gradient by the
student's logits as what is expected. `mopd try` computes the library's objective on the same file:

    mopd try std.rl dapo tests/methods/numbers/rl.dapo.json

A test holds all of them to 1e-5 (`tests/tests/runs/cli/trial.rs`). Needs torch; the files are kept, so that the test does not.
"""

import json
import math
import pathlib

import torch

torch.set_default_dtype(torch.float64)

ENTRIES = 7
# Prompts, with the length of each of their completions.
LENGTHS = [[5, 3, 4], [6, 2, 4]]
DOMAINS = ["math", "code"]
# One of each group's rewards differs from the others'.
REWARDS = [[1.0, 0.0, 0.25], [0.0, 1.0, 1.0]]
# Of a panel's two members, completion by completion: whether it answered, and the confidence that it stated.
SAID = [
    [(True, 90), (True, 10)],
    [(True, None), (True, 10)],
    [(False, None), (True, 10)],
    [(False, None), (True, None)],
    [(False, None), (False, None)],
    [(True, 0), (True, 100)],
]
MEMBERS = ["duo first", "duo second"]


class Batch:
    """Everything that a loss may read. Per token: `s`, `t`, `o`, `b`, `r` are log-probabilities of all entries by the student, the
    teacher, the student before the updates from the batch (as the trainer scores it), the policy that sampled (as its engine
    recorded it) and the reference; `y` is the entry taken; `of` the completion; `group`, `domain` its."""

    def __init__(self, seed, also, panel, named, scores):
        # Further numbers of every completion, of one after the other, or of each token by its position; or what makes them of
        # the batch.
        self.also = also
        self.panel = panel  # whether two members of a panel judge as well
        # Of the student's scalar head there may be a number for each token; a pair is two completions.
        self.scores = scores
        self.completions = [lengths[:2] for lengths in LENGTHS] if scores == "pairs" else LENGTHS
        draw = torch.Generator().manual_seed(seed)
        self.of = torch.tensor([c for c, n in enumerate(sum(self.completions, [])) for _ in range(n)])
        groups = [g for g, lengths in enumerate(self.completions) for _ in lengths]
        self.group_of_completion = torch.tensor(groups)
        rewards = [rewards[: len(lengths)] for rewards, lengths in zip(REWARDS, self.completions)]
        self.reward_of_completion = torch.tensor(sum(rewards, []))
        self.group = self.group_of_completion[self.of]
        self.domain = self.group  # each prompt is of a domain of its own
        self.reward = self.reward_of_completion[self.of]
        n = len(self.of)
        logits = lambda spread: (torch.randn(n, ENTRIES, generator=draw) * spread).round(decimals=6)
        self.student_logits = logits(1.0).requires_grad_()
        self.teacher_logits = logits(1.2)
        # The sampler's engine had the weights of a few steps ago; some ratios leave every clipping range, some do not.
        moved = logits(1.0) * torch.tensor([0.02, 0.3, 1.0])[self.of % 3][:, None]
        self.sampler_logits = self.student_logits.detach() + moved
        self.sampler_logits = self.sampler_logits.round(decimals=6)
        self.reference_logits = logits(0.8)
        for given in [self.student_logits, self.teacher_logits]:  # which of equals is in a top-k is nobody's business here
            assert all(len(set(row)) == ENTRIES for row in given.tolist())
        self.y = torch.randint(0, ENTRIES, (n,), generator=draw)
        self.lengths = torch.bincount(self.of)
        self.position = torch.cat([torch.arange(k) for k in self.lengths])
        self.names = MEMBERS if panel else named  # of teachers beside the routed one
        self.named_logits = [logits(spread) for spread, _ in zip([1.1, 0.9], self.names)]
        self.named = [torch.log_softmax(logits, -1) for logits in self.named_logits]
        self.value = torch.randn(n, generator=draw).round(decimals=6).requires_grad_() if scores else None
        # Before the updates from the batch. The sampler is apart from it too: its engine rounds, as in the third completion of
        # each prompt, or had older weights.
        apart = torch.arange(n * ENTRIES).reshape(n, ENTRIES).sin() * torch.tensor([0.1, 0.2, 0.0005])[self.of % 3][:, None]
        self.old_logits = (self.sampler_logits + apart).round(decimals=6)
        for name in ["student", "teacher", "old", "sampler", "reference"]:
            setattr(self, name[0] if name != "sampler" else "b", torch.log_softmax(getattr(self, name + "_logits"), -1))
        take = lambda logp: logp.gather(1, self.y[:, None])[:, 0]
        self.ls, self.lt, self.lo, self.lb, self.lr = [take(logp) for logp in (self.s, self.t, self.o, self.b, self.r)]
        self.ratio = (self.ls - self.lo).exp()  # what the updates changed
        self.drift = (self.ls - self.lb).exp()  # the same with how far the sampler's engine is from the trainer
        self.mismatch = (self.lo - self.lb).exp()  # only that
        self.named_taken = [take(logp) for logp in self.named]

    # Ways to one number.
    def per_completion(self, x, how="mean"):
        sums = torch.zeros(len(self.lengths)).index_add(0, self.of, x)
        return sums / self.lengths if how == "mean" else sums

    def sequence_mean(self, x):
        """Mean over the tokens of a completion, then over completions."""
        return self.per_completion(x).mean()

    def grpo_advantage(self):
        """(r - mean) / std over the completions of a prompt, with the sample's deviation (arXiv:2402.03300); 1e-4 is TRL's."""
        out = torch.zeros_like(self.reward_of_completion)
        for g in range(len(LENGTHS)):
            rewards = self.reward_of_completion[self.group_of_completion == g]
            out[self.group_of_completion == g] = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        return out[self.of]

    def json(self):
        prompts, token, completion = [], 0, 0
        also = self.also(self) if callable(self.also) else self.also
        for g, lengths in enumerate(self.completions):
            completions = []
            for n in lengths:
                here = slice(token, token + n)
                rows = lambda logits: {"logits": logits.detach()[here].tolist()}
                completions.append({
                    "tokens": self.y[here].tolist(),
                    "student": rows(self.student_logits),
                    "teacher": rows(self.teacher_logits),
                    "old": rows(self.old_logits),
                    "sampler": rows(self.sampler_logits),
                    "reference": rows(self.reference_logits),
                    "reward": self.reward_of_completion[completion].item(),
                    **{name: of(self.position[here]).tolist() if callable(of) else of[completion] if isinstance(of, list) else of
                       for name, of in also.items()},
                })
                if self.scores:
                    completions[-1]["student.value"] = self.value.detach()[here].tolist()
                for m, (name, logits) in enumerate(zip(self.names, self.named_logits)):
                    completions[-1][name] = rows(logits)
                    if self.panel:
                        answered, confidence = SAID[completion][m]
                        completions[-1] |= {f"available({name})": answered, f"{name}.confidence": confidence}
                token, completion = token + n, completion + 1
            prompts.append({"domain": DOMAINS[g], "completions": completions})
        return prompts


# Divergences over the vocabulary, per token. `p` and `q` are log-probabilities.


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def jsd(t, s, beta):
    """Generalised Jensen-Shannon (arXiv:2306.13649, eq. 2): beta KL(t || m) + (1 - beta) KL(s || m), m = beta t + (1 - beta) s."""
    m = (beta * t.exp() + (1 - beta) * s.exp()).log()
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


def among(logp, chosen):
    """Log-probabilities of the chosen entries, renormalised among themselves; others count for nothing."""
    return torch.where(chosen, logp, -torch.inf).log_softmax(-1).masked_fill(~chosen, 0.0)


def top(logp, k):
    chosen = torch.zeros_like(logp, dtype=torch.bool)
    return chosen.scatter(1, logp.topk(k, -1).indices, True)


def kl_among(p, q, chosen):
    p, q = among(p, chosen), among(q, chosen)
    return (p.exp() * (p - q) * chosen).sum(-1)


def kl_with_tail(p, q, chosen):
    """All entries outside the chosen ones together are one more entry."""
    tail = lambda logp: (logp.exp() * ~chosen).sum(-1)
    inside = (p.exp() * (p - q) * chosen).sum(-1)
    return inside + tail(p) * (tail(p) / tail(q)).log()


def kl_raw(p, q, chosen):
    return (p.exp() * (p - q) * chosen).sum(-1)


def kl_generalized(p, q, chosen):
    """p log(p / q) - p + q summed over the chosen entries: not negative where they hold less than all."""
    return ((p.exp() * (p - q) - p.exp() + q.exp()) * chosen).sum(-1)


def entropy(p):
    return -(p.exp() * p).sum(-1)


def ppo(ratio, advantage, low, high):
    """Clipped surrogate (arXiv:1707.06347, eq. 7), as a loss."""
    return -torch.minimum(ratio * advantage, ratio.clip(1 - low, 1 + high) * advantage)


def minmax(x):
    return (x - x.min()) / (x.max() - x.min())


# The lengths of the turns of each completion, where they have several.
TURNS = [[2, 3], [3], [1, 3], [2, 4], [1, 1], [4]]

METHODS = {}


def method(name, also={}, panel=False, named=(), terms=(), run={}, scores=None, **arguments):
    """`terms`: those on the same completions, where terms have completions of their own. `run`: numbers of the run. `scores`: what is
    learned is a scalar head, on "completions" or on "pairs"."""

    def add(loss):
        METHODS[name] = (loss, also, panel, named, terms, run, scores, arguments)
        return loss

    return add


# MOPD and what came before it (arXiv:2606.30406; catalogue M2).


@method("opd.mopd")
def _(b):  # eq. 3: the sampled estimator of the reverse KL's gradient, clipped at 5 nats
    return b.sequence_mean(-(b.lt - b.ls).clip(-5, 5).detach() * b.ls)


@method("opd.mopd_full")
def _(b):
    return b.sequence_mean(kl(b.s, b.t))


@method("opd.mopd_top_k")
def _(b):  # eq. 5; 64 entries are all of 7
    return b.sequence_mean(kl_generalized(b.s, b.t, top(b.t, min(64, ENTRIES))))


@method("opd.opd")
def _(b):
    return (-(b.lt - b.lb) * b.drift).mean()


@method("opd.opd_clipped")
def _(b):
    return (-(b.lt - b.lb).clip(-1, 1) * b.drift).mean()


@method("opd.opd_discounted", discount=0.75)
def _(b):  # sum over later tokens u of 0.75^(u - t) (log pi_T - log mu)
    gap, to_go = (b.lt - b.lb).tolist(), []
    for i in range(len(gap)):
        later = [j for j in range(i, len(gap)) if b.of[j] == b.of[i]]
        to_go.append(sum(0.75 ** (j - i) * gap[j] for j in later))
    return (-torch.tensor(to_go) * b.drift).mean()


@method("nemotron.nemotron_cascade")
def _(b):  # trained where pi_train / pi_inf is within [0.5, 2]; the mean counts those tokens alone
    inside = (b.drift >= 0.5) & (b.drift <= 2)
    loss = -(b.drift * (b.lt - b.ls)).detach() * b.ls
    means = [loss[(b.of == c) & inside].mean() for c in range(len(b.lengths)) if ((b.of == c) & inside).any()]
    return torch.stack(means).mean()


@method("nemotron.nemotron_ultra")
def _(b):  # NeMo-RL: the ratio of two engines with the weights before the update
    return (-(b.mismatch.clip(0.2, 5) * (b.lt - b.ls).clip(-20, 20)).detach() * b.ls).mean()


@method("nemotron.nemotron_sequence_band")
def _(b):
    apart = b.per_completion(b.lo - b.lb).exp()[b.of]
    inside = (apart >= 0.999) & (apart <= 1.002)
    return (-(inside * b.mismatch * (b.lt - b.ls)).detach() * b.ls).mean()


@method("mimo.mimo", alpha=0.4, low=0.7, high=1.3)
def _(b):
    advantage = b.lt - b.ls + 0.4 * b.grpo_advantage()
    weight = torch.where((b.drift >= 0.7) & (b.drift <= 1.3), b.drift, 0.0)
    return b.sequence_mean(-(weight * advantage).detach() * b.ls)


@method("dn_mopd.dn_mopd")
def _(b):  # arXiv:2609.35347: w_d = clip(sigma_all / sigma_d, 0.25, 4), population deviations over tokens
    gap = b.lt - b.lb
    width = torch.stack([gap[b.domain == d].std(unbiased=False) for d in range(2)])[b.domain]
    advantage = (gap.std(unbiased=False) / width).clip(0.25, 4) * gap
    return b.sequence_mean(ppo(b.ratio, advantage, 0.2, 0.2))


# Rewards (catalogue B5).


@method("rl.grpo_loss")
def _(b):
    return b.sequence_mean(ppo(b.ratio, b.grpo_advantage(), 0.2, 0.2))


@method("rl.dr_grpo")
def _(b):  # arXiv:2503.20783: no division by the deviation, none by the length
    mean = torch.stack([b.reward_of_completion[b.group_of_completion == g].mean() for g in range(2)])
    return ppo(b.ratio, b.reward - mean[b.group], 0.2, 0.2).mean()


@method("rl.dapo")
def _(b):
    return ppo(b.ratio, b.grpo_advantage(), 0.2, 0.28).mean()


@method("rl.gspo")
def _(b):  # arXiv:2507.18071, eq. 5 to 7
    ratio = b.per_completion(b.ls - b.lo).exp()
    first = torch.tensor([(b.of == c).nonzero()[0, 0] for c in range(len(b.lengths))])
    return ppo(ratio, b.grpo_advantage()[first], 3e-4, 4e-4).mean()


@method("rl.rloo")
def _(b):
    r, g = b.reward_of_completion, b.group_of_completion
    others = torch.stack([r[(g == g[c]) & (torch.arange(len(r)) != c)].mean() for c in range(len(r))])
    return b.per_completion(-(r - others)[b.of] * b.ls, "sum").mean()


@method("kl_penalty.grpo_anchored", anchor=0.3)
def _(b):
    return b.sequence_mean(ppo(b.ratio, b.grpo_advantage(), 0.2, 0.2) + 0.3 * (b.ls - b.lr) ** 2 / 2)


@method("kl_penalty.grpo_k3", anchor=0.3)
def _(b):
    gap = b.lr - b.ls
    return b.sequence_mean(ppo(b.ratio, b.grpo_advantage(), 0.2, 0.2) + 0.3 * (gap.exp() - 1 - gap))


@method("kl_penalty.grpo_anchored_full", anchor=0.3)
def _(b):
    return b.sequence_mean(ppo(b.ratio, b.grpo_advantage(), 0.2, 0.2) + 0.3 * kl(b.s, b.r))


@method("rl.dapo_overlong", longest=5, margin=3)
def _(b):  # arXiv:2503.14476, eq. 13: from 0 at longest - margin to -1 at longest
    charged = b.reward_of_completion - ((b.lengths - 2) / 3).clip(0, 1)
    b.reward_of_completion = charged
    return ppo(b.ratio, b.grpo_advantage(), 0.2, 0.28).mean()


@method("dgrpo.dgrpo", guidance=0.4, clip_low=0.2, clip_high=0.28)
def _(b):
    return b.sequence_mean(ppo(b.ratio, b.grpo_advantage(), 0.2, 0.28) + 0.4 * kl(b.s, b.t))


@method("dgrpo.dgrpo_advantage", guidance=0.4, clip_low=0.2, clip_high=0.28)
def _(b):
    return b.sequence_mean(ppo(b.ratio, b.grpo_advantage() + 0.4 * (b.lt - b.lb), 0.2, 0.28))


# Estimators of the reverse KL (Schulman; verl, whose `loss_agg_mode` is token-mean by default).


@method("estimators.k1")
def _(b):
    return (-(b.lt - b.ls).detach() * b.ls).mean()


@method("estimators.k2")
def _(b):
    return ((b.ls - b.lt) ** 2 / 2).mean()


@method("estimators.k3")
def _(b):
    return ((b.lt - b.ls).exp() - 1 - (b.lt - b.ls)).mean()


@method("estimators.absolute")
def _(b):
    return (b.ls - b.lt).abs().mean()


@method("estimators.forward_top_k", k=3)
def _(b):
    return kl_with_tail(b.t, b.s, top(b.t, 3)).mean()


@method("estimators.k1_clipped", most=1.5)
def _(b):
    return ppo(b.ratio, (b.lt - b.lb).clip(-1.5, 1.5), 0.2, 0.2).mean()


# Distillation on given text (catalogue B5).


@method("gkd.gkd")
def _(b):
    return b.sequence_mean(jsd(b.t, b.s, 0.5))


@method("gkd.forward")
def _(b):
    return b.sequence_mean(kl(b.t, b.s))


@method("gkd.both_directions")
def _(b):
    return b.sequence_mean(0.5 * kl(b.t, b.s) + 0.5 * kl(b.s, b.t))


@method("kd.word_level", temperature=2.0)
def _(b):  # arXiv:1503.02531: both sides softened, the loss times T^2
    soft = lambda logits: torch.log_softmax(logits / 2.0, -1)
    return (4.0 * kl(soft(b.teacher_logits), soft(b.student_logits))).mean()


@method("kd.top_k_renormalized", k=3)
def _(b):
    return kl_among(b.t, b.s, top(b.t, 3)).mean()


@method("kd.top_k_tail", k=3)
def _(b):
    return kl_with_tail(b.t, b.s, top(b.t, 3)).mean()


@method("kd.top_k_generalized", k=3)
def _(b):
    return kl_generalized(b.t, b.s, top(b.t, 3)).mean()


@method("kd.top_k_of_student", k=3)
def _(b):
    return kl_with_tail(b.s, b.t, top(b.s, 3)).mean()


@method("kd.top_k_of_both", k=3)
def _(b):
    return kl_with_tail(b.s, b.t, top(b.s, 3) | top(b.t, 3)).mean()


@method("kd.total_variation")
def _(b):
    return (0.5 * (b.t.exp() - b.s.exp()).abs().sum(-1)).mean()


@method("kd.adaptive")
def _(b):  # arXiv:2404.02657: the head is the teacher's smallest set that holds half of its mass
    order = b.t.sort(-1, descending=True)
    before = order.values.exp().cumsum(-1) - order.values.exp()
    head = torch.zeros_like(b.t, dtype=torch.bool).scatter(1, order.indices, before < 0.5)
    gap = (b.t.exp() - b.s.exp()).abs().detach()
    share = (gap * head).sum(-1) / gap.sum(-1)
    return (share * kl(b.t, b.s) + (1 - share) * kl(b.s, b.t)).mean()


@method("kd.in_order", k=3)
def _(b):  # Plackett-Luce: the student draws without replacement in the teacher's order
    order = b.t.topk(3, -1).indices
    p, left, loss = b.s.exp(), torch.ones(len(b.of)), torch.zeros(len(b.of))
    for rank in range(3):
        chosen = p.gather(1, order[:, rank : rank + 1])[:, 0]
        loss, left = loss - (chosen / left).log(), left - chosen
    return loss.mean()


@method("distillm.distillm")
def _(b):  # `skewed_forward_kl` of the authors' losses.py: sum of -t log(0.1 t + 0.9 s) over the tokens, over their number
    mixed = 0.1 * b.t.exp() + 0.9 * b.s.exp()
    x = (b.t.exp() * mixed.log()).sum(-1)
    entropy_of_teacher = -(b.t.exp() * b.t).sum(-1)  # which the code leaves out: it is a constant
    return -(x.sum() + entropy_of_teacher.sum()) / len(x)


@method("distillm.distillm_reverse")
def _(b):
    mixed = 0.9 * b.t.exp() + 0.1 * b.s.exp()  # `skewed_reverse_kl`, lam 0.1
    x = (b.s.exp() * mixed.log() - b.s.exp() * b.s).sum(-1)
    return -x.sum() / len(x)


@method("sft.nll")
def _(b):
    return -b.ls.mean()


@method("dagger.labels")
def _(b):  # the teacher's most probable entry is the label
    return -b.s.gather(1, b.t.argmax(-1)[:, None]).mean()


# On-policy variants (catalogue A1).


@method("lightning_opd.lightning_loss")
def _(b):
    return b.sequence_mean(-(b.lt - b.ls).detach() * b.ls)


@method("g_opd.g_opd")
def _(b):  # arXiv:2602.12125: reward scale 1.25 over the reference, ratio bounded by 5
    advantage = 1.25 * (b.lt - b.lr) - (b.ls - b.lr)
    return (-(b.mismatch.clip(max=5) * advantage).detach() * b.ls).mean()


@method("g_opd.list_opd_guarded")
def _(b):  # arXiv:2605.08737: no extrapolation where the teacher is certain
    settled = (entropy(b.t) < 0.5) | (b.t.exp().max(-1).values > 0.9)
    scale = torch.where(settled, 1.0, 1.22)
    advantage = scale * (b.lt - b.lr) - (b.ls - b.lr)
    return (-(b.mismatch.clip(max=5) * advantage).detach() * b.ls).mean()


def over_group(b):
    """`compute_advantages(normalize=False, scope="group")` of UniRL: the reward over the mean of its prompt's."""
    mean = torch.stack([b.reward_of_completion[b.group_of_completion == g].mean() for g in range(len(LENGTHS))])
    return (b.reward_of_completion - mean[b.group_of_completion])[b.of]


def to_teacher(b):  # ours
    return b.lt - b.lb


def drpo(b, adv, mu_weighted, epsilon):
    """`_drpo_loss` of UniRL, and its mean over tokens."""
    log_diff = (b.ls - b.lb).clip(-20, 20)
    penalty_weight = b.lb.exp() if mu_weighted else torch.ones(len(adv))
    quadratic = adv.abs() * penalty_weight * (log_diff.exp() - 1).square() / (2.0 * epsilon)
    return (-adv * log_diff.exp() + quadratic).mean()


def dppo(b, adv, bound):
    """arXiv:2602.04879: what has moved beyond the bound to the side of its advantage is masked, and still counts in the mean."""
    moved = (b.ls.exp() - b.lb.exp()).detach()
    invalid = torch.where(adv > 0, moved > bound, (adv < 0) & (moved < -bound))
    assert invalid.any() and ((moved.abs() > bound) & ~invalid & (adv != 0)).any()
    return (-adv * b.drift * ~invalid).mean()


@method("drpo.drpo")
def _(b):
    return drpo(b, over_group(b), True, 12.5)


@method("drpo.dppo", bound=0.05)
def _(b):
    return dppo(b, over_group(b), 0.05)


@method("vopd.vopd")
def _(b):  # arXiv:2605.07865: the control variate is minus the reverse KL
    return (-(b.lt - b.ls + kl(b.s, b.t)).detach() * b.ls).mean()


@method("vopd.vopd_bounded", share=0.3)
def _(b):
    gain = (b.lt - b.ls).clip(min=math.log(0.3) / 0.7)
    return (-(gain + kl(b.s, b.t)).detach() * b.ls).mean()


@method("scope.scope_sampled")
def _(b):  # arXiv:2604.10688: softmax over the right (wrong) completions of a prompt, times how many they are
    means = lambda x: b.per_completion(x).detach()
    right = b.reward_of_completion >= 1
    weight = torch.zeros(len(right))
    for g in range(2):
        for these, score in [(right, -means(b.ls)), (~right, means(b.lt))]:
            these = these & (b.group_of_completion == g)
            weight[these] = score[these].softmax(0) * these.sum()
    # dp_actor.py: the likelihood is averaged over `correct_token_mask`; in the scripts (`DISTILL_SIGNAL_IN_LOSS=False`)
    # the other is an advantage, 0 for the right ones, and averaged over `response_mask`.
    imitate = -(weight[b.of] * b.ls)[right[b.of]]
    follow = -(weight[b.of] * ~right[b.of] * (b.lt - b.ls)).detach() * b.ls
    return imitate.mean() + follow.mean()


@method("many_faces.reverse_tail")
def _(b):  # 20 entries are all of 7
    return b.sequence_mean(kl(b.s, b.t))


def caopd(b, skip, keep):
    """`_compute_loss` and `get_high_entropy_mask` of the authors' distil_trainer.py."""
    mask = (b.position >= skip).double()
    per_token = kl(b.t, b.s)
    if keep < 1:
        h = entropy(b.s).detach()
        per_token = per_token * (h >= torch.quantile(h[mask.bool()], 1 - keep))
    rows = [(per_token * mask)[b.of == c].sum() / mask[b.of == c].sum().clip(min=1.0) for c in range(len(b.lengths))]
    return torch.stack(rows).mean()


@method("caopd.caopd")
def _(b):
    return caopd(b, 3, 1)


@method("opsd.opsd")
def _(b):
    soft = lambda logits: torch.log_softmax(logits / 1.1, -1)
    return jsd(soft(b.teacher_logits), soft(b.student_logits), 0.5).mean()


@method("opsd.opsd_sampled")
def _(b):
    return (-(b.lt - b.ls).detach() * b.ls).mean()


@method("vision_opd.vision_opd_sampled")
def _(b):
    return (-(b.ratio.clip(max=2) * (b.lt - b.ls)).detach() * b.ls).mean()


@method("tip.tip")
def _(b):  # arXiv:2604.14084: soft-or of entropy (winsorised at 98%) and forward KL, the better half of the tokens
    h = entropy(b.s).detach() / math.log(ENTRIES)
    h = minmax(h.clip(max=h.quantile(0.98)))
    d = minmax(kl(b.t, b.s).detach())
    score = h + d - h * d
    best = score.topk(len(score) // 2).indices
    return kl(b.s, b.t)[best].mean()


@method("tcod.tcod_loss", also={"available(teacher)": True})
def _(b):
    return ppo(b.ratio, b.lt - b.lb, 0.2, 0.2).mean()


@method("strong_teacher.corpus_distillation", share=0.4)
def _(b):
    return (0.6 * -b.ls + 0.4 * kl(b.t, b.s)).mean()


@method("minillm.minillm_without_text", discount=0.9)
def _(b):  # arXiv:2306.08543, eq. 5 to 9: discounts count from the token itself; whitened; the step itself once more, exactly
    gap, ahead = (b.lt - b.ls).detach(), []
    for i in range(len(gap)):
        later = [j for j in range(i, len(gap)) if b.of[j] == b.of[i]]
        ahead.append(sum(0.9 ** (j - i) * gap[j] for j in later) / len(later))
    ahead = torch.stack(ahead)
    advantage = (ahead - ahead.mean()) / (ahead.std(correction=0) + 1e-4)
    return (ppo(b.drift, advantage, 0.2, 0.2) + kl(b.s, b.t)).mean()


# A panel (arXiv:2605.01347): softmax of c / 100 over the members that answered; alike where one of them stated none.


def trust(b):
    weights = torch.zeros(len(SAID), len(MEMBERS))
    for c, said in enumerate(SAID):
        here = [m for m, (answered, _) in enumerate(said) if answered]
        stated = [said[m][1] for m in here]
        if here:
            scores = torch.zeros(len(here)) if None in stated else torch.tensor(stated) / 100.0
            weights[c, here] = scores.softmax(0)
    return weights[b.of].T


def of_panel(b, divergence):
    return b.sequence_mean(sum(w * divergence(t) for w, t in zip(trust(b), b.named)))


@method("mad.mad", panel=True)
def _(b):
    return of_panel(b, lambda t: jsd(t, b.s, 0.5))


@method("mad.mad_reverse", panel=True)
def _(b):
    return of_panel(b, lambda t: kl(b.s, t))


@method("mad.mad_top_k", panel=True, k=3)
def _(b):
    def renormalised(t):
        t, s, chosen = among(t, top(t, 3)), among(b.s, top(t, 3)), top(t, 3)
        m = (0.5 * t.exp() + 0.5 * s.exp()).log()
        return (0.5 * (t.exp() * (t - m) + s.exp() * (s - m)) * chosen).sum(-1)

    return of_panel(b, renormalised)


# Methods outside of the catalogue.


@method("abkd.abkd", alpha=0.2, beta=0.7)
def _(b):  # arXiv:2505.04560, eq. 7, p the teacher
    p, q, x, y = b.t.exp(), b.s.exp(), 0.2, 0.7
    inside = p**x * q**y - x / (x + y) * p ** (x + y) - y / (x + y) * q ** (x + y)
    return (-inside.sum(-1) / (x * y)).mean()


@method("gmpo.gmpo")
def _(b):  # arXiv:2507.20673, eq. 4: clipped log-ratio by log-ratio, on the side of the advantage
    losses = []
    advantage = b.grpo_advantage()
    for c in range(len(b.lengths)):
        here = b.of == c
        gap, a = (b.ls - b.lo)[here], advantage[here][0]
        bounded = torch.minimum(gap, gap.clip(-0.4, 0.4)) if a >= 0 else torch.maximum(gap, gap.clip(-0.4, 0.4))
        losses.append(-a * bounded.sum().div(len(gap)).exp())
    return torch.stack(losses).mean()


@method("sapo.sapo")
def _(b):  # arXiv:2511.20347: (4 / tau) sigmoid(tau (ratio - 1)), tau 1 for a positive advantage, else 1.05
    advantage = b.grpo_advantage()
    tau = torch.where(advantage > 0, 1.0, 1.05)
    return b.sequence_mean(-advantage * 4 / tau * torch.sigmoid(tau * (b.ratio - 1)))


# Weights by completion and by prefix.


@method("renio.renio")
def _(b):
    # `_compute_jsd_from_log_probs` (beta 0) and `_compute_weights_ratio38` of the authors' opsd_trainer.py: everything is at
    # temperature 1.1; entries are clamped to [0, 0.05] before they are summed.
    t, s = tempered(b, 1.1)
    per_token = (t.exp() * (t - s)).clamp(min=0, max=0.05).sum(-1)
    log_ratio = (s - t).gather(1, b.y[:, None])[:, 0].detach().clamp(max=2.5)
    chosen = log_ratio >= 0.8
    weights = []
    for c in range(len(b.lengths)):
        these = chosen & (b.of == c)
        weights.append((log_ratio * these)[b.of == c].sum() / these.sum().clamp(min=1))
    weights = torch.stack(weights).exp()
    weights = (weights / weights.mean()).clamp(max=10)
    per_sample = torch.stack([per_token[b.of == c].mean() for c in range(len(b.lengths))])
    return (per_sample * weights).mean()


def pruned(b, bad, step):
    """1 - step for each bad token up to here, not below 0; the importance-weighted estimator of the reverse divergence."""
    weights = []
    for i in range(len(bad)):
        before = sum(bool(bad[j]) for j in range(i + 1) if b.of[j] == b.of[i])
        weights.append(max(0.0, 1 - step * before))
    return (-torch.tensor(weights) * (b.lt - b.lb) * b.drift).mean()


@method("prune_opd.prune_opd", k=3, step_down=0.3)
def _(b):  # arXiv:2605.07804: less than 70% of the student's 3 most probable tokens are among the teacher's
    shared = (top(b.s, 3) & top(b.t, 3)).sum(-1) / 3
    return pruned(b, shared < 0.7, 0.3)


@method("prune_opd.prune_opd_nucleus", p=0.6, step_down=0.3)
def _(b):  # the token lies outside of the fewest teacher's tokens that hold 60%
    outside = []
    for i, row in enumerate(b.t.exp()):
        held, inside = 0.0, []
        for entry in row.argsort(descending=True).tolist():
            if held >= 0.6:
                break
            inside.append(entry)
            held += row[entry].item()
        outside.append(b.y[i].item() not in inside)
    return pruned(b, outside, 0.3)


@method("sod.sod_gated", least=0.2, most=0.9, steepness=2)
def _(b):  # arXiv:2605.07725: the better a sample did, the less the teacher adds
    outcome = b.grpo_advantage()
    guidance = 0.2 + 0.7 * torch.sigmoid(-2 * outcome)
    return ppo(b.ratio, outcome + guidance * (b.lt - b.ls).detach(), 0.2, 0.28).mean()


def uni_opd(b, lead, kept=slice(None)):
    """arXiv:2605.03677: what the right completions of a prompt lack of a lead of 0.4 over the wrong ones, half to each; the mean
    of those that are kept."""
    level = b.per_completion((b.lt - b.lb).detach())
    right, shift = b.reward_of_completion >= 1, torch.zeros(len(b.lengths))
    for g in range(len(LENGTHS)):
        here = b.group_of_completion == g
        missing = max(0.0, 0.4 - lead(level[here & right], level[here & ~right]).item())
        shift[here & right], shift[here & ~right] = missing / 2, -missing / 2
    usable = (b.ls - b.lt).abs() < 10
    return b.per_completion(usable * ppo(b.ratio, b.lt - b.lb + shift[b.of], 0.2, 0.28))[kept].mean()


@method("uni_opd.uni_opd", also={"available(teacher)": True})
def _(b):
    return uni_opd(b, lambda right, wrong: right.mean() - wrong.mean())


@method("uni_opd.uni_opd_strict", also={"available(teacher)": True})
def _(b):
    return uni_opd(b, lambda right, wrong: right.min() - wrong.max())


# Supports, bounds and selections of methods above.


def jsd_with_tail(t, s, chosen, beta):
    """All entries outside the chosen ones together are one more entry, on both sides and in the mixture."""
    rows = lambda p: torch.cat([p.exp() * chosen, (p.exp() * ~chosen).sum(-1, keepdim=True)], -1)
    p, q = rows(t), rows(s)
    m = beta * p + (1 - beta) * q
    term = lambda x: torch.where(x > 0, x * (x.clip(min=1e-300) / m.clip(min=1e-300)).log(), 0.0).sum(-1)
    return beta * term(p) + (1 - beta) * term(q)


def jsd_among(t, s, chosen, beta):
    p, q = among(t, chosen), among(s, chosen)
    m = (beta * p.exp() + (1 - beta) * q.exp()).log()
    return ((beta * p.exp() * (p - m) + (1 - beta) * q.exp() * (q - m)) * chosen).sum(-1)


def tempered(b, temperature):
    return [x.div(temperature).log_softmax(-1) for x in [b.teacher_logits, b.student_logits]]


@method("many_faces.reverse_partial", k=3)
def _(b):
    return b.sequence_mean(kl_raw(b.s, b.t, top(b.s, 3)))


@method("many_faces.reverse_detached", k=3)
def _(b):  # s (log s - log t) with the logarithm of s detached: its value is not the one that is logged, its gradient is
    chosen = top(b.s, 3)
    return b.sequence_mean(kl_generalized(b.s, b.t, chosen))


@method("many_faces.reverse_shared", k=3)
def _(b):
    chosen = top(b.s, 3) & top(b.t, 3)
    return b.sequence_mean(torch.where(chosen.any(-1), kl_among(b.s, b.t, chosen | ~chosen.any(-1, keepdim=True)), 0.0))


@method("opsd.opsd_top_k", k=3)
def _(b):  # arXiv:2601.18734: logits / 1.1, the teacher's 3 most probable entries renormalised
    t, s = tempered(b, 1.1)
    return jsd_among(t, s, top(t, 3), 0.5).mean()


@method("opsd.opsd_bounded", most=0.02)
def _(b):  # `generalized_jsd_loss` of ReNIO's opsd_trainer.py: `jsd.clamp(max=token_clip)` on each entry, then `batchmean`
    t, s = tempered(b, 1.1)
    m = torch.logsumexp(torch.stack([s + math.log(0.5), t + math.log(0.5)]), 0)
    each = 0.5 * t.exp() * (t - m) + 0.5 * s.exp() * (s - m)
    assert (each > 0.02).any() and (each < 0.02).any()
    return each.clamp(max=0.02).sum() / len(each)


@method("vision_opd.vision_opd", k=3)
def _(b):
    return (b.ratio.detach().clip(max=2) * jsd_with_tail(b.t, b.s, top(b.s, 3), 0.5)).mean()


@method("gkd.gkd_normalized", beta=0.3)
def _(b):
    return b.sequence_mean(jsd(b.t, b.s, 0.3) / (0.3 * 0.7))


@method("g_opd.list_opd")
def _(b):  # 1 + log 5 / (logit 0.9993 - logit 0.5) times what the teacher has over the reference
    scale = 1 + math.log(5) / math.log(0.9993 / 0.0007)
    gain = scale * (b.lt - b.lr) - (b.ls - b.lr)
    return (-(b.mismatch.clip(max=5) * gain).detach() * b.ls).mean()


@method("vopd.vopd_top_k", k=3)
def _(b):  # arXiv:2605.07865: the baseline from the 3 most probable entries, renormalised; the score from all
    gain = b.lt - b.ls + kl_among(b.s, b.t, top(b.s, 3))
    return (-gain.detach() * b.ls).mean()


@method("drpo.drpo_plain", width=2)
def _(b):
    return drpo(b, over_group(b), False, 2)


@method("scope.scope", k=3)
def _(b):  # arXiv:2604.10688: by group and verdict a softmax of the mean log-probability, times how many; each verdict has its mean
    right, weights = b.reward_of_completion >= 1, torch.zeros(len(b.lengths))
    for g in range(len(LENGTHS)):
        for verdict, level in [(right, -b.per_completion(b.ls.detach())), (~right, b.per_completion(b.lt))]:
            here = (b.group_of_completion == g) & verdict
            weights[here] = level[here].softmax(0) * here.sum()
    loss = torch.where(right[b.of], -b.ls, kl_among(b.s, b.t, top(b.t, 3))) * weights[b.of]
    return loss[right[b.of]].mean() + loss[~right[b.of]].mean()


@method("tip.tip_confident", keep=0.25)
def _(b):
    h = entropy(b.s).detach() / math.log(ENTRIES)
    h = minmax(h.clip(max=h.quantile(0.98)))
    d = minmax(kl(b.t, b.s).detach())
    best = (d * (1 - h)).topk(len(h) // 4).indices
    return kl(b.s, b.t)[best].mean()


@method("tip.tip_rewarded", tau=0.5)
def _(b):
    h = entropy(b.s).detach() / math.log(ENTRIES)
    h = minmax(h.clip(max=h.quantile(0.98)))
    d = minmax(kl(b.t, b.s).detach())
    best = torch.zeros(len(h), dtype=bool)
    best[(h + d - h * d).topk(len(h) // 2).indices] = True
    # The worker of the code (`mb_sample_weights`): the mean of each sample, then their mean by weight.
    weights = torch.softmax(b.reward_of_completion / 0.5, 0) * len(b.lengths)
    rows = [c for c in range(len(b.lengths)) if best[b.of == c].any()]
    assert len(rows) == len(b.lengths)
    samples = torch.stack([kl(b.s, b.t)[best & (b.of == c)].mean() for c in rows])
    return (samples * weights).sum() / weights.sum()


@method("strong_teacher.corpus_distillation_gated", share=0.4)
def _(b):
    return (0.6 * -b.ls + 0.4 * (b.lt > b.ls) * kl(b.t, b.s)).mean()


@method("zppo.zppo_loss")
def _(b):  # catalogue A1.6: compared in the group, then over the batch among the completions of groups that tell something
    outcome = torch.zeros(len(b.lengths))
    telling = torch.zeros(len(b.lengths), dtype=torch.bool)
    for g in range(len(LENGTHS)):
        here = b.group_of_completion == g
        rewards = b.reward_of_completion[here]
        outcome[here] = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        telling[here] = bool(rewards.std() > 0)
    among_telling = outcome[telling]
    advantage = torch.where(telling, (outcome - among_telling.mean()) / (among_telling.std() + 1e-4), 0.0)
    return ppo(b.ratio, advantage[b.of], 0.2, 0.28).mean()


@method("video_opd.video_opd")
def _(b):
    return b.sequence_mean(-(b.lt - b.ls).detach() * b.drift)


# Teachers by name, beside the routed one.


@method("erpd.extreme", side=-1)
def _(b):
    return (b.grpo_advantage() * b.ls).mean()


@method("erpd.erpd", named=["strong"], clip_low=0.2, clip_high=0.28)
def _(b):  # arXiv:2605.25582: the score is the stronger policy's log-ratio to the anchor
    (strong,) = b.named_taken
    return ppo(b.ratio, strong - b.lr, 0.2, 0.28).mean()


@method("erpd.erpd_signed", named=["strong", "weak"], away=0.5, clip_low=0.2, clip_high=0.28)
def _(b):
    strong, weak = b.named_taken
    return ppo(b.ratio, strong - b.lr - 0.5 * (weak - b.lr), 0.2, 0.28).mean()


@method("v_zero.v_zero", named=["near", "far"])
def _(b):
    # arXiv:2606.25319, `compute_relative_evidence_opd_weights` and `distillation_loss` of the authors' code, with k1 as in their
    # script: no floor acts there. Standardised with this library's 1e-4, theirs is 1e-6.
    plus, minus = b.named_taken
    delta = plus - minus
    scores = b.per_completion(delta.relu() - 1.0 * (-delta).relu())
    weights = torch.zeros(len(b.lengths))
    for g in range(len(LENGTHS)):
        here = b.group_of_completion == g
        centered = scores[here] - scores[here].mean()
        weights[here] = (1 + 0.5 * centered / (centered.square().mean().sqrt() + 1e-4)).clamp(0, 2)
    losses = (b.ls.detach() - b.lt).clamp(-10, 10) * weights[b.of]
    return ppo(b.ratio, -losses, 0.2, 0.2).mean()  # token-mean


@method("dopd.dopd", named=["guide", "insider"], k=3)
def _(b):  # catalogue A1.1: four cases by the gap of the two and by who gives the token more than it does on average
    (guide, insider), (lg, li) = b.named, b.named_taken
    gap, sure = (lg - li).abs(), [lp.exp() >= lp.exp().mean() for lp in [lg, li]]
    to_guide = 0.6 * kl_with_tail(b.s, guide, top(guide, 3))
    to_insider = kl_with_tail(b.s, insider, top(insider, 3))
    both_ways, losses = jsd(guide, b.s, 0.5), []
    for i in range(len(gap)):
        far, g, s = bool(gap[i] >= gap.mean()), bool(sure[0][i]), bool(sure[1][i])
        if far and g and not s:
            losses.append(both_ways[i])
        elif far and s and not g:
            losses.append(0.6 * to_insider[i])
        elif g:
            losses.append(to_guide[i])
        elif s or not far:
            losses.append(0.3 * to_insider[i])
        else:
            losses.append(0.0 * b.ls[i])
    return b.sequence_mean(torch.stack(losses))


@method("vpd.follow", named=["guide"])
def _(b):
    return b.sequence_mean(kl(b.s, b.named[0]))


extrapolated = lambda position: 0.2 + 0.1 * position


@method("aligndistil.aligndistil", also={"star.w": extrapolated}, named=["star"])
def _(b):  # arXiv:2503.02832: to a composed teacher, token by token the less the more was extrapolated
    return b.sequence_mean(0.1 / extrapolated(b.position) * kl(b.s, b.named[0]))


@method("tcod.tcod_sequence_loss", also={"available(teacher)": True, "turns": TURNS})
def _(b):  # `seq-mean-token-mean` of a batch whose rows are turns (`MultiTurnOpdAdvantage`)
    loss, rows, first = ppo(b.ratio, b.lt - b.lb, 0.2, 0.2), [], 0
    for n in sum(TURNS, []):
        rows.append(loss[first : first + n].mean())
        first += n
    return torch.stack(rows).mean()


@method("caopd.caopd_unsure", keep=0.25, skipped=1)
def _(b):
    return caopd(b, 1, 0.25)


@method("ccopd.ccopd_loss", also={"span.final_turn": lambda position: position >= 2})
def _(b):  # arXiv:2605.30251: a sum over the final turn; a completion without one takes no part
    here = b.position >= 2
    sums = [kl(b.s, b.t)[here & (b.of == c)].sum() for c in range(len(b.lengths)) if (here & (b.of == c)).any()]
    return torch.stack(sums).mean()


# Drafts: the first two tokens of a completion stood, the others are of a draft from its first rejected token on.
drafts = {"accepted": lambda position: position < 2, "offset": lambda position: (position - 1).clip(min=0)}


def joint(b, loss):
    """Both streams over one denominator: a rejected token is worth 2 * 0.9^(offset - 1) of the others (arXiv:2605.29343)."""
    worth = torch.where(b.position < 2, 1.0, 2 * 0.9 ** (b.position - 2))
    return (worth * loss).sum() / worth.sum()


@method("draft_opd.draft_opd", also=drafts)
def _(b):  # the Bernoulli divergence of the drafted token
    p, q = b.lt.exp(), b.ls.exp()
    return joint(b, p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log()))


@method("draft_opd.draft_opd_k3", also=drafts)
def _(b):
    gap = (b.lt.clip(min=-10) - b.ls.clip(min=-10)).clip(-10, 10)
    return joint(b, gap.exp() - 1 - gap)


@method("draft_opd.draft_opd_tv", also=drafts)
def _(b):
    return joint(b, 0.5 * (b.t.exp() - b.s.exp()).abs().sum(-1))

ADVISED = {  # the peer is right about the second prompt only, and some completions have no advice, or no attempt to show
    "peer.correct": [True, False, False, True, False, True],
    "available(tutor)": [True, True, False, True, False, True],
    "available(fallback)": [True, False, True, True, True, False],
}


@method("opcod.co_distillation", also=ADVISED, named=["tutor", "fallback"], reliable=0.5, k=3)
def _(b):
    # arXiv:2606.14368 on SDPO's loss: the student's 3 likeliest entries and one for all others, ratio at most 2; the mean counts
    # the tokens of `self_distillation_mask`, those that have something to read.
    right, advised, shown = (torch.tensor(ADVISED[name]) for name in ADVISED)
    likely = b.s.detach().topk(3, -1).indices

    def with_tail(logp):
        inside = logp.gather(1, likely)
        rest = logp.exp().sum(-1) - inside.exp().sum(-1)
        return torch.cat([inside, rest.log()[:, None]], -1)

    losses, mask = [], []
    for i, c in enumerate(b.of.tolist()):
        trusted = right[b.group_of_completion == b.group_of_completion[c]].double().mean() >= 0.5
        to = 0 if trusted and advised[c] else 1
        mask.append(float(to == 0 or shown[c]))
        losses.append(jsd(with_tail(b.named[to]), with_tail(b.s), 0.5)[i])
    loss, mask = b.ratio.detach().clip(max=2) * torch.stack(losses), torch.tensor(mask)
    assert 0 < mask.sum() < len(mask)
    return (loss * mask).sum() / mask.sum()


@method("kl_penalty.adaptive_kl_rl", target=2, start=0.3)
def _(b):  # arXiv:1909.08593, eq. 2 and the controller of its section 2.2; eq. 7 of PPO on the advantage of RLOO
    distance = b.per_completion(b.lb - b.lr, "sum")
    charged, g = b.reward_of_completion - 0.3 * distance, b.group_of_completion
    others = torch.stack([charged[(g == g[c]) & (torch.arange(len(g)) != c)].mean() for c in range(len(g))])
    error = ((distance.mean() - 2) / 2).clip(-0.2, 0.2)
    return ppo(b.ratio, (charged - others)[b.of], 0.2, 0.2).mean(), {"beta.next": 0.3 * (1 + 0.1 * error.item())}


@method("sod.sod", also={"turns": TURNS})
def _(b):  # arXiv:2605.07725: the teacher is trusted the less, the further apart the two are in a turn than in the first one
    trust = []
    for c, turns in enumerate(TURNS):
        drifts = [(b.ls - b.lt).abs()[b.of == c][sum(turns[:i]):][:n].mean().item() for i, n in enumerate(turns)]
        trust += [min((drifts[0] + 1e-6) / (drift + 1e-6), 1.2) for drift, n in zip(drifts, turns) for _ in range(n)]
    advantage = b.grpo_advantage() + torch.tensor(trust) * (b.lt - b.lb).detach()
    return ppo(b.ratio, advantage, 0.2, 0.28).mean()


# A loss is the sum over its batches: numbers are of one of them.


def brts(b):  # catalogue A1.28: each candidate's log-ratio is its reward, weighted by its renormalised probability
    chosen = top(b.s, 3)
    return kl_generalized(b.s, b.t, chosen) / (b.s.detach().exp() * chosen).sum(-1)


@method("brts.brts", terms=["own"], k=3)
def _(b):
    return brts(b).mean()


@method("brts.brts.taught", terms=["taught"], k=3)
def _(b):
    return 0.05 * brts(b).mean()


LOSSES = {"loss.imitate": 0.8, "loss.preserve": 0.5}


@method("raft.raft.imitate", terms=["imitate"], run=LOSSES, named=["insider"], k=3, temperature=2, rate=0.9)
def _(b):
    return b.sequence_mean(-b.ls)


@method("raft.raft", terms=["preserve"], run=LOSSES, named=["insider"], k=3, temperature=2, rate=0.9)
def _(b):  # catalogue A1: at the first step a moving average is the number itself
    insider, student = [x.div(2).log_softmax(-1) for x in [b.named_logits[0], b.student_logits]]
    return 0.8 / 0.5 * b.sequence_mean(kl_among(insider, student, top(insider, 3)))


def skew_of(b, x, y, usual):
    """arXiv:2503.07067, eq. 8: the smaller, the further the text's own side is ahead of what is usual."""
    ahead = b.per_completion(x.detach()).exp() - b.per_completion(y.detach()).exp()
    return (1 - 0.9 * usual / ahead).clip(0.01, 0.1)[b.of][:, None]


# At step 3 of 10 a ramp from 1 to 1.5 over the first half is 1.3.
@method("distillm.distillm2", terms=["imitate"], usual_teacher=0.02, usual_student=0.03)
def _(b):
    a = skew_of(b, b.lt, b.ls, 0.02)
    return 0.7 * b.sequence_mean(kl(b.t, (a * b.t.exp() + (1 - a) * b.s.exp()).log()))


@method("distillm.distillm2.correct", terms=["correct"], usual_teacher=0.02, usual_student=0.03)
def _(b):
    a = skew_of(b, b.ls, b.lt, 0.03)
    return 1.3 * b.sequence_mean(kl(b.s, (a * b.s.exp().detach() + (1 - a) * b.t.exp()).log()))


@method("minillm.minillm", terms=["long_run", "step"], plain_weight=0.3, discount=0.9)
def _(b):
    return METHODS["minillm.minillm_without_text"][0](b)


@method("minillm.minillm.language", terms=["language"], plain_weight=0.3, discount=0.9)
def _(b):
    return -0.3 * b.ls.mean()


@method("open_mopd.open_mopd", k=3)
def _(b):  # arXiv:2608.19098: a domain's share is its target times its mean signal against that of all, within bounds
    loss = kl_among(b.s, b.t, top(b.s, 3))
    domains = [b.domain == d for d in range(len(DOMAINS))]
    signal = torch.stack([loss.detach()[here].mean() for here in domains])
    wanted = 1 / 3 * (signal / signal.mean()).clip(0.05, 20)
    # Targets are a third each, of what is now two domains: the loss has two thirds of its size.
    shares = 2 / 3 * wanted / wanted.sum()
    return sum(share * loss[here].mean() for share, here in zip(shares, domains))


@method("vpd.unpaired_preference", named=["policy"], rate=0.9, beta=0.2)
def _(b):  # arXiv:2605.15113: right attempts above the middle of the right ones and the wrong ones, wrong ones below
    lead = 0.2 * b.per_completion(b.ls - b.named_taken[0], "sum")
    right = b.reward_of_completion >= 1
    middle = ((lead[right].mean() + lead[~right].mean()) / 2).detach()
    softplus = torch.nn.functional.softplus
    return softplus(middle - lead[right]).mean() + softplus(lead[~right] - middle).mean()


@method("cross_tokenizer.uld", also={"size(matched)": lambda position: (position > 0) * 2.0})
def _(b):  # arXiv:2402.12030: the distance of sorted probabilities, where a token of both begins
    apart = (b.s.exp().sort(-1, descending=True)[0] - b.t.exp().sort(-1, descending=True)[0]).abs().sum(-1)
    return apart[b.position > 0].mean()


# What is drawn at random, from numbers between 0 and 1 that stand for the draw.
DRAWN = torch.rand(max(sum(LENGTHS, [])), generator=torch.Generator().manual_seed(2604)).round(decimals=6)


@method("tip.tip_drawn", also={"uniform 0": lambda position: DRAWN[position]}, unsure=0.7, disagree=1.3)
def _(b):  # the sampler of the code of arXiv:2604.14084: half of the tokens, by h^0.7 (jsd / ln 2)^1.3, without replacement
    chance = (entropy(b.s) / math.log(ENTRIES)) ** 0.7 * (jsd(b.t, b.s, 0.5) / math.log(2)) ** 1.3
    # Those that come first, each after a time that is exponential with its chance as rate: as if drawn one by one.
    arrival = -(1 - DRAWN[b.position]).log() / chance.detach()
    return kl(b.s, b.t)[arrival.topk(len(arrival) // 2, largest=False).indices].mean()


KEPT = [0.3, 0.2, 0.9, 0.6, 0.1, 0.8]


@method("uni_opd.uni_opd_balanced", also={"available(teacher)": True, "uniform 0": KEPT})
def _(b):  # arXiv:2605.03677: the side of a prompt with more completions is thinned to the other's size
    right, kept = b.reward_of_completion >= 1, torch.zeros(len(b.lengths), dtype=torch.bool)
    for g in range(len(LENGTHS)):
        sides = [(b.group_of_completion == g) & side for side in [right, ~right]]
        for side in sides:
            score = torch.tensor(KEPT).masked_fill(~side, -1)
            kept[score.topk(min(int(side.sum()) for side in sides)).indices] = True
    assert kept.sum() == 4
    return uni_opd(b, lambda right, wrong: right.mean() - wrong.mean(), kept)


@method("many_faces.reverse_short", terms=["seek", "end"], ending=0.3, imitation=0.2, longest=4, k=3)
def _(b):  # arXiv:2605.11182: minus 0.3 position / 4 log p(end), the end being the last entry; longer completions than 4
    # tokens have no loss, and count in the mean as those of the authors' code do.
    seek = kl_generalized(b.s, b.t, top(b.s, 3)) - 0.3 * b.position / 4 * b.s[:, -1]
    return (b.per_completion(seek) * (b.lengths <= 4)).mean()


@method("many_faces.reverse_short.imitate", terms=["imitate"], ending=0.3, imitation=0.2, longest=4, k=3)
def _(b):  # on the teacher's completions, of any length
    return b.sequence_mean(-0.2 * b.ls)


ALIGNED = {"size(matched)": lambda position: (position != 1) * 4.0}


@method("cross_tokenizer.gold", also=ALIGNED, run={"matched": [0, 2, 3, 6]}, beta=0.3)
def _(b):  # catalogue B5, GOLD: both vocabularies have 4 of 7 entries; where a token of both begins, not at the second
    same = torch.tensor([True, False, True, True, False, False, True])
    t, s = b.t.exp(), b.s.exp()
    m = 0.3 * t + 0.7 * s
    matched = ((0.3 * t * (t / m).log() + 0.7 * s * (s / m).log()) * same).sum(-1)
    ranked = lambda p: p[:, ~same].sort(-1, descending=True)[0]
    return (4 / 7 * matched + 3 / 7 * (ranked(t) - ranked(s)).abs().sum(-1))[b.position != 1].mean()


# Of 4 continuations each, of the blocks of a completion's tokens; tokens outside of them have none.
ALIKE = [[1.25, 3.5], [0.5, 4.0], [2.75, 0.0], [3.0, 1.5], [2.25, 0.75], [0.25, 2.0]]


def blocks_of(b, most, width):
    """Completion by completion: runs of tokens that lie less than `width` behind one of the `most` highest entropies."""
    unsure, runs = entropy(b.s).tolist(), []
    for c, n in enumerate(b.lengths.tolist()):
        here = (b.of == c).nonzero()[:, 0].tolist()
        first = sorted(range(n), key=lambda t: -unsure[here[t]])[:most]
        inside = [t for t in range(n) if any(f <= t < f + width for f in first)]
        runs.append([])
        for t in inside:
            if runs[-1] and runs[-1][-1][-1] == here[t] - 1:
                runs[-1][-1].append(here[t])
            else:
                runs[-1].append([here[t]])
    return runs


def alike(b):
    out = torch.full([len(b.y)], 0.125)
    for c, runs in enumerate(blocks_of(b, 2, 2)):
        for number, run in enumerate(runs):
            out[run] = ALIKE[c][number]
    return {"agreement(teacher, samples: 4, by: edit)": [out[b.of == c].tolist() for c in range(len(b.lengths))]}


@method("omniopd.omniopd", also=alike, pieces=2, width=2, stay=0.3, samples=4, prior=2)
def _(b):  # arXiv:2606.01476: the share of continuations that agree, smoothed by the student's own probability, weighs a block
    loss, outside = 0.0, torch.ones(len(b.y), dtype=bool)
    for c, runs in enumerate(blocks_of(b, 2, 2)):
        for number, run in enumerate(runs):
            prior = b.ls[run].detach().exp().prod() ** (1 / len(run))
            loss = loss - (ALIKE[c][number] + 2 * prior) / (4 + 2) * b.ls[run].sum()
            outside[run] = False
    return (loss + 0.3 * kl(b.r, b.s)[outside].sum()) / len(b.lengths)


def estimated(b, value, trace):
    """Generalised advantage estimation (arXiv:1506.02438, eq. 16) at discount 1: the reward comes with the last token."""
    advantage, value = [0.0] * len(value), value.detach()
    for i in reversed(range(len(value))):
        if i + 1 == len(value) or b.of[i + 1] != b.of[i]:
            advantage[i] = (b.reward[i] - value[i]).item()
        else:
            advantage[i] = (value[i + 1] - value[i]).item() + trace * advantage[i + 1]
    return torch.tensor(advantage)


expects = lambda position: 0.1 * position - 0.2


@method("ppo.ppo", also={"critic.value": expects})
def _(b):
    advantage = estimated(b, expects(b.position), 0.95)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-4)
    return ppo(b.ratio, advantage, 0.2, 0.2).mean()


@method("ppo.ppo_critic", scores="completions")
def _(b):
    seen = estimated(b, b.value, 0.95) + b.value.detach()
    return (0.5 * (b.value - seen) ** 2).mean()


SCORES = {
    "reward.format": [1.0, 1.0, 0.0, 0.5, 1.0, 1.0],
    "reward.accuracy": [1.0, 0.0, 1.0, 0.0, 1.0, 1.0],
    "score(judge, on: span.caption)": [0.3, -1.2, 2.0, 0.7, 0.1, -0.4],
    "score(judge, on: span.think)": [-0.6, 0.2, 0.9, 1.1, -0.3, 0.5],
}


def standard(b, x):
    """In its group, by the sample's deviation."""
    x = torch.tensor(x)
    out = torch.zeros_like(x)
    for g in range(len(LENGTHS)):
        here = b.group_of_completion == g
        out[here] = (x[here] - x[here].mean()) / (x[here].std() + 1e-4)
    return out


@method("prism.prism", also=SCORES)
def _(b):  # catalogue B1.5: each part is standardised in its group by itself; a wrong form is below the worst of its group
    advantage = 0
    for part in ["caption", "think"]:
        scores = list(SCORES[f"score(judge, on: span.{part})"])
        form = [x > 0 for x in SCORES["reward.format"]]
        for c in range(len(scores)):
            group = [x for x, g, fits in zip(scores, b.group_of_completion, form) if fits and g == b.group_of_completion[c]]
            scores[c] = scores[c] if form[c] else min(group) - 1
        advantage = advantage + 0.5 * standard(b, scores)
    return (-advantage[b.of] * b.ls).mean()


@method("prism.prism_gated", also=SCORES, weight_of_judge=0.3)
def _(b):  # the judge counts where form and answer are right
    seen, reasoned = (standard(b, SCORES[f"score(judge, on: span.{part})"]) for part in ["caption", "think"])
    right = (torch.tensor(SCORES["reward.format"]) > 0) & (b.reward_of_completion >= 1)
    advantage = standard(b, SCORES["reward.accuracy"]) + right * 0.3 * (seen + reasoned)
    return (-advantage[b.of] * b.ls).mean()


# A caption is the first token; the thoughts are the next two, up to the end of a text that has no more.
SPANS = {"span.caption": lambda position: position == 0, "span.think": lambda position: (position == 1) | (position == 2)}


@method("prism.tell_apart", also=SPANS | {"reward.format": [1.0, 0.5, 1.0, 0.0]}, scores="pairs")
def _(b):  # -log sigmoid(D(theirs) - D(ours)) for each of two parts, read at the token behind it; the second pair has a wrong form
    loss = 0
    for behind in [1, 3]:
        scores = [b.value[b.of == c][min(behind, n - 1)] for c, n in enumerate(b.lengths.tolist())]
        loss = loss - (scores[0] - scores[1]).sigmoid().log()
    return loss


@method("drpo.drpo_distill")
def _(b):
    return drpo(b, to_teacher(b), True, 12.5)


@method("drpo.drpo_plain_distill", width=2)
def _(b):
    return drpo(b, to_teacher(b), False, 2)


@method("drpo.dppo_distill", bound=0.02)
def _(b):
    return dppo(b, to_teacher(b), 0.02)


def main():
    folder = pathlib.Path(__file__).parent / "numbers"
    for seed, (name, (loss, also, panel, named, terms, run, scores, arguments)) in enumerate(METHODS.items()):
        batch = Batch(seed + 1, also, panel, named, scores)
        prompts = batch.json()
        value, more = loss(batch), {}  # what comes out besides, by name
        if isinstance(value, tuple):
            value, more = value
        by, of = ("student.value", batch.value) if scores else ("logits", batch.student_logits)
        (gradient,) = torch.autograd.grad(value, of)
        numbers = {
            "step": 3,
            "steps": 10,
            "arguments": arguments,
            **({"terms": terms} if terms else {}),
            **run,
            "prompts": prompts,
            "expected": {"loss": value.item(), f"d loss / d {by}": gradient.tolist()} | more,
        }
        (folder / f"{name}.json").write_text(json.dumps(numbers) + "\n")


main()
