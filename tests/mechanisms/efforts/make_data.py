#!/usr/bin/env python3
"""Writes the data of efforts.mopd next to itself: letters to be sorted, at once or after a copy of them, as the effort says.

`demonstration` takes either way, whatever the effort is; `wanted` is what was asked for.
"""

import json
import random
from pathlib import Path

TRAIN, TEST = 500, 100

rng = random.Random(7)
for name, count in [("train", TRAIN), ("test", TEST)]:
    for effort in ["low", "high"]:
        rows = []
        while len(rows) < count:
            word = "".join(rng.sample("abcdef", 3))
            letters = word + "ghij"[rng.randrange(4)]
            ways = {"low": "".join(sorted(letters)), "high": f"{letters}>{''.join(sorted(letters))}"}
            row = {"prompt": f"sort {letters}=", "effort": effort, "brief": ways["low"], "thorough": ways["high"]}
            rows.append(row | {"wanted": ways[effort], "demonstration": ways[rng.choice(["low", "high"])]})
        (Path(__file__).parent / f"{effort}.{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
