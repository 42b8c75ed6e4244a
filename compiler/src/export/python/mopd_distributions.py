"""Quantities per token that depend on whole next-token distributions: the signals that an objective reads, and the
live primitives, through which gradient flows.

Logits are `[tokens, vocabulary]` for each role that is read, with one row per completion token. Quantities are
specified as in the plan. Gradient flows only to the student's logits; supports are constants for the gradient.
"""

import torch

# The logit of a probability of 0. Finite, since differences of log-probabilities are multiplied by it.
NO_LOGIT = -1e30
# Above 0 in each precision.
LEAST_PROBABILITY = {torch.float64: 1e-100, torch.float32: 1e-37}


def tokenizer_ids(tokenizer, rows):
    """The number of ids, and those of them without a token. Entries of the logits from there on are padding.
    `transformers` may add tokens to a tokenizer for which the model has no row of the embedding."""
    ids = {number for number in tokenizer.get_vocab().values() if number < rows}
    entries = max(ids) + 1
    return entries, sorted(set(range(entries)) - ids)


def existing(logits, entries, absent):
    """The logits of the tokens that exist: padding rows of an embedding, and ids without a token, have probability 0."""
    logits = logits[..., :entries]
    return logits.index_fill(-1, torch.tensor(absent, device=logits.device), NO_LOGIT) if absent else logits


class Distributions:
    def __init__(
        self, logits, tokens, ends, temperature, sampling_temperature, summands, step, steps, precision=torch.float64
    ):
        """`logits` are by role, `tokens` the sampled ones, `ends` the ids that end a completion, each once.
        `temperature` is the policy's: it divides the logits in log-probabilities. `summands` are the functions of
        divergences that are sums over entries. Log-probabilities are computed in `precision`."""
        self.logits, self.tokens, self.ends = logits, tokens, ends
        self.temperature, self.sampling_temperature = temperature, sampling_temperature
        self.summands, self.step, self.steps = summands, step, steps
        self.precision, self.least, self.known = precision, LEAST_PROBABILITY[precision], {}

    def log_probabilities(self, role, temperature):
        """`old` and the sampler are the student before this step, which makes one update from its completions; the
        sampler is at the sampling temperature."""
        name = role_name(role)
        if name == "old":
            return self._log_softmax("student", temperature).detach()
        if name == "sampler":
            name, temperature = "student", temperature * self.sampling_temperature
            return self._log_softmax(name, temperature).detach()
        return self._log_softmax(name, temperature)

    def _log_softmax(self, name, temperature):
        # Values computed without gradient must not be reused where gradient flows.
        key = (name, temperature, torch.is_grad_enabled())
        if key not in self.known:
            self.known[key] = torch.log_softmax(self.logits[name].to(self.precision) / temperature, -1)
        return self.known[key]

    def scored(self, role):
        """Log-probabilities of the policy. The sampler has its sampling temperature, independent of the policy's."""
        return self.log_probabilities(role, 1.0 if role_name(role) == "sampler" else self.temperature)

    def taken(self, role):
        return self.scored(role).gather(-1, self.tokens[:, None])[:, 0]

    def ending(self, role):
        """Of any token that ends a completion."""
        return self.scored(role)[:, self.ends].logsumexp(-1)

    def signal(self, spec):
        with torch.no_grad():
            kind = spec["signal"]
            if kind == "logp":
                return self.taken(spec["role"])
            if kind == "end_logp":
                return self.ending(spec["role"])
            if kind == "entropy":
                logs = self.log_probabilities(spec["role"], 1.0)
                return -(logs.exp() * logs).sum(-1)
            if kind == "top1":
                return self.log_probabilities(spec["role"], 1.0).max(-1).values.exp()
            if kind == "rank":
                logs = self.log_probabilities(spec["role"], 1.0)
                return 1.0 + (logs > logs.gather(-1, self.tokens[:, None])).sum(-1)
            if kind == "overlap":
                sides = [self.entries({"support": "top_k", "role": spec[side], "k": spec["k"]}) for side in ("left", "right")]
                return (sides[0] & sides[1]).sum(-1) / spec["k"]
            if kind == "mass":
                return (self.log_probabilities(spec["role"], 1.0).exp() * self.entries(spec["support"])).sum(-1)
            if kind == "in_nucleus":
                entries = self.entries({"support": "nucleus", "role": spec["role"], "p": spec["p"]})
                return entries.gather(-1, self.tokens[:, None])[:, 0]
            if kind == "support_size":
                return self.entries(spec["support"]).sum(-1)
            if kind == "divergence":
                return self.divergence(spec)
        raise KeyError(f"no signal {kind}")

    def live(self, spec):
        kind = spec["live"]
        if kind == "logp":
            return self.taken("student")
        if kind == "end_logp":
            return self.ending("student")
        if kind == "divergence":
            return self.divergence(spec)
        if kind == "likelihood":
            best = self.log_probabilities(spec["of"], 1.0).argmax(-1, keepdim=True)
            return -self.log_probabilities("student", 1.0).gather(-1, best)[:, 0]
        if kind == "ranking":
            # -log of the probability to draw the role's likeliest entries in its order, without replacement.
            # `topk` has no order among equals.
            likeliest = torch.sort(self.log_probabilities(spec["role"], 1.0), dim=-1, descending=True, stable=True)
            order = likeliest.indices[:, : spec["k"]]
            logs = self.log_probabilities("student", 1.0)
            drawn = logs.gather(-1, order)
            behind = drawn.flip(-1).logcumsumexp(-1).flip(-1)
            outside = logs.scatter(-1, order, -torch.inf).logsumexp(-1, keepdim=True)
            return (torch.logaddexp(behind, outside) - drawn).sum(-1)
        raise KeyError(f"no live primitive {kind}")

    def entries(self, support):
        """The mask of the support, `[tokens, vocabulary]`. Roles select entries at temperature 1."""
        kind = support["support"]
        size = self.logits["student"].shape
        device = self.tokens.device
        if kind in ("full", "matched"):
            return torch.ones(size, dtype=torch.bool, device=device)
        if kind in ("sampled", "unmatched"):
            none = torch.zeros(size, dtype=torch.bool, device=device)
            return none if kind == "unmatched" else none.scatter(-1, self.tokens[:, None], True)
        if kind in ("union", "intersection"):
            parts = torch.stack([self.entries(part) for part in support["of"]])
            return parts.any(0) if kind == "union" else parts.all(0)
        with torch.no_grad():
            probabilities = self.log_probabilities(support["role"], 1.0).detach().exp()
            if kind == "top_k":
                least = torch.topk(probabilities, min(support["k"], size[-1]), dim=-1).values[:, -1:]
                larger, equal = probabilities > least, probabilities == least
                # Of equal probabilities, the entry of the lower id comes first.
                left = support["k"] - larger.sum(-1, keepdim=True)
                return larger | (equal & (torch.cumsum(equal, -1) <= left))
            # Entries of equal probability are included or excluded together.
            order = torch.sort(probabilities, dim=-1, descending=True)
            ascending = torch.flip(order.values, [-1])
            larger = size[-1] - torch.searchsorted(ascending, order.values, right=True)
            spent = torch.nn.functional.pad(torch.cumsum(order.values, -1), (1, 0)).gather(-1, larger)
            return torch.zeros(size, dtype=torch.bool, device=device).scatter(-1, order.indices, spent < support["p"])

    def side(self, side, temperature_of):
        """The log-probabilities of one side. `temperature_of` is a function of the role."""
        if "detached" in side:
            return self.side(side["detached"], temperature_of).detach()
        parts = [(weight, self.log_probabilities(role, temperature_of(role))) for weight, role in weighted(side)]
        if "role" in side:
            return parts[0][1]
        return sum(weight * logs.exp() for weight, logs in parts).clamp_min(self.least).log()

    def divergence(self, spec):
        entries = self.entries(spec["support"])
        sides = [spec["left"], spec["right"]]
        # The sampler's logits were divided by its temperature when it drew, so it is compared with the trained
        # policy at the policy's temperature, not with a model at temperature 1.
        sampled = any(role_name(role) == "sampler" for side in sides for _, role in weighted(side))

        def temperature_of(role):
            scale = self.temperature if sampled and role_name(role) != "sampler" else 1.0
            return spec["temperature"] * scale

        logs = [self.side(side, temperature_of) for side in sides]
        whole = entries.all(-1, keepdim=True)
        mass = spec["mass"]
        rests = [(log.exp() * ~entries).sum(-1) for log in logs]
        if mass == "renormalized":
            totals = [(log.exp() * entries).sum(-1, keepdim=True).log() for log in logs]
            logs = [torch.where(whole, log, log - total) for log, total in zip(logs, totals)]
        value = self._summand(spec, *logs)
        if mass == "generalized":
            value = value - logs[0].exp() + logs[1].exp()
        value = bounded(value, spec["clip_each"])
        value = torch.where(entries, value, torch.zeros_like(value)).sum(-1)
        if mass == "tail":
            # One entry for all that are left out, if any are.
            tails = [rest.clamp_min(self.least).log()[:, None] for rest in rests]
            tail = bounded(self._summand(spec, *tails), spec["clip_each"])[:, 0]
            value = value + torch.where(whole[:, 0], torch.zeros_like(tail), tail)
        return value

    def _summand(self, spec, left, right):
        if spec["divergence"] == "kl":
            return left.exp() * (left - right)
        p, q = (log.exp().clamp_min(self.least) for log in (left, right))
        return self.summands[spec["summand"]](p, q, p.detach(), q.detach(), self.step, self.steps)


def bounded(value, bound):
    return value if bound is None else torch.where(value > bound, torch.full_like(value, bound), value)


def weighted(side):
    """The roles of a side, with their weights."""
    if "detached" in side:
        return weighted(side["detached"])
    return [(1.0, side["role"])] if "role" in side else side["blend"]


def role_name(role):
    return role if isinstance(role, str) else f"scorer {role['scorer']}"
