"""Quantities per token that depend on whole next-token distributions: the signals that an objective reads, and the
live primitives, through which gradient flows.

Logits are `[tokens, vocabulary]` for each role that is read, with one row per completion token. Quantities are
specified as in the plan. Gradient flows only to the student's logits; supports are constants for the gradient.
"""

import torch

LEAST_PROBABILITY = 1e-100


class Distributions:
    def __init__(self, logits, tokens, end_token, temperature, sampling_temperature, summands, step, steps):
        """`logits` are by role, `tokens` the sampled ones. `temperature` is the policy's: it divides the logits in
        log-probabilities. `summands` are the functions of divergences that are sums over entries."""
        self.logits, self.tokens, self.end_token = logits, tokens, end_token
        self.temperature, self.sampling_temperature = temperature, sampling_temperature
        self.summands, self.step, self.steps = summands, step, steps
        self.known = {}

    def log_probabilities(self, role, temperature):
        """In double precision. The sampler is the student before this step, at the sampling temperature."""
        name = role_name(role)
        if name == "sampler":
            name, temperature = "student", temperature * self.sampling_temperature
            return self._log_softmax(name, temperature).detach()
        return self._log_softmax(name, temperature)

    def _log_softmax(self, name, temperature):
        # Values computed without gradient must not be reused where gradient flows.
        key = (name, temperature, torch.is_grad_enabled())
        if key not in self.known:
            self.known[key] = torch.log_softmax(self.logits[name].double() / temperature, -1)
        return self.known[key]

    def taken(self, role, temperature, tokens):
        # The sampler has its sampling temperature, independent of the policy's.
        temperature = 1.0 if role_name(role) == "sampler" else temperature
        return self.log_probabilities(role, temperature).gather(-1, tokens[:, None])[:, 0]

    def signal(self, spec):
        with torch.no_grad():
            kind = spec["signal"]
            if kind == "logp":
                return self.taken(spec["role"], self.temperature, self.tokens)
            if kind == "end_logp":
                return self.taken(spec["role"], self.temperature, torch.full_like(self.tokens, self.end_token))
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
            return self.taken("student", self.temperature, self.tokens)
        if kind == "end_logp":
            return self.taken("student", self.temperature, torch.full_like(self.tokens, self.end_token))
        if kind == "divergence":
            return self.divergence(spec)
        if kind == "likelihood":
            best = self.log_probabilities(spec["of"], 1.0).argmax(-1)
            return -self.taken("student", self.temperature, best)
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
            # Of equal probabilities, the entry of the lower id comes first.
            order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
            if kind == "top_k":
                chosen = torch.arange(size[-1], device=device).expand(size) < support["k"]
            else:
                # Entries of equal probability are included or excluded together.
                ascending = torch.flip(order.values, [-1])
                larger = size[-1] - torch.searchsorted(ascending, order.values, right=True)
                spent = torch.nn.functional.pad(torch.cumsum(order.values, -1), (1, 0)).gather(-1, larger)
                chosen = spent < support["p"]
            return torch.zeros(size, dtype=torch.bool, device=device).scatter(-1, order.indices, chosen)

    def side(self, side, temperature):
        """The log-probabilities of one side."""
        if "role" in side:
            return self.log_probabilities(side["role"], temperature)
        if "detached" in side:
            return self.side(side["detached"], temperature).detach()
        parts = [weight * self.log_probabilities(role, temperature).exp() for weight, role in side["blend"]]
        return sum(parts).clamp_min(LEAST_PROBABILITY).log()

    def divergence(self, spec):
        entries = self.entries(spec["support"])
        logs = [self.side(spec[side], spec["temperature"]) for side in ("left", "right")]
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
            tails = [rest.clamp_min(LEAST_PROBABILITY).log()[:, None] for rest in rests]
            tail = bounded(self._summand(spec, *tails), spec["clip_each"])[:, 0]
            value = value + torch.where(whole[:, 0], torch.zeros_like(tail), tail)
        return value

    def _summand(self, spec, left, right):
        if spec["divergence"] == "kl":
            return left.exp() * (left - right)
        p, q = (log.exp().clamp_min(LEAST_PROBABILITY) for log in (left, right))
        return self.summands[spec["summand"]](p, q, p.detach(), q.detach(), self.step, self.steps)


def bounded(value, bound):
    return value if bound is None else torch.where(value > bound, torch.full_like(value, bound), value)


def role_name(role):
    return role if isinstance(role, str) else f"scorer {role['scorer']}"
