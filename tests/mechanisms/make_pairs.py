#!/usr/bin/env python3
"""Writes pairs.jsonl, the data of preferences.mopd: prompts of the quickstart with their answer and the same letters out of order."""

import json
import random
from itertools import islice
from pathlib import Path

HERE = Path(__file__).parent
rng = random.Random(1)
with open(HERE / "../../examples/quickstart/sort.train.jsonl") as prompts, open(HERE / "pairs.jsonl", "w") as pairs:
    for line in islice(prompts, 400):
        made = json.loads(line)
        rejected = made["answer"]
        while rejected == made["answer"]:
            rejected = "".join(rng.sample(made["answer"], len(made["answer"])))
        pairs.write(json.dumps(made | {"chosen": made["answer"], "rejected": rejected}) + "\n")
