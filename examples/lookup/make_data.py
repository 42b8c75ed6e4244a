"""Writes the data of `lookup.mopd`, the same every time."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent

for name, words in [("train", ["find", "get", "show", "say"]), ("test", ["tell"])]:
    with open(FOLDER / f"{name}.jsonl", "w") as file:
        for word in words:
            for key in "abcdefgh":
                file.write(json.dumps({"prompt": f"{word} {key}=", "key": key}) + "\n")
