"""Writes the data and the tokenizer of `agent.mopd`, the same every time.

A shop has a price and a stock of each item. The demonstrations show how to call a tool and how to answer with its
result, but half of them call the wrong tool, so a model that imitates them knows the form and no more.
"""

import json
import random
from itertools import product
from pathlib import Path

FOLDER = Path(__file__).parent
ITEMS = "abcdefgh"
TOOLS = ["price", "stock"]
ASKS = ["the", "a", "what", "tell"]
# Texts that are one token each, beside the 256 bytes.
WORDS = ["<|end|>", "<|user|>", "<|assistant|>", "<|tool|>", "<tool_call>", "</tool_call>"]
WORDS += ['{"name": "', '", "arguments": {"item": "', '"}}', *TOOLS, *ASKS]


def call(tool, item):
    return f'<tool_call>{{"name": "{tool}", "arguments": {{"item": "{item}"}}}}</tool_call>'


def rows(tool, held_out):
    for place, (word, item) in enumerate(product(ASKS, ITEMS)):
        if (place % 5 == 0) == held_out:
            messages = [{"role": "user", "content": f"{word} {tool} {item}"}]
            yield {"messages": messages, "tool": tool, "item": item, "call": call(tool, item)}


def demonstrations(draw):
    for _ in range(96):
        asked, item, value = draw.choice(TOOLS), draw.choice(ITEMS), str(draw.randrange(10))
        function = {"name": draw.choice(TOOLS), "arguments": {"item": item}}
        yield {
            "messages": [
                {"role": "user", "content": f"{draw.choice(ASKS)} {asked} {item}"},
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
                {"role": "tool", "content": value},
                {"role": "assistant", "content": value},
            ],
            "call": call(asked, item),
        }


def write(name, lines):
    with open(FOLDER / name, "w") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def tokenizer():
    """One token for each byte, as byte-level tokenizers name them, and the words."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": 256 + n, "content": word, **kind, "special": word.startswith("<|")} for n, word in enumerate(WORDS)
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {names[byte]: byte for byte in range(256)}, "merges": []},
    }


if __name__ == "__main__":
    draw = random.Random(1)
    write("demonstrations.jsonl", demonstrations(draw))
    for name in TOOLS:
        write(f"{name}.jsonl", rows(name, held_out=False))
        write(f"{name}_test.jsonl", rows(name, held_out=True))
    (FOLDER / "tokenizer").mkdir(exist_ok=True)
    (FOLDER / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False) + "\n")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    (FOLDER / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
