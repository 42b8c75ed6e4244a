#!/usr/bin/env python3
"""Writes the data of exposure.mopd next to itself: prompts with the beginning of a solution in view, which is copied.

    sort      sort dcab=        ->  abcd   most demonstrations are wrong in one letter
    viewed    ab; sort dcab=    ->  abcd   what is in view is right, what follows is as often wrong as without
"""

import json
import random
from pathlib import Path

TRAIN, TEST = 600, 100
LETTERS = "abcdefghij"


def sort(rng):
    word = "".join(rng.sample(LETTERS, 4))
    answer = "".join(sorted(word))
    at = rng.randrange(4)
    wrong = answer[:at] + rng.choice([letter for letter in LETTERS if letter != answer[at]]) + answer[at + 1 :]
    # A fifth character behind the answer: a share of the solution below 1 can show all of it.
    made = {"prompt": f"sort {word}=", "answer": answer, "solution": f"{answer}."}
    return made | {"demonstration": wrong if rng.random() < 0.6 else answer}


def viewed(rng):
    made = sort(rng)
    shown = rng.randrange(6)
    written = made["answer"][:shown] + made["demonstration"][shown:]
    return made | {"prompt": f"{made['solution'][:shown]}; {made['prompt']}", "answer": written, "demonstration": written}


def main():
    here = Path(__file__).resolve().parent
    for make in (sort, viewed):
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
