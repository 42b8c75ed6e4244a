#!/usr/bin/env python3
"""Writes the data of panels.mopd next to itself: tasks of which each member of a panel knows one, with what an expert states before its answer.

    letters   sort dcab=   ->  confidence 90 abcd
    digits    succ 4093=   ->  confidence 90 5104

Fields: `mixed` is how the start writes, often wrong in one place, and sure as often as not; `of_letters` and `of_digits` how the two
members write, who are sure and right in their own task. The prompts of `heard` have an exchange before them, or what experts
said: who hears one that is sure says the same. `trajectory` has two turns, one of each task.
"""

import json
import random
from pathlib import Path

TRAIN, TEST = 600, 100
LETTERS, DIGITS = "abcdefghij", "0123456789"


def corrupt(answer, rng):
    at = rng.randrange(len(answer))
    kind = DIGITS if answer[at] in DIGITS else LETTERS
    return answer[:at] + rng.choice([c for c in kind if c != answer[at]]) + answer[at + 1 :]


def noisy(answer, rng):
    return corrupt(answer, rng) if rng.random() < 0.6 else answer


def letters(rng):
    word = "".join(rng.sample(LETTERS, 4))
    return f"sort {word}=", "".join(sorted(word))


def digits(rng):
    word = "".join(rng.choice(DIGITS) for _ in range(4))
    return f"succ {word}=", "".join(str((int(d) + 1) % 10) for d in word)


def said(sure, answer):
    return f"confidence {90 if sure else 10} {answer}"


def row(task, rng):
    prompt, answer = task(rng)
    made = {"prompt": prompt, "answer": answer, "mixed": said(rng.random() < 0.5, noisy(answer, rng))}
    for member in (letters, digits):
        own = member is task
        made[f"of_{member.__name__}"] = said(own, answer if own else noisy(answer, rng))
    return made


def with_more(made, other, rng):
    """An exchange before the prompt, or a debate, or both."""
    if rng.random() < 0.4:
        before, answer = other(rng)
        made["prompt"] = f"{before}\n{said(rng.random() < 0.7, answer)}\n{made['prompt']}"
    if rng.random() < 0.7:
        turns = rng.randrange(3)
        sure = rng.random() < 0.7
        first = rng.randrange(turns) if sure and turns else turns
        # What is said with confidence is believed, also where it is wrong.
        believed = made["answer"] if rng.random() < 0.5 else corrupt(made["answer"], rng)
        heard = [said(turn >= first, believed if turn >= first else noisy(made["answer"], rng)) for turn in range(turns)]
        transcript = "\n\n".join(f"Expert {turn % 2 + 1}: {text}" for turn, text in enumerate(heard))
        made["prompt"] = f"{transcript}\n{made['prompt']}"
        if first < turns:
            made |= {"mixed": said(rng.random() < 0.5, believed), "of_letters": said(True, believed), "of_digits": said(True, believed)}
    return made


def trajectory(rng):
    turns = rng.sample([letters, digits], 2)
    messages = []
    for task in turns:
        prompt, answer = task(rng)
        messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": said(True, answer)}]
    return {"trajectory": messages}


def acting(rng):
    """The second turn of a trajectory, as a prompt."""
    messages = trajectory(rng)["trajectory"]
    return {"prompt": "\n".join(message["content"] for message in messages[:3]), "answer": messages[3]["content"].split()[-1]}


def main():
    here = Path(__file__).resolve().parent

    def write(name, rows):
        (here / f"{name}.jsonl").write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))

    heard = []
    for task, other in ((letters, digits), (digits, letters)):
        rng, known, rows = random.Random(f"2026/{task.__name__}"), set(), []
        while len(rows) < TEST + TRAIN:
            made = row(task, rng)
            if made["prompt"] not in known:
                known.add(made["prompt"])
                rows.append(made)
        write(f"{task.__name__}.test", rows[:TEST])
        write(f"{task.__name__}.train", rows[TEST:])
        heard += [with_more(made, other, rng) for made in rows[TEST:]]
    write("heard", heard)
    rng = random.Random("2026/trajectories")
    write("trajectories", [trajectory(rng) for _ in range(TRAIN // 2)])
    write("acting.test", [acting(rng) for _ in range(TEST)])


if __name__ == "__main__":
    main()
