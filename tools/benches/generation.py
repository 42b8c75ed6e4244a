#!/usr/bin/env python3
"""Compares completions of one model alone by `mopd`, llama.cpp and transformers: tokens a second.

    tools/benches/generation.py MODEL --mopd target/release/mopd --python venv/bin/python
        [--llama llama-batched-bench --gguf model.gguf] [--dtype float32]
        [--batch 1,8,32] [--new 64] [--prompt 64] [--threads 2] [--rounds 3]

Whole rollouts are measured: the prompts are read and `--new` tokens are written after each; the rate is new tokens by the time
of both. `mopd` samples at temperature 1 and keeps the log-probability of each token, transformers samples at temperature 1 without them,
`llama-batched-bench` (a program of llama.cpp) neither samples nor has log-probabilities: it decodes given tokens. The GGUF has the
numbers of `--dtype`. Each shape is measured in its own process, all programs in turn, round after round; medians are printed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

TRANSFORMERS = """
import json, sys, time
import torch
from transformers import AutoModelForCausalLM
model, dtype, batch, new, prompt, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(threads)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval().to(device)
ids = torch.randint(0, model.config.vocab_size, (batch, prompt), device=device)
settings = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)
with torch.inference_mode():
    model.generate(ids[:1, :8], max_new_tokens=2, min_new_tokens=2, attention_mask=torch.ones_like(ids[:1, :8]), **settings)
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    model.generate(ids, max_new_tokens=new, min_new_tokens=new, attention_mask=torch.ones_like(ids), **settings)
    print(json.dumps(batch * new / (time.perf_counter() - begin)))
"""


def last_line(command, **settings):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:4])} ... failed:\n{done.stderr[-2000:]}")
    return done.stdout


def of_mopd(arguments, batch, new):
    text = last_line([arguments.mopd, "bench", "generate", arguments.model, "--dtype", arguments.dtype, "--json", "--rounds", "1",
                      "--batch", str(batch), "--new", str(new), "--prompt", str(arguments.prompt)])
    figures = json.loads(text)
    [shape] = figures["figures"]
    return shape["tokens_per_second"], {"floor": batch * new / shape["floor"], "machine": figures["machine"], "memory": shape["memory"],
                                        "predicted": shape["predicted_memory"]}


def of_llama(arguments, batch, new):
    context = batch * (arguments.prompt + new + 8)
    text = last_line([arguments.llama, "-m", arguments.gguf, "-c", str(context), "-b", "2048", "-ub", "512", "-npp", str(arguments.prompt),
                      "-ntg", str(new), "-npl", str(batch), "-t", str(arguments.threads), "-tb", str(arguments.threads),
                      "--output-format", "jsonl"])
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    # It ends with status 0 where it could not decode.
    return batch * new / lines[0]["t"] if lines else None, {}


def of_transformers(arguments, batch, new):
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(TRANSFORMERS)
        script.flush()
        shape = [str(value) for value in (batch, new, arguments.prompt, arguments.threads)]
        text = last_line([arguments.python, script.name, arguments.model, arguments.dtype, *shape])
    return json.loads(text.splitlines()[-1]), {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--mopd", required=True)
    parser.add_argument("--python", help="with torch and transformers; left out where absent")
    parser.add_argument("--llama", help="llama-batched-bench; left out where absent")
    parser.add_argument("--gguf")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser.add_argument("--batch", type=numbers, default=[1, 8, 32])
    parser.add_argument("--new", type=numbers, default=[64])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if bool(arguments.llama) != bool(arguments.gguf):
        parser.error("--llama and --gguf belong together")
    programs = {"mopd": of_mopd}
    if arguments.llama:
        programs["llama.cpp"] = of_llama
    if arguments.python:
        programs["transformers"] = of_transformers
    shapes = [(batch, new) for new in arguments.new for batch in arguments.batch]
    rates, facts = {}, {}
    for _ in range(arguments.rounds):
        for shape in shapes:
            for name, measure in programs.items():
                rate, fact = measure(arguments, *shape)
                # A later failure loses none of these.
                print(f"{shape[0]} x {shape[1]}, {name}: " + (f"{rate:.0f} tokens a second" if rate else "no result"), file=sys.stderr)
                rates.setdefault((shape, name), []).extend([rate] if rate else [])
                if fact:
                    facts.setdefault(shape, []).append(fact)
    machine = {key: max(fact["machine"][key] for of in facts.values() for fact in of) for key in ("float32", "bfloat16", "memory")}
    print(f"{arguments.dtype}, prompts of {arguments.prompt} tokens, {arguments.rounds} rounds; seen of this machine: "
          f"{machine['float32'] / 1e9:.0f} GFLOP/s in float32, {machine['bfloat16'] / 1e9:.0f} in bfloat16, {machine['memory'] / 1e9:.0f} GB/s\n")
    others = [name for name in programs if name != "mopd"]
    print("| completions | new tokens | mopd | " + "".join(f"{name} | times {name} | " for name in others) + "times the floor | memory, predicted |")
    print("|---:|---:|---:|" + "---:|---:|" * len(others) + "---:|---:|")
    for shape in shapes:
        of = {name: statistics.median(rates[shape, name]) for name in programs if rates[shape, name]}
        floor = max(fact["floor"] for fact in facts[shape])
        memory = max(fact["memory"] or 0 for fact in facts[shape]) / 2**20
        predicted = facts[shape][0]["predicted"] / 2**20
        print(f"| {shape[0]} | {shape[1]} | {of['mopd']:.0f} | " + "".join(f"{of[name]:.0f} | {of['mopd'] / of[name]:.2f} | " if name in of else "| | " for name in others)
              + f"{floor / of['mopd']:.2f} | {memory:.0f}, {predicted:.0f} MiB |")


if __name__ == "__main__":
    main()
