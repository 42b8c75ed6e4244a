"""The built-in verifiers that `rewards.json` assigns to domains. A reward is a number from 0 to 1."""

import decimal
import fractions
import json
import math
import pathlib
import re

DOMAINS = json.loads((pathlib.Path(__file__).parent / "rewards.json").read_text())


def number(text):
    """Parses a number. Surrounding white space and commas between groups of three digits are ignored."""
    text = text.strip()
    if "," in text:
        if not re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})*(\.[0-9]+)?", text):
            return None
        text = text.replace(",", "")
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def within(texts, tolerance):
    """Compares decimals, since doubles round numbers of 17 digits, and also 1.01 - 1."""
    found, target = (number(text) for text in texts)
    if found is None or target is None:
        return False
    try:
        decimals = [decimal.Decimal(text.strip().replace(",", "")) for text in texts]
        if all(abs(each.as_tuple().exponent) <= 4096 for each in decimals):
            one, other = map(fractions.Fraction, decimals)
            # `repr` gives the fewest digits that identify the tolerance: those of the source.
            return abs(one - other) <= fractions.Fraction(repr(tolerance))
    except decimal.DecimalException:
        pass
    # The exact comparison would take too many digits.
    return abs(found - target) <= tolerance


def score(reward, completion, row):
    kind = reward["kind"]
    if kind == "exact_match":
        return float(completion == row[reward["field"]])
    if kind == "numeric":
        return float(within([completion, row[reward["field"]]], reward["tolerance"]))
    if kind == "regex":
        found = re.search(reward["pattern"], completion)
        if found is None or "answer" not in found.re.groupindex:
            return float(found is not None)
        return float(found["answer"] == row[reward["field"]])
    if kind == "parts":
        # Added one by one: Python's `sum` rounds differently.
        total, weights = 0.0, 0.0
        for part in reward["parts"]:
            total += part["weight"] * score(part["reward"], completion, row)
            weights += part["weight"]
        return total / weights
    # The objective does not read this reward.
    return 0.0


def of_row(domain, completion, text):
    """`text` is the row of the data as JSON; its numbers are kept as text."""
    row = json.loads(text, parse_int=str, parse_float=str)
    return score(DOMAINS[domain], completion, row)


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """The function that verl calls."""
    return of_row(data_source, solution_str, ground_truth)
