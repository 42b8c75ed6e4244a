#!/usr/bin/env python3
"""Writes what fuzzing starts from into seeds/: a folder of inputs for each target, and a dictionary of the language's words.

Everything is taken from the repository as it is now: the programs of the language suite and of the pages of the diagnostic codes, the
standard library, the examples; words from the grammar and the compiler's tables.
"""

import hashlib
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SEEDS = HERE / "seeds"
PARTED_BY = b"\xff"


def programs():
    for folder in ("stdlib", "examples"):
        for path in sorted((ROOT / folder).rglob("*.mopd")):
            yield path.read_text(encoding="utf-8")
    for folder in ("tests/suite", "lang/codes"):
        for path in sorted((ROOT / folder).rglob("*.md")):
            setup = ""
            for tag, body in re.findall(r"^```mopd([^\n]*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S):
                if tag.strip() == "setup":
                    setup = body
                yield setup + body if tag.strip() == "using setup" else body


def words():
    found = set()
    for path in sorted((ROOT / "lang").rglob("*.pest")):
        found.update(re.findall(r'"([^"\\\s~]{1,24})"', path.read_text(encoding="utf-8")))
    for path in sorted((ROOT / "lang/src").rglob("*.rs")):
        if path.stem in ("words", "vocabulary", "functions", "signals", "codes"):
            found.update(re.findall(r'"([a-z][a-z0-9_-]{1,24})"', path.read_text(encoding="utf-8")))
    return sorted(found | {"// allow(", "std.", "\r\n", "1e999", "\u00e9", "\U0001d49c"})


def steps(number):
    """For the server: edits and requests at a few places, different for each program."""
    texts = ["", "(", "}", "\n", "let x = ", "\u00e9", "live "]
    for turn in range(8):
        what = (number * 7 + turn * 37) % 255
        place, length = (number * 31 + turn * 41) % 255, (number + turn * 3) % 32
        yield bytes([what, place, length]) + texts[(number + turn) % len(texts)].encode()


def main():
    # Other targets may be running and reading these: nothing is taken away that is still among them.
    inputs = {}
    for number, program in enumerate(programs()):
        text = program.encode("utf-8")
        name = hashlib.sha256(text).hexdigest()[:16]
        inputs[SEEDS / "texts" / name] = text
        inputs[SEEDS / "server" / name] = PARTED_BY.join([text, *steps(number)])
    for folder in ("texts", "server"):
        (SEEDS / folder).mkdir(parents=True, exist_ok=True)
        for path in (SEEDS / folder).iterdir():
            if path not in inputs:
                path.unlink(missing_ok=True)
    for path, data in inputs.items():
        path.write_bytes(data)
    entries = ("".join(chr(b) if 32 < b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word.encode()) for word in words())
    (SEEDS / "words.dict").write_text("".join(f'"{entry}"\n' for entry in entries), encoding="ascii")


main()
