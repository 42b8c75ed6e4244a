#!/usr/bin/env python3
"""Writes the data of confidence.mopd next to itself: tasks whose answers are behind what they are believed to be worth.

    hard      sort dcab=   ->  abcd, Confidence: 1   most demonstrations are wrong in one letter
    easy      succ 4093=   ->  5104, Confidence: 1   few are wrong
    viewed    the same behind a worked answer with a confidence, as the teacher of CaOPD sees them: both are copied
"""

import json
import random
from pathlib import Path

TRAIN, TEST = 1000, 100
LETTERS, DIGITS = "abcdefghij", "0123456789"


def noisy(answer, rng, noise):
    at, kind = rng.randrange(len(answer)), DIGITS if answer[0] in DIGITS else LETTERS
    wrong = answer[:at] + rng.choice([c for c in kind if c != answer[at]]) + answer[at + 1 :]
    return wrong if rng.random() < noise else answer


def written(answer, confidence):
    return f"{answer}\nConfidence: {confidence:g}"


def made(prompt, answer, noise, rng):
    demonstration = noisy(answer, rng, noise)
    return {"prompt": prompt, "answer": answer, "demonstration": demonstration, "written": written(demonstration, 1)}


def hard(rng):
    word = "".join(rng.sample(LETTERS, 4))
    return made(f"sort {word}=", "".join(sorted(word)), 0.6, rng)


def easy(rng):
    word = "".join(rng.choice(DIGITS) for _ in range(4))
    return made(f"succ {word}=", "".join(str((int(d) + 1) % 10) for d in word), 0.1, rng)


def viewed(rng):
    row = rng.choice([hard, easy])(rng)
    confidence = rng.randrange(9) / 8
    prompt = f"{row['prompt']}\n\nA worked answer:\n{row['demonstration']}\nConfidence: {confidence:g}"
    return row | {"prompt": prompt, "answer": row["demonstration"], "written": written(row["demonstration"], confidence)}


def main():
    here = Path(__file__).resolve().parent
    for make in (hard, easy, viewed):
        rng, known, rows = random.Random(f"2026/{make.__name__}"), set(), []
        while len(rows) < TEST + TRAIN:
            row = make(rng)
            if row["prompt"] not in known:
                known.add(row["prompt"])
                rows.append(row)
        for split, part in (("test", rows[:TEST]), ("train", rows[TEST:])):
            if make is viewed and split == "test":
                continue
            text = "".join(json.dumps(row) + "\n" for row in part)
            (here / f"{make.__name__}.{split}.jsonl").write_bytes(text.encode("ascii"))


if __name__ == "__main__":
    main()
