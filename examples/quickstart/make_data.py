#!/usr/bin/env python3
"""Writes the quickstart's data next to itself: {domain}.train.jsonl and {domain}.test.jsonl.

Three small jobs whose answer a program can check:

    sort      sort dcab=    ->  abcd     letters in alphabetical order
    reverse   rev dcab=     ->  bacd     letters back to front
    successor succ 4093=    ->  5104     every digit plus one, modulo ten

A row is {"prompt", "answer", "demonstration"}. `answer` is right and is what a reward compares with. `demonstration` is
what supervised fine-tuning sees: in NOISE of the rows one character of it is wrong, so a model that imitates the
demonstrations well is right about half the time when sampled, and reinforcement learning has something to gain.

Only the standard library, one fixed seed: running it again writes the same bytes. No prompt occurs twice, so train and
test are disjoint.
"""

import json
import random
from pathlib import Path

SEED = 2026
TRAIN, TEST = 2000, 200  # rows per domain
NOISE = 0.6  # share of demonstrations with one wrong character
LETTERS = "abcdefghij"  # prompts use these; a wrong letter may be any of a-z
DIGITS = "0123456789"
ANY_LETTER = "abcdefghijklmnopqrstuvwxyz"


def letters(rng):
    """Four to six different letters in random order."""
    return "".join(rng.sample(LETTERS, rng.randint(4, 6)))


def sort(rng):
    word = letters(rng)
    return f"sort {word}=", "".join(sorted(word))


def reverse(rng):
    word = letters(rng)
    return f"rev {word}=", word[::-1]


def successor(rng):
    digits = [rng.choice(DIGITS) for _ in range(rng.randint(4, 6))]
    return f"succ {''.join(digits)}=", "".join(str((int(d) + 1) % 10) for d in digits)


def corrupt(answer, rng):
    """The answer with one character replaced by a different one of its kind."""
    at = rng.randrange(len(answer))
    kind = DIGITS if answer[at] in DIGITS else ANY_LETTER
    wrong = rng.choice([c for c in kind if c != answer[at]])
    return answer[:at] + wrong + answer[at + 1 :]


def rows(make, rng, count):
    seen, out = set(), []
    while len(out) < count:
        prompt, answer = make(rng)
        if prompt in seen:
            continue
        seen.add(prompt)
        demonstration = corrupt(answer, rng) if rng.random() < NOISE else answer
        out.append({"prompt": prompt, "answer": answer, "demonstration": demonstration})
    return out


def main():
    here = Path(__file__).resolve().parent
    for make in (sort, reverse, successor):
        name = make.__name__
        # A string seed is hashed with SHA-512, so it does not depend on PYTHONHASHSEED; each domain has its own stream.
        data = rows(make, random.Random(f"{SEED}/{name}"), TEST + TRAIN)
        for split, part in (("test", data[:TEST]), ("train", data[TEST:])):
            text = "".join(json.dumps(row) + "\n" for row in part)
            (here / f"{name}.{split}.jsonl").write_bytes(text.encode("ascii"))


if __name__ == "__main__":
    main()
