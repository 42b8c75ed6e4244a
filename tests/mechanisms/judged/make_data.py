"""Texts of two parts, for a judge that scores each: the word as it is read, and in the order of its letters."""

import json
import random
from pathlib import Path

random.seed(7)
words = sorted({"".join(random.choices("abcde", k=3)) for _ in range(400)})
random.shuffle(words)
for name, part in (("train", words[:-30]), ("test", words[-30:])):
    with open(Path(__file__).with_name(f"parts.{name}.jsonl"), "w") as file:
        for word in part:
            text = f"<caption>{word}</caption><think>{''.join(sorted(word))}</think>"
            print(json.dumps({"prompt": f"{word}|", "text": text}), file=file)
