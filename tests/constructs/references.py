#!/usr/bin/env python3
"""Losses of the objectives beside this file in float64, and their gradients by torch's autograd.

Each function below is a loss from its formula; nothing here comes from mopd. `python references.py` writes a file of numbers for
each into `numbers/`, with the loss and its gradient by the student's logits as what is expected, to 1e-8:

    mopd try tests/constructs/gates.mopd either_way tests/constructs/numbers/gates.either_way.json

Needs torch; the files are kept, so that the test does not.
"""

import json
import math
import pathlib

import torch

torch.set_default_dtype(torch.float64)

ENTRIES = 7
# Prompts, with the length of each of their completions, and the reward of each.
LENGTHS = [[5, 3, 4], [6, 2, 4]]
REWARDS = [[1.0, 0.0, 0.25], [0.5, 0.75, 0.125]]
DOMAINS = ["sums", "words"]
METHODS = {}


class Batch:
    """Per token: `s`, `t` are log-probabilities of all entries by student and teacher, `y` is the entry taken, `of` the
    completion. `draws` are random numbers, `[draw][element]`. `teachers` are the names of several teachers; `guides` are
    their log-probabilities, and `t` is the first of them."""

    def __init__(self, seed, draws, teachers=("teacher",)):
        draw = torch.Generator().manual_seed(seed)
        self.lengths = sum(LENGTHS, [])
        self.of = torch.tensor([c for c, n in enumerate(self.lengths) for _ in range(n)])
        self.group_of_completion = torch.tensor([g for g, lengths in enumerate(LENGTHS) for _ in lengths])
        self.reward_of_completion = torch.tensor(sum(REWARDS, []))
        n = len(self.of)
        logits = lambda spread: (torch.randn(n, ENTRIES, generator=draw) * spread).round(decimals=6)
        self.student_logits = logits(1.0).requires_grad_()
        self.teachers = {name: logits(1.2) for name in teachers}
        self.teacher_logits = self.teachers[teachers[0]]
        self.y = torch.randint(0, ENTRIES, (n,), generator=draw)
        self.s = torch.log_softmax(self.student_logits, -1)
        self.t = torch.log_softmax(self.teacher_logits, -1)
        self.guides = [torch.log_softmax(logits, -1) for logits in self.teachers.values()]
        self.ls, self.lt = (x.gather(-1, self.y[:, None]).squeeze(-1) for x in [self.s, self.t])
        per = {"token": n, "sequence": len(self.lengths), "group": len(LENGTHS)}
        # Multiples of 2^-20, which single precision has exactly.
        whole = lambda count: torch.randint(0, 2**20, (count,), generator=draw) / 2**20
        self.axes, self.draws = draws, [whole(per[axis]) for axis in draws]

    def json(self):
        prompts, completion, first = [], 0, 0
        for group, lengths in enumerate(LENGTHS):
            completions = []
            for length in lengths:
                rows = slice(first, first + length)
                made = {
                    "tokens": self.y[rows].tolist(),
                    "student": {"logits": self.student_logits[rows].tolist()},
                    **{name: {"logits": logits[rows].tolist()} for name, logits in self.teachers.items()},
                    "reward": self.reward_of_completion[completion].item(),
                }
                for number, (axis, values) in enumerate(zip(self.axes, self.draws)):
                    if axis == "group":
                        continue
                    of = values[rows].tolist() if axis == "token" else values[completion].item()
                    made[f"uniform {number}"] = of
                completions.append(made)
                completion, first = completion + 1, first + length
            of_group = zip(self.axes, self.draws)
            uniform = {f"uniform {k}": x[group].item() for k, (axis, x) in enumerate(of_group) if axis == "group"}
            domain = {"domain": DOMAINS[group]} if len(self.teachers) > 1 else {}
            prompts.append(domain | {"completions": completions} | uniform)
        return prompts

    def by_sequence(self, x):
        """The mean of each completion's tokens, then of the completions."""
        return torch.stack([x[self.of == c].mean() for c in range(len(self.lengths))]).mean()


def method(name, *draws, teachers=("teacher",), earlier=0, **arguments):
    """A loss of a batch. With `earlier` steps it gets their batches first, and the step's own last."""

    def add(loss):
        METHODS[name] = (loss, draws, teachers, earlier, arguments)
        return loss

    return add


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def entropy(p):
    return -(p.exp() * p).sum(-1)


def at(logits, temperature):
    return torch.log_softmax(logits / temperature, -1)


def best(scores, k):
    """A mask of the `k` largest entries of each row."""
    return torch.zeros_like(scores).scatter(-1, scores.topk(k).indices, 1.0).bool()


@method("tempered.softened")
def _(b):
    heat = 1 + entropy(b.t).clip(max=2)
    assert (entropy(b.t) < 2).all()
    follow = kl(at(b.teacher_logits, heat[:, None]), at(b.student_logits, heat[:, None]))
    return b.by_sequence(heat**2 * follow), {}


@method("tempered.annealed", rate=0.25)
def _(b):
    s, t = at(b.student_logits, 1.5), at(b.teacher_logits, 1.5)
    inside = best(b.s.detach(), 4)

    def with_tail(x):
        return torch.stack([torch.cat([row[mask], row[~mask].logsumexp(0)[None]]) for row, mask in zip(x, inside)])

    apart = (entropy(b.s) - entropy(b.t)).mean().item()
    heat = min(max(1.5 * math.exp(0.25 * apart), 0.5), 4)
    return kl(with_tail(s), with_tail(t)).mean(), {"heat.next": heat}


def jsd(p, q, beta):
    m = torch.logaddexp(p + beta.log(), q + (1 - beta).log())
    beta = beta.squeeze(-1)
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


@method("skewed.leaning")
def _(b):
    ours, theirs = entropy(b.s).detach(), entropy(b.t)
    beta = ours / (ours + theirs)
    return b.by_sequence(jsd(b.t, b.s, beta[:, None])), {}


@method("skewed.steered")
def _(b):
    beta = torch.full((len(b.of), 1), 0.4)
    apart = (entropy(b.t) - entropy(b.s)).mean().item()
    moved = min(max(0.4 + 0.2 * apart, 0.05), 0.95)
    return b.by_sequence(jsd(b.t, b.s, beta) / (0.4 * 0.6)), {"beta.next": moved}


@method("skewed.sharpened")
def _(b):
    # The definition of Amari on the teacher's four best entries. Its derivative where both agree is 0, so that nothing is added.
    alpha = (0.2 + 0.6 * b.ls.exp().detach())[:, None]
    p, q = b.s.exp(), b.t.exp()
    entries = (p**alpha * q ** (1 - alpha) - alpha * p - (1 - alpha) * q) / (alpha * (alpha - 1))
    return (entries * best(b.t, 4)).sum(-1).mean(), {}


@method("gates.either_way", "token")
def _(b):
    sure = b.t.exp().max(-1).values
    seek = b.draws[0] < sure
    assert 0 < seek.sum() < len(seek)
    return b.by_sequence(torch.where(seek, kl(b.s, b.t), kl(b.t, b.s))), {}


@method("gates.thinned", "token", "sequence")
def _(b):
    left = torch.zeros(len(b.of), dtype=torch.bool)
    for c, n in enumerate(b.lengths):
        rows = (b.of == c).nonzero().squeeze(-1)
        left[rows[b.draws[0][rows].topk(math.ceil(n / 2)).indices]] = True
    counts = (b.draws[1] >= 0.5)[b.of]
    assert 0 < counts.sum() < len(counts)
    return (kl(b.t, b.s) * counts)[left].mean(), {}


@method("spread.floored")
def _(b):
    moved = max(0.1 + 0.5 * (1.2 - entropy(b.s).mean().item()), 0)
    return b.by_sequence(kl(b.s, b.t)) - 0.1 * b.by_sequence(entropy(b.s)), {"price.next": moved}


def tsallis(p, order):
    return ((p - p**order) / (order - 1)).sum(-1)


@method("spread.tsallis")
def _(b):
    order = 1.5 + b.t.exp().max(-1, keepdim=True).values
    inside = best(b.t, 3)
    p = torch.stack([row[mask] / row[mask].sum() for row, mask in zip(b.s.exp(), inside)])
    return b.by_sequence(kl(b.t, b.s) - 0.3 * tsallis(b.s.exp(), order) + 0.1 * tsallis(p, 2.0)), {"left.next": 0.9}


@method("robust.median_policy")
def _(b):
    gap = (b.lt - b.ls).detach()
    bound = torch.stack([gap[b.of == c].std(correction=0) for c in range(len(b.lengths))])[b.of]
    middle = torch.tensor([sorted(rewards)[1] for rewards in REWARDS])
    ahead = (b.reward_of_completion - middle[b.group_of_completion])[b.of]
    advantage = gap.sign() * torch.minimum(gap.abs(), bound) + 0.5 * ahead
    return b.by_sequence(-advantage * b.ls), {"bound": [gap[b.of == c].std(correction=0).item() for c in range(6)]}


@method("robust.climbing")
def _(b):
    ahead = []
    for rewards in REWARDS:
        for own in rewards:
            worse = [other for other in rewards if other < own]
            ahead.append(own - (sum(worse) / len(worse) if worse else 0))
    ahead = torch.tensor(ahead)
    advantage = (ahead - ahead.mean()) / (ahead.std() + 0.25)
    return b.by_sequence(-advantage[b.of] * b.ls), {"ahead": ahead.tolist()}


@method("robust.shrinking")
def _(b):
    h = entropy(b.s).detach()
    most = torch.stack([
        h[b.of == c].quantile(1 - 0.5 * b.reward_of_completion[b.group_of_completion == g].mean())
        for c, g in enumerate(b.group_of_completion.tolist())
    ])
    follow = kl(b.t, b.s)
    left = (torch.minimum(h, most[b.of]) + follow.detach()).topk(math.ceil(0.6 * len(h))).indices
    loss = follow[left].mean()
    return loss, {"most": most.tolist(), "keep.next": 0.6 * (0.9 if loss < 1 else 1.1)}


GUIDES = ("guides first", "guides second")


@method("teachers.bandit", "group", "group", teachers=GUIDES, earlier=2)
def _(*batches):
    gains = [[0.5] * len(DOMAINS) for _ in GUIDES]
    for b in batches:
        # The numbers of the second teacher are drawn first.
        noise = [-(-draw.log()).log() for draw in reversed(b.draws)]
        score = torch.stack([4 * torch.tensor(gains[k]) + noise[k] for k in range(len(GUIDES))])
        taken = score.argmax(0)
        rewards = b.reward_of_completion.reshape(len(DOMAINS), -1).mean(1)
        loss = sum(b.by_sequence(kl(t, b.s) * (taken == k)[b.group_of_completion[b.of]]) for k, t in enumerate(b.guides))
        before = [list(gain) for gain in gains]
        for domain, arm in enumerate(taken.tolist()):
            gains[arm][domain] += 0.5 * (rewards[domain].item() - gains[arm][domain])
    assert before != [[0.5] * 2] * 2 and len(set(taken.tolist())) == 2, (before, taken)
    return loss, {f"gain[{name}].next": gain for name, gain in zip(GUIDES, gains)}


@method("teachers.hedged", teachers=GUIDES, earlier=1, rate=0.25)
def _(*batches):
    trust = torch.ones(len(GUIDES))
    for b in batches:
        share = trust / trust.sum()
        loss = sum(share[k] * kl(b.s, t).mean() for k, t in enumerate(b.guides))
        trust = trust * torch.tensor([math.exp(-0.25 * kl(t, b.s).mean().item()) for t in b.guides])
    return loss, {f"trust[{name}].next": x.item() for name, x in zip(GUIDES, trust)}


@method("teachers.handed_over", teachers=("first", "second"), earlier=2, near=1.25)
def _(*batches):
    passed, after = 0.0, []
    for b in batches:
        loss = b.by_sequence(kl(b.s, b.guides[int(passed)]))
        passed = 1.0 if kl(b.s, b.guides[0]).mean() < 1.25 else passed
        after.append(passed)
    return loss, {"passed.next": passed}


@method("buffers.remembered", earlier=3)
def _(*batches):
    last = [1.0] * 4
    for b in batches:
        h = entropy(b.s).detach()
        left = h > 0.9 * torch.tensor(last).quantile(2 / 3)
        even = -(b.s / ENTRIES).sum(-1) - math.log(ENTRIES)
        loss = (kl(b.t, b.s) + 0.05 * even)[left].mean()
        last = [h.mean().item()] + last[:3]
    assert 0 < left.sum() < len(left)
    return loss, {f"last[{i + 1}].next": x for i, x in enumerate(last)}


@method("buffers.damped", earlier=2, target=1.0)
def _(*batches):
    coefficient, before = 1.0, None
    for b in batches:
        apart = kl(b.s, b.t).mean().item()
        even = torch.full_like(b.s, -math.log(ENTRIES))
        beta = torch.full((len(b.of), 1), 0.3)
        near = jsd(even, b.s, beta)
        loss = b.by_sequence(-(b.lt - b.ls).detach() * b.ls + coefficient * near)
        going = apart - (apart if before is None else before)
        coefficient = min(max(coefficient * math.exp(0.5 * (apart - 1.0) + 0.25 * going), 0.1), 10)
        before = apart
    return loss, {"coefficient.next": coefficient}


@method("buffers.held", teachers=("teacher", "old"), earlier=2, most=0.9)
def _(*batches):
    price = 1.0
    for b in batches:
        gap = b.ls - b.guides[1].gather(-1, b.y[:, None]).squeeze(-1)
        loss = b.by_sequence(kl(b.t, b.s) + 0.5 * price * gap**2)
        moved = (gap.exp() - 1 - gap).mean()
        price = min(max(price * (1.5 if moved > 0.9 else 1 / 1.1), 0.1), 10)
    return loss, {"price.next": price}


def of_sequences(b, x):
    return torch.stack([x[b.of == c].mean() for c in range(len(b.lengths))])


def in_order(b, x):
    """The completions of each prompt, that with the largest number first."""
    for g in range(len(LENGTHS)):
        members = (b.group_of_completion == g).nonzero().squeeze(-1)
        yield members[x[members].argsort(descending=True)]


@method("listwise.listwise")
def _(b):
    score = 2 * of_sequences(b, b.ls)
    orders = in_order(b, of_sequences(b, b.lt))
    return torch.stack([sum(score[o[k:]].logsumexp(0) - score[o[k]] for k in range(2)) for o in orders]).mean(), {}


@method("listwise.surprised")
def _(b):
    opinion = of_sequences(b, b.lt)
    orders = in_order(b, b.reward_of_completion - 0.01 * torch.tensor(b.lengths))
    ahead = torch.stack([opinion[order[0]] - opinion[order].median() for order in orders])
    factor = (0.5 * ahead).exp()[b.group_of_completion[b.of]]
    return b.by_sequence(factor * kl(b.t, b.s)), {"ahead": ahead.tolist()}


def main():
    folder = pathlib.Path(__file__).parent / "numbers"
    for seed, (name, (loss, draws, teachers, earlier, arguments)) in enumerate(METHODS.items()):
        batches = [Batch(seed + 1 + 100 * step, draws, teachers) for step in range(earlier, -1, -1)]
        *before, prompts = [batch.json() for batch in batches]
        value, more = loss(*batches)
        (gradient,) = torch.autograd.grad(value, batches[-1].student_logits)
        numbers = {
            "step": 3,
            "steps": 10,
            "arguments": arguments,
            "tolerance": 1e-8,
            "prompts": prompts,
            "expected": {"loss": value.item(), "d loss / d logits": gradient.tolist()} | more,
        }
        if before:
            numbers["earlier"] = [{"prompts": of_step} for of_step in before]
        (folder / f"{name}.json").write_text(json.dumps(numbers) + "\n")


main()
