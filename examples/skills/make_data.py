#!/usr/bin/env python3
"""Writes the data of skills.mopd next to itself: {domain}.train.jsonl and {domain}.test.jsonl.

Three skills whose answer a rule of the language can check:

    math     word problems of two or three steps; the answer is a whole number behind `####`
    format   facts to be written in a form that is given: JSON, CSV, a list, a date, key=value pairs
    strings  small jobs on words: back to front, count a letter, every second one, in order of length

A row is {"prompt", "answer"}. Only the standard library, one fixed seed: running it again writes the same bytes. No prompt
occurs twice, so train and test are disjoint.
"""

import json
import random
from pathlib import Path

SEED = 2026
TRAIN, TEST = 240, 60  # rows per domain

NAMES = ["Ada", "Bruno", "Chen", "Dina", "Emre", "Fatou", "Goran", "Hana", "Ivo", "Jun", "Kemal", "Lena", "Mara", "Nils"]
THINGS = ["apples", "marbles", "stamps", "pencils", "shells", "coins", "books", "stickers", "buttons", "cards"]
WORDS = (
    "river stone candle window garden silver market bridge thunder pocket meadow lantern copper harbor winter saddle "
    "orchard pepper violin anchor blanket cotton ribbon pillow engine basket desert forest island jacket kettle ladder"
).split()
CITIES = ["Oslo", "Lima", "Cairo", "Quito", "Riga", "Hanoi", "Accra", "Turin", "Perth", "Delhi"]


def math(rng):
    name, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    a, b, c = rng.randint(12, 80), rng.randint(2, 9), rng.randint(3, 12)
    kind = rng.randrange(5)
    if kind == 0:
        story = f"{name} has {a} {thing}. {other} brings {b} boxes of {c} {thing} each and gives them to {name}. How many {thing} does {name} have now?"
        answer = a + b * c
    elif kind == 1:
        a = b * c + rng.randint(1, 40)
        story = f"{name} has {a} {thing} and fills {b} bags with {c} {thing} each. How many {thing} are left over?"
        answer = a - b * c
    elif kind == 2:
        story = f"{name} saves {b} coins a day for {c} days and then spends {b + c} of them. How many coins are left?"
        answer = b * c - (b + c)
    elif kind == 3:
        story = f"{b} friends share {b * c} {thing} equally. {name}, one of them, then gives {min(2, c - 1)} of these to {other}. How many does {name} keep?"
        answer = c - min(2, c - 1)
    else:
        story = f"A train with {a} people stops twice. At the first stop {c} people get off and {b} get on; at the second {b} get off. How many people are on it then?"
        answer = a - c
    return f"{story} Explain briefly and end with the number behind ####.", str(answer)


def format_(rng):
    name, city, age = rng.choice(NAMES), rng.choice(CITIES), rng.randint(18, 79)
    words = rng.sample(WORDS, 3)
    kind = rng.randrange(6)
    if kind == 0:
        ask = f"Write as one line of JSON with the keys name, age, city, in this order: {name} is {age} years old and lives in {city}."
        answer = json.dumps({"name": name, "age": age, "city": city})
    elif kind == 1:
        ask = f"Write as one line of CSV, without a header, in the order city,name,age: {name} is {age} years old and lives in {city}."
        answer = f"{city},{name},{age}"
    elif kind == 2:
        ask = f"Write these words as a list, each on its own line behind a dash and a space: {', '.join(words)}."
        answer = "\n".join(f"- {word}" for word in words)
    elif kind == 3:
        year, month, day = rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(1, 28)
        ask = f"Write the date {day}.{month}.{year}, which is day.month.year, as year-month-day with two digits for month and day."
        answer = f"{year}-{month:02}-{day:02}"
    elif kind == 4:
        ask = f"Write as key=value pairs joined by semicolons, the keys being name, age, city: {name} is {age} years old and lives in {city}."
        answer = f"name={name};age={age};city={city}"
    else:
        ask = f"Write these words in capital letters, joined by ' | ': {', '.join(words)}."
        answer = " | ".join(words).upper()
    return f"{ask} Answer with that alone.", answer


def strings(rng):
    words = rng.sample(WORDS, 4)
    word = words[0]
    kind = rng.randrange(6)
    if kind == 0:
        ask, answer = f"Write '{word} {words[1]}' back to front.", f"{word} {words[1]}"[::-1]
    elif kind == 1:
        text = " ".join(words)
        letter = rng.choice(text.replace(" ", ""))
        ask, answer = f"How often does the letter {letter} occur in '{text}'?", str(text.count(letter))
    elif kind == 2:
        ask, answer = f"Write every second letter of '{word + words[1]}', beginning with the first.", (word + words[1])[::2]
    elif kind == 3:
        in_order = sorted(words, key=lambda word: (len(word), word))
        ask = f"Sort by length, then by the alphabet, joined by spaces: {', '.join(words)}."
        answer = " ".join(in_order)
    elif kind == 4:
        old = rng.choice(word)
        new = rng.choice("xyzq")
        ask, answer = f"Replace every {old} by {new} in '{word} {words[1]}'.", f"{word} {words[1]}".replace(old, new)
    else:
        ask, answer = f"Join the first letters of these words: {', '.join(words)}.", "".join(word[0] for word in words)
    return f"{ask} Answer with that alone.", answer


def rows(make, rng, count):
    seen, out = set(), []
    while len(out) < count:
        prompt, answer = make(rng)
        if prompt not in seen:
            seen.add(prompt)
            out.append({"prompt": prompt, "answer": answer})
    return out


def main():
    rng = random.Random(SEED)
    folder = Path(__file__).parent
    for name, make in [("math", math), ("format", format_), ("strings", strings)]:
        made = rows(make, rng, TRAIN + TEST)
        for split, part in [("train", made[:TRAIN]), ("test", made[TRAIN:])]:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
            (folder / f"{name}.{split}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
