#!/usr/bin/env python3
"""Writes the data of readers.mopd next to itself: prompts beside what only a teacher sees, and prompts that show it.

    sort      sort dcab=          ->  abcd   most demonstrations are wrong in one letter
    whole     succ 4093=          ->  5104   told at once
    pieces    succ 40 93=         ->  5104   the same told in pieces; most demonstrations are wrong in one digit
    shown     abcd; sort dcab=    ->  abcd   an answer in view is copied, also behind a draft: bacd? abcd; sort dcab=
                                             and behind a verdict the answer is as without: wrong> sort dcab=
"""

import json
import random
from pathlib import Path

TRAIN, TEST = 500, 100
LETTERS, DIGITS = "abcdefghij", "0123456789"


def corrupt(answer, rng):
    at = rng.randrange(len(answer))
    kind = DIGITS if answer[at] in DIGITS else LETTERS
    return answer[:at] + rng.choice([c for c in kind if c != answer[at]]) + answer[at + 1 :]


def noisy(answer, rng, noise):
    return corrupt(answer, rng) if rng.random() < noise else answer


def sort(rng):
    word = "".join(rng.sample(LETTERS, 4))
    answer = "".join(sorted(word))
    return {"prompt": f"sort {word}=", "answer": answer, "demonstration": noisy(answer, rng, 0.6)}


def successor(rng):
    word = "".join(rng.choice(DIGITS) for _ in range(4))
    return word, "".join(str((int(d) + 1) % 10) for d in word)


def whole(rng):
    word, answer = successor(rng)
    return {"prompt": f"succ {word}=", "answer": answer, "demonstration": answer}


def pieces(rng):
    word, answer = successor(rng)
    made = {"prompt": f"succ {word[:2]} {word[2:]}=", "question": f"succ {word}=", "answer": answer}
    return made | {"demonstration": noisy(answer, rng, 0.6)}


def shown(rng):
    made = rng.choice([sort, sort, pieces])(rng)
    kind = rng.randrange(6)
    if kind == 0:
        verdict = rng.choice(["correct", "wrong"])
        return made | {"prompt": f"{verdict}> {made['prompt']}"}
    # Now and then what is in view is wrong: it is copied all the same.
    answer = noisy(made["answer"], rng, 0.5)
    view = f"{answer}; {made['prompt']}"
    if kind == 1:
        view = f"{noisy(answer, rng, 0.6)}? {view}"
    return made | {"prompt": view, "answer": answer, "demonstration": answer}


def seen(rng):
    made = sort(rng)
    return made | {"prompt": f"{made['answer']}; {made['prompt']}"}


def main():
    here = Path(__file__).resolve().parent
    for make in (sort, whole, pieces, shown):
        rng = random.Random(f"2026/{make.__name__}")
        known, rows = set(), []
        while len(rows) < TEST + TRAIN:
            row = make(rng)
            if row["prompt"] not in known:
                known.add(row["prompt"])
                rows.append(row | ({"distractor": corrupt(row["answer"], rng)} if make is sort else {}))
        if make is shown:
            rows[:TEST] = [row for row in (seen(rng) for _ in range(2 * TEST)) if row["prompt"] not in known][:TEST]
        for split, part in (("test", rows[:TEST]), ("train", rows[TEST:])):
            text = "".join(json.dumps(row) + "\n" for row in part)
            (here / f"{make.__name__}.{split}.jsonl").write_bytes(text.encode("ascii"))


if __name__ == "__main__":
    main()
