"""Generated code on given numbers: `check_torch.py CASES` prints the largest differences from what is expected.

A case is a function `of(batch)`, a batch, and what the compiler's interpreter computes of it: values, and the
gradient of the first of them where there is one.
"""

import json
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "compiler/src/export/python"))

import mopd_tensors as mt  # noqa: E402
import torch  # noqa: E402

DTYPE = torch.float64


def tensor(values):
    return torch.tensor([math.nan if value is None else value for value in values], dtype=DTYPE)


def difference(found, expected):
    """Relative to the largest number; nothing where both are not finite alike."""
    expected = tensor(expected)
    if found.shape != expected.shape:
        return math.inf
    same = (found == expected) | (found.isnan() & expected.isnan())
    apart = torch.where(same, torch.zeros_like(found), (found - expected).abs())
    finite = expected[expected.isfinite()]
    scale = max(1.0, finite.abs().max().item()) if len(finite) else 1.0
    return (apart / scale).max().item() if len(apart) else 0.0


worst_value, worst_gradient, faults = 0.0, 0.0, []
cases = json.loads(pathlib.Path(sys.argv[1]).read_text())
for case in cases:
    scope = {"mt": mt, "torch": torch}
    exec(case["code"], scope)
    turns = case["layout"].pop("turns")
    index = {name: torch.tensor(values, dtype=torch.long) for name, values in case["layout"].items() if isinstance(values, list)}
    layout = mt.Layout(
        index["sequence_of_token"],
        index["group_of_sequence"],
        case["layout"]["groups"],
        index.get("domain_of_group"),
        case["layout"]["domains"],
        None if turns is None else [torch.tensor(values) for values in turns],
    )
    live = [tensor(values).requires_grad_() for values in case["live"]]
    signals = {name: tensor(values) for name, values in case["signals"].items()}
    batch = mt.Batch(layout, signals, live, case["step"], case["steps"], dtype=DTYPE)
    found = scope["of"](batch)
    found = found if isinstance(found, tuple) else (found,)
    value = max(difference(got.detach(), expected) for got, expected in zip(found, case["values"], strict=True))
    gradient = 0.0
    if case["gradients"]:
        if found[0].requires_grad:
            found[0].sum().backward()
        for given, expected in zip(live, case["gradients"], strict=True):
            got = torch.zeros_like(given) if given.grad is None else given.grad
            gradient = max(gradient, difference(got, expected))
    worst_value, worst_gradient = max(worst_value, value), max(worst_gradient, gradient)
    if not max(value, gradient) < 1e-6:
        faults.append(f"{case['name']}: values {value:.3g}, gradients {gradient:.3g}\n{case['code']}")
print(f"{len(cases)} cases: values within {worst_value:.3g}, gradients within {worst_gradient:.3g}")
if faults:
    sys.exit("\n".join(faults[:3]) + f"\n{len(faults)} faults")
