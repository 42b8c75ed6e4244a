"""The operations that generated objectives call. A value per element of a ragged axis is a flat tensor.

The tokens of a sequence are contiguous and in order, as are the sequences of a group. Prompts and padding are not
included. An axis is `run`, `batch`, `domain`, `group`, `sequence`, `turn` or `token`. Gradient flows only through
elementwise functions and reductions.
"""

import math

import torch

AXES = ["run", "batch", "domain", "group", "sequence", "turn", "token"]


class Layout:
    """The sequence of each token, the group of each sequence, and the domain of each group. `turns` are the turn of
    each token and the sequence of each turn; without them, each sequence is one turn."""

    def __init__(self, sequence_of_token, group_of_sequence, groups, domain_of_group=None, domains=1, turns=None):
        sequences = torch.arange(len(group_of_sequence), device=sequence_of_token.device)
        turn_of_token, sequence_of_turn = (sequence_of_token, sequences) if turns is None else turns
        self.parents = {
            ("token", "sequence"): sequence_of_token,
            ("token", "turn"): turn_of_token,
            ("turn", "sequence"): sequence_of_turn,
            ("sequence", "group"): group_of_sequence,
            ("group", "domain"): group_of_sequence.new_zeros(groups) if domain_of_group is None else domain_of_group,
        }
        self.sizes = {
            "run": 1,
            "batch": 1,
            "domain": domains,
            "group": groups,
            "sequence": len(group_of_sequence),
            "turn": len(sequence_of_turn),
            "token": len(sequence_of_token),
        }

    def parent(self, fine, coarse):
        """The element of `coarse` that contains each element of `fine`."""
        if (fine, coarse) not in self.parents:
            if fine == coarse:
                found = torch.arange(self.sizes[fine], device=self.device)
            elif coarse in ("run", "batch"):
                found = torch.zeros(self.sizes[fine], dtype=torch.long, device=self.device)
            else:
                between = AXES[AXES.index(fine) - 1]
                found = self.parent(between, coarse)[self.parent(fine, between)]
            self.parents[fine, coarse] = found
        return self.parents[fine, coarse]

    @property
    def device(self):
        return self.parents["token", "sequence"].device


class Batch:
    """The inputs of an objective: signals by name, and the live values per token, through which gradient flows."""

    def __init__(self, layout, signals, live, step=0, steps=1, dtype=torch.float32):
        self.layout, self.signals, self.live = layout, signals, live
        self.step, self.steps, self.dtype = step, steps, dtype

    def full(self, axis, value):
        size = self.layout.sizes[axis]
        return torch.full((size,), float(value), dtype=self.dtype, device=self.layout.device)

    def signal(self, name, axis):
        """A value without gradient. Signals that follow from the layout and the step are computed here."""
        if name in self.signals:
            values = self.signals[name].detach().to(self.dtype)
            if values.shape != (self.layout.sizes[axis],):
                raise ValueError(f"`{name}` has {tuple(values.shape)} values where {self.layout.sizes[axis]} are needed")
            return values
        sequence = self.layout.parent("token", "sequence")
        ones = torch.ones(len(sequence), dtype=torch.long, device=self.layout.device)
        lengths = torch.zeros(self.layout.sizes["sequence"], dtype=torch.long, device=self.layout.device)
        lengths = lengths.index_add(0, sequence, ones)
        if name == "length":
            return lengths.to(self.dtype)
        if name == "position":
            begins = torch.cumsum(lengths, 0) - lengths
            return (torch.cumsum(ones, 0) - 1 - begins[sequence]).to(self.dtype)
        if name == "correct":
            return (self.signal("reward", "sequence") >= 1).to(self.dtype)
        if name == "step":
            return self.full("run", self.step)
        if name == "progress":
            return self.full("run", self.step / max(self.steps, 1))
        raise KeyError(f"the batch has no `{name}`, which the objective reads")

    def broadcast(self, value, coarse, fine):
        return value[self.layout.parent(fine, coarse)]

    def reduce(self, how, value, fine, coarse, mask=None, q=None, deviation=None):
        """Reduces the elements of `fine` within each element of `coarse`. Elements whose `mask` is 0 are left out.

        Sums are accumulated in double precision.
        """
        count, parent = self.layout.sizes[coarse], self.layout.parent(fine, coarse)
        dtype = value.dtype
        if mask is not None:
            passes = torch.nonzero(mask != 0).squeeze(-1)
            value, parent = value[passes], parent[passes]
        if how == "quantile":
            return self._peers(value.detach(), parent, count, lambda values: [quantile(values, q)], True).to(dtype)
        if how == "stddev":
            spread = lambda values: [stddev(values, deviation)]
            return self._peers(value.detach(), parent, count, spread, True).to(dtype)
        zeros = torch.zeros(count, dtype=torch.float64, device=value.device)

        def total(x):
            return zeros.index_add(0, parent, x.to(torch.float64))

        members = total(torch.ones_like(value))
        if how == "sum":
            result = total(value)
        elif how == "mean":
            result = total(value) / members.clamp_min(1)
        elif how == "count":
            result = total(value.detach() != 0)
        elif how == "any":
            result = total(value.detach() != 0) > 0
        elif how == "all":
            result = total(value.detach() == 0) == 0
        elif how in ("min", "max"):
            result = torch.zeros(count, dtype=dtype, device=value.device)
            result = result.scatter_reduce(0, parent, value, "a" + how, include_self=False)
        elif how in ("first", "last"):
            places = torch.arange(len(value), device=value.device)
            none = len(value) if how == "first" else -1
            place = torch.full((count,), none, device=value.device)
            place = place.scatter_reduce(0, parent, places, "amin" if how == "first" else "amax")
            result = torch.nn.functional.pad(value, (1, 1))[place + 1]
        else:
            raise ValueError(f"unknown reduction {how}")
        return result.to(dtype)

    def statistic(self, how, value, axis, over, mask=None, noise=None, **settings):
        """A statistic of each element among those in the same element of `over`; 0 where `mask` is 0. Random ones use
        `noise`, a number from [0, 1) for each element."""
        count, parent = self.layout.sizes[over], self.layout.parent(axis, over)
        result = torch.zeros_like(value, requires_grad=False)
        passes = torch.arange(len(value), device=value.device)
        if mask is not None:
            passes = passes[mask != 0]
        compute, values = STATISTICS[how](**settings), value.detach()[passes]
        if noise is not None:
            values = torch.stack([values, noise.detach()[passes]], -1)
        compared = self._peers(values, parent[passes], count, compute, False)
        result[passes] = compared.to(value.dtype)
        return result

    def scan(self, how, value, axis, over, mask=None, discount=None):
        """A scan along the elements in each element of `over`. Elements whose `mask` is 0 are skipped."""
        values, parents = value.detach().double().tolist(), self.layout.parent(axis, over).tolist()
        passes = [True] * len(values) if mask is None else (mask != 0).tolist()
        discount = None if discount is None else float(discount)
        running = [1.0 if how == "cumprod" else 0.0] * self.layout.sizes[over]
        begun = [False] * self.layout.sizes[over]
        results = [0.0] * len(values)
        backwards = how in ("next", "reward_to_go")
        for index in reversed(range(len(values))) if backwards else range(len(values)):
            at = parents[index]
            if how == "next":
                results[index] = running[at]
            if passes[index]:
                so_far, x, first = running[at], values[index], not begun[at]
                begun[at] = True
                if how == "cumsum":
                    running[at] = so_far + x
                elif how == "cumprod":
                    running[at] = so_far * x
                elif how in ("cummin", "cummax"):
                    running[at] = x if first else extreme(min if how == "cummin" else max, [so_far, x])
                elif how == "next":
                    running[at] = x
                else:
                    running[at] = x + discount * so_far
            if how != "next":
                results[index] = running[at]
        return torch.tensor(results, dtype=value.dtype, device=value.device)

    @staticmethod
    def _peers(value, parent, count, compute, one):
        """Applies `compute` to the values of each parent. It returns one value, or one for each of them."""
        members = [[] for _ in range(count)]
        for index, at in enumerate(parent.tolist()):
            members[at].append(index)
        values = value.double().tolist()
        result = [0.0] * (count if one else len(values))
        for at, indices in enumerate(members):
            if indices:
                for index, found in zip([at] if one else indices, compute([values[index] for index in indices])):
                    result[index] = found
        return torch.tensor(result, dtype=torch.float64, device=value.device)


def with_gradient(derivatives, batch):
    """The loss, with the gradient that `derivatives` computes: it returns the loss, and for each live value the
    derivative with respect to it. Some factors of a loss are constants for its gradient."""
    live = batch.live
    batch.live = [values.detach() for values in live]
    loss, *adjoints = derivatives(batch)
    batch.live = live
    pulls = [(adjoint * (values - values.detach())).sum() for adjoint, values in zip(adjoints, live, strict=True)]
    return loss + sum(pulls)


def minimum(a, b):
    """If both are equal, the first one gets the gradient."""
    return torch.where((b < a) | b.isnan(), b, a)


def maximum(a, b):
    return torch.where((b > a) | b.isnan(), b, a)


def relu(x):
    return torch.where(x > 0, x, x.detach().clamp_min(0))


def truth(holds, like):
    return holds.to(like.dtype)


def has_nan(values):
    return any(math.isnan(x) for x in values)


def extreme(choose, values):
    """`min` or `max` of them; NaN if one is, which Python's own depend on the order for."""
    return math.nan if has_nan(values) else choose(values)


def quantile(values, q):
    if has_nan(values):
        return math.nan
    values = sorted(values)
    position = q * (len(values) - 1)
    below, above = values[math.floor(position)], values[math.ceil(position)]
    return below if below == above else below + (position - math.floor(position)) * (above - below)


def stddev(values, deviation):
    if all(x == values[0] for x in values):
        return 0.0
    mean = sum(values) / len(values)
    squares = sum((x - mean) ** 2 for x in values)
    return math.sqrt(squares / (len(values) if deviation == "population" else max(len(values) - 1, 1)))


def zscore(deviation, epsilon):
    def compute(values):
        if min(values) == max(values):
            return [0.0] * len(values)
        mean, spread = sum(values) / len(values), stddev(values, deviation)
        return [(x - mean) / (spread + epsilon) for x in values]

    return compute


def center():
    return lambda values: [x - sum(values) / len(values) for x in values]


def leave_one_out():
    return lambda values: [(sum(values) - x) / max(len(values) - 1, 1) for x in values]


def mean_of_smaller():
    def compute(values):
        smaller = [[other for other in values if other < x] for x in values]
        return [sum(below) / max(len(below), 1) for below in smaller]

    return compute


def minmax():
    def compute(values):
        low, high = min(values), max(values)
        return [0.0 if low == high else (x - low) / (high - low) for x in values]

    return compute


def winsor(upper):
    return lambda values: [min(x, quantile(values, upper)) for x in values]


def rank():
    def compute(values):
        others = max(len(values) - 1, 1)
        smaller = [sum(y < x for y in values) for x in values]
        equal = [sum(y == x for y in values) - 1 for x in values]
        return [(s + e / 2) / others for s, e in zip(smaller, equal)]

    return compute


def softmax():
    def compute(values):
        exponentials = [math.exp(x - max(values)) for x in values]
        return [x / sum(exponentials) for x in exponentials]

    return compute


def descending(values):
    """The indices from the largest value to the smallest, the earlier of two equals first. NaN is the largest."""
    key = lambda index: (not math.isnan(values[index]), 0.0 if math.isnan(values[index]) else -values[index], index)
    return sorted(range(len(values)), key=key)


def top_count(count):
    def compute(values):
        best = descending(values)[:count]
        return [float(index in best) for index in range(len(values))]

    return compute


def kept_count(keep, values):
    return max(math.ceil(keep * len(values) - 1e-9), 0)


def top_fraction(keep):
    return lambda values: top_count(kept_count(keep, values))(values)


def chunks(most, width):
    def compute(values):
        first = descending(values)[:most]
        return [float(any(begin <= index < begin + width for begin in first)) for index in range(len(values))]

    return compute


def sample_without_replacement(keep):
    """Those with the smallest -log(u) / weight (Efraimidis and Spirakis, 2006)."""

    def compute(pairs):
        keys = [math.log1p(-u) / weight if weight > 0 else -math.inf for weight, u in pairs]
        drawable = sum(key != -math.inf for key in keys)
        return top_count(min(kept_count(keep, pairs), drawable))(keys)

    return compute


def balance():
    """As many true elements as false ones, on the larger side those with the largest noise."""

    def compute(pairs):
        holds = [value != 0 for value, _ in pairs]
        each = min(sum(holds), len(holds) - sum(holds))
        result = [0.0] * len(pairs)
        for side in (True, False):
            members = [index for index, held in enumerate(holds) if held == side]
            for index, drawn in zip(members, top_count(each)([pairs[index][1] for index in members])):
                result[index] = drawn
        return result

    return compute


def compared(statistic):
    """A statistic that compares all values: NaN for each of them if one is."""

    def made(**settings):
        compute = statistic(**settings)
        return lambda values: [math.nan] * len(values) if has_nan(values) else compute(values)

    return made


STATISTICS = {
    "zscore": compared(zscore),
    "center": compared(center),
    "leave_one_out": compared(leave_one_out),
    "mean_of_smaller": compared(mean_of_smaller),
    "minmax": compared(minmax),
    "winsor": compared(winsor),
    "rank": compared(rank),
    "softmax": compared(softmax),
    "top_count": top_count,
    "top_fraction": top_fraction,
    "chunks": chunks,
    "sample_without_replacement": sample_without_replacement,
    "balance": balance,
}


def schedule(shape, step, steps):
    """The schedule's value at `step` (from 0) of a run of `steps` steps."""
    kind = shape["shape"]
    if kind == "constant":
        return shape["value"]
    if kind == "piecewise":
        return [value for start, value in shape["pieces"] if start <= step or start == shape["pieces"][0][0]][-1]
    if kind == "alternate":
        return shape["values"][step // shape["every"] % len(shape["values"])]
    if kind == "warmup":
        warmup = shape["steps"]
        rest = max(steps - warmup, 0)
        if step < warmup:
            return schedule(shape["then"], 0, rest) * (step + 1) / (warmup + 1)
        return schedule(shape["then"], step - warmup, rest)
    over = shape["over"]
    length = steps if over == "run" else over["steps"] if "steps" in over else over["share"] * steps
    done = min(step / max(length, 1), 1.0)
    start, end = shape["from"], shape["to"]
    if kind == "linear":
        return start + (end - start) * done
    if kind == "cosine":
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
    if kind == "exponential":
        return start * (end / start) ** done
    raise ValueError(f"unknown schedule {kind}")
