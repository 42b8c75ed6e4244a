"""The built-in verifiers, as `rewards.json` says them of each domain. A reward is a number from 0 to 1."""

import json
import math
import pathlib
import re

DOMAINS = json.loads((pathlib.Path(__file__).parent / "rewards.json").read_text())


def number(text):
    """White space around it and commas between groups of three digits do not count."""
    text = text.strip()
    if "," in text:
        if not re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})*(\.[0-9]+)?", text):
            return None
        text = text.replace(",", "")
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def score(reward, completion, row):
    kind = reward["kind"]
    if kind == "exact_match":
        return float(completion == row[reward["field"]])
    if kind == "numeric":
        found, target = number(completion), number(row[reward["field"]])
        return float(found is not None and abs(found - target) <= reward["tolerance"])
    if kind == "regex":
        found = re.search(reward["pattern"], completion)
        if found is None or "answer" not in found.re.groupindex:
            return float(found is not None)
        return float(found["answer"] == row[reward["field"]])
    if kind == "parts":
        # One by one: Python's own `sum` rounds otherwise.
        total, weights = 0.0, 0.0
        for part in reward["parts"]:
            total += part["weight"] * score(part["reward"], completion, row)
            weights += part["weight"]
        return total / weights
    # Nothing trains on it.
    return 0.0


def of_row(domain, completion, text):
    """`text` is the row of the data as JSON; numbers in it are read as they are written."""
    row = json.loads(text, parse_int=str, parse_float=str)
    return score(DOMAINS[domain], completion, row)


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """As verl calls it."""
    return of_row(data_source, solution_str, ground_truth)
