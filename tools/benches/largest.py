#!/usr/bin/env python3
"""Predicts, and where it fits measures, the memory of a distillation step with models in the shapes of Qwen3.

    tools/benches/largest.py FOLDER --tokenizer TOKENIZER --mopd target/release/mopd [--sizes 0.6B,1.7B,4B] [--teachers 1,4,16]
                       [--trained full,lora] [--dtype bfloat16] [--batch 8] [--new 64] [--measure GIB]

Checkpoints are written into FOLDER: all numbers are zero except one in each file, so that no two have the same content. Files of zeros
take no room on a disk with sparse files. Memory depends on shapes alone. Each student has teachers of its own shape. A prediction is that of
`mopd plan --predict=full` for `micro_batch = 1` and `checkpointing = all`; with `--measure`, stages that are predicted to
take at most so many GiB run for two steps. Prints a table in Markdown.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import random_checkpoint

# Width, layers, hidden units of the feed-forward part, heads, heads of keys and values, as in the models' `config.json`.
SHAPES = {"0.6B": (1024, 28, 3072, 16, 8), "1.7B": (2048, 28, 6144, 16, 8), "4B": (2560, 36, 9728, 32, 8)}
VOCABULARY, HEAD = 151_936, 128


def shapes(width, layers, hidden, heads, key_value_heads):
    yield "model.embed_tokens.weight", (VOCABULARY, width)
    for layer in range(layers):
        name = f"model.layers.{layer}."
        yield name + "self_attn.q_proj.weight", (heads * HEAD, width)
        yield name + "self_attn.k_proj.weight", (key_value_heads * HEAD, width)
        yield name + "self_attn.v_proj.weight", (key_value_heads * HEAD, width)
        yield name + "self_attn.o_proj.weight", (width, heads * HEAD)
        yield name + "self_attn.q_norm.weight", (HEAD,)
        yield name + "self_attn.k_norm.weight", (HEAD,)
        yield name + "mlp.gate_proj.weight", (hidden, width)
        yield name + "mlp.up_proj.weight", (hidden, width)
        yield name + "mlp.down_proj.weight", (width, hidden)
        yield name + "input_layernorm.weight", (width,)
        yield name + "post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)


def write(folder, size, tokenizer, number):
    """Writes a checkpoint in bfloat16 whose first number has the bits of `number`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in random_checkpoint.TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    width, layers, hidden, heads, key_value_heads = SHAPES[size]
    ids = random_checkpoint.special_ids(tokenizer)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "vocab_size": VOCABULARY,
        "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads, "head_dim": HEAD, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000, "tie_word_embeddings": True, "attention_bias": False, "torch_dtype": "bfloat16", **ids,
    }, indent=2) + "\n")
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes(*SHAPES[size]):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * count]}
        end += 2 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text + number.to_bytes(2, "little"))
        out.truncate(8 + len(text) + end)


def source(student, teachers, trained, arguments):
    lines = ["use std.opd.mopd_full", "", f'experiment "largest" {{ seed = 1, dtype = {arguments.dtype} }}', ""]
    count = len(teachers)
    lines += [f'domain d{i} {{ prompts = "prompts.jsonl", format = text, reward = exact_match, share = 1/{count} }}'
              for i in range(count)]
    lines += ["", f'model start = hf("{student}")']
    for i, teacher in enumerate(teachers):
        lines += [f'model guide{i} = hf("{teacher}")', "// allow(foreign-teacher): only its cost is measured",
                  f"teacher t{i} = guide{i} {{ origin = foreign }}"]
    lines += ["route {"] + [f"  domain == d{i} -> t{i}" for i in range(count)] + ["}", ""]
    lines += ["model learner = distill(start) {", "  objective = mopd_full()",
              f"  rollout   = sample(n: 1, temperature: 1.0, max_tokens: {arguments.new})",
              f"  prompts   = {arguments.batch}", "  steps     = 2", "  lr        = 1e-6",
              "  micro_batch = 1", "  checkpointing = all"]
    if trained == "lora":
        lines.append("  adapter   = lora(rank: 16, alpha: 32, targets: [attention, feed_forward])")
    return "\n".join(lines + ["}", ""])


def mopd(arguments, *command, at):
    command = [pathlib.Path(arguments.mopd).absolute(), *map(str, command)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=at)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}{done.stdout}")
    return done.stdout


def entry(trained, student, teachers, arguments):
    """Memory in GiB, predicted and measured; the latter if it is requested and within the bound."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        work = pathlib.Path(work)
        prompts = [{"prompt": f"State the final answer to: {n} + 7", "answer": str(n + 7)} for n in range(200, 328)]
        (work / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
        (work / "largest.mopd").write_text(source(student, teachers, trained, arguments))
        said = mopd(arguments, "plan", "largest.mopd", "--predict=full", at=work)
        found = re.search(r"^predicted learner: .*peak memory ([\d.]+) (MiB|GiB)", said, re.MULTILINE)
        if not found:
            sys.exit(f"no prediction in\n{said}")
        predicted = float(found[1]) / (1024 if found[2] == "MiB" else 1)
        if predicted > arguments.measure:
            return predicted, None
        mopd(arguments, "run", "largest.mopd", "--predict=never", "--out", "out", at=work)
        results = json.loads(next((work / "out").rglob("results.json")).read_text())
        return predicted, max(stage["peak_memory"] or 0 for stage in results["stages"]) / 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokenizer", required=True, type=pathlib.Path)
    parser.add_argument("--mopd", required=True)
    parser.add_argument("--sizes", default="0.6B,1.7B,4B")
    parser.add_argument("--teachers", default="1,4,16")
    parser.add_argument("--trained", default="full,lora")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--measure", type=float, default=0.0, metavar="GIB")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.teachers.split(",")]
    print("| student | trained | teachers | predicted | measured |\n|---|---|---:|---:|---:|")
    for size in arguments.sizes.split(","):
        folders = [arguments.folder.absolute() / f"{size}-{i}" for i in range(max(counts) + 1)]
        for i, folder in enumerate(folders):
            write(folder, size, arguments.tokenizer, 0x3c00 + i)
        for trained in arguments.trained.split(","):
            for count in counts:
                predicted, measured = entry(trained, folders[0], folders[1:count + 1], arguments)
                seen = "" if measured is None else f"{measured:.2f} GiB"
                print(f"| {size} | {trained} | {count} | {predicted:.2f} GiB | {seen} |", flush=True)


if __name__ == "__main__":
    main()
