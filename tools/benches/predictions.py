#!/usr/bin/env python3
"""Compares the predictions of `mopd run` for five plans with what they take, on an idle machine and on a busy one.

    tools/benches/predictions.py STUDENT TEACHER --mopd target/release/mopd [--busy 1,0] [--plans kl,teachers,...] [--scale 1]

STUDENT and TEACHER are model folders; `random_checkpoint.py` writes some whose completions never end early. With `--busy 1` a
program keeps one core busy from before the prediction to the end. `--scale 2` takes twice the tokens and steps. Prints a table in
Markdown.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile


def distill(settings=(), domains=("sums",), dtype="float32"):
    """An experiment with full KL and a teacher for each domain."""
    def source(files, scale):
        lines = ["use std.opd.mopd_full", "", f'experiment "predictions" {{ seed = 1, dtype = {dtype} }}']
        lines += [f'domain {name} {{ prompts = "prompts.jsonl", format = text, reward = exact_match, share = 1/{len(domains)} }}'
                  for name in domains]
        lines += [f'model start = hf("{files["student"]}")', f'model strong = hf("{files["teacher"]}")']
        for name in domains:
            lines += ["// allow(foreign-teacher): only its cost is measured", f"teacher of_{name} = strong {{ origin = foreign }}"]
        lines += ["route {"] + [f"  domain == {name} -> of_{name}" for name in domains] + ["}"]
        lines += ["model learner = distill(start) {", "  objective = mopd_full()",
                  f"  rollout = sample(n: 1, temperature: 1.0, max_tokens: {32 * scale})",
                  "  prompts = 4", f"  steps = {4 * scale}", "  lr = 1e-6"]
        return "\n".join(lines + [f"  {setting}" for setting in settings] + ["}", ""])
    return source


def reinforce(files, scale):
    return "\n".join([
        'experiment "predictions" { seed = 1, dtype = float32 }',
        'domain sums { prompts = "prompts.jsonl", format = text, reward = exact_match, share = 1 }',
        f'model start = hf("{files["student"]}")', "model learner = grpo(start, on: sums) {",
        f"  steps = {4 * scale}", "  prompts = 2", "  samples = 4", f"  max_tokens = {24 * scale}", "  lr = 1e-6",
        "  micro_batch = 4", "}", ""])


def fine_tune(files, scale):
    return "\n".join([
        'experiment "predictions" { seed = 1, dtype = bfloat16 }',
        'domain sums { prompts = "prompts.jsonl", format = text, reward = exact_match, share = 1 }',
        f'model start = hf("{files["student"]}")', "model learner = sft(start, on: sums) {",
        f"  target = answer\n  steps = {8 * scale}", "  batch = 16", "  lr = 1e-6", "}", ""])


PLANS = {
    "kl": ("distillation in `bfloat16`, full KL", distill(dtype="bfloat16")),
    "teachers": ("full KL from two teachers, `micro_batch = 2`, `checkpointing = all`",
                 distill(["micro_batch = 2", "checkpointing = all"], domains=("sums", "more"))),
    "lora": ("distillation, full KL, LoRA of rank 16",
             distill(["adapter = lora(rank: 16, alpha: 32, targets: [attention, feed_forward])"])),
    "grpo": ("GRPO, 2 prompts x 4 samples, `micro_batch = 4`", reinforce),
    "sft": ("fine-tuning in `bfloat16`, 16 sequences a step", fine_tune),
}


def measure(plan, files, arguments):
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        prompts = [{"prompt": f"State the final answer to: {n} + 7", "answer": str(n + 7)} for n in range(200, 328)]
        (work / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
        (work / "predictions.mopd").write_text(PLANS[plan][1](files, arguments.scale))
        command = [arguments.mopd, "run", "predictions.mopd", "--predict=full", "--out", "out"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=work)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}{done.stdout}")
        results = json.loads(next((work / "out").rglob("results.json")).read_text())
        return next(stage for stage in results["stages"] if stage["predicted"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=pathlib.Path)
    parser.add_argument("teacher", type=pathlib.Path)
    parser.add_argument("--mopd", required=True)
    parser.add_argument("--busy", default="1,0")
    parser.add_argument("--plans", default=",".join(PLANS))
    parser.add_argument("--scale", type=int, default=1)
    arguments = parser.parse_args()
    arguments.mopd = str(pathlib.Path(arguments.mopd).absolute())
    files = {"student": str(arguments.student.absolute()), "teacher": str(arguments.teacher.absolute())}
    print("| stage | cores that others keep busy | seconds measured | predicted | its range | peak memory measured | predicted |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for busy in map(int, arguments.busy.split(",")):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            for plan in arguments.plans.split(","):
                stage = measure(plan, files, arguments)
                took, memory, predicted = stage["seconds"], stage["peak_memory"], stage["predicted"]
                least, most = predicted["range"]["least"], predicted["range"]["most"]
                said = [f"{PLANS[plan][0]}", str(busy), f"{took:.1f}",
                        f"{predicted['seconds']:.1f} ({predicted['seconds'] / took - 1:+.0%})", f"{least:.1f} to {most:.1f}",
                        f"{memory / 2**30:.2f} GiB",
                        f"{predicted['memory'] / 2**30:.2f} GiB ({predicted['memory'] / memory - 1:+.0%})"]
                print(f"| {' | '.join(said)} |", flush=True)
        finally:
            for other in others:
                other.kill()
                other.wait()


if __name__ == "__main__":
    main()
