#!/usr/bin/env python3
"""Checks mopd on this machine's GPU against results of a CPU: started by `run` in the bundle that `./x gpu` makes.

    check.py BUNDLE [--out FOLDER] [--cpu] [--skip quickstart] [--skip step]

Nothing is fetched. A torch 2.11 with CUDA must be here: that of this Python, or the libtorch that LIBTORCH names; and numpy, for the
last check. Checks, in turn:

  parity       the losses of tools/gpu/parity.mopd, step by step, against those recorded on a CPU, in float32 and in bfloat16
  determinism  the same run twice: the same losses and the same weights, bit for bit
  quickstart   the table of examples/quickstart.mopd beside the recorded one
  step         steps of distillation between two models of Qwen3-0.6B's size in bfloat16: seconds, tokens a second, memory

Prints a table and writes check.json beside the results. The exit status is 1 if a check fails. `--cpu` runs the same on the CPU, small:
this is how the bundle itself is tested.
"""
import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys

# Tolerance of a loss, relative to the larger of it and 1: for other orders of sums, and in bfloat16 roundings between operators. It applies to
# each stage's first step, and to half of all steps: a token that is drawn differently, because of rounding, changes the rest by more.
TOLERANCES = {"float32": 2e-4, "bfloat16": 5e-2}


def libtorch():
    if os.environ.get("LIBTORCH"):
        return os.environ["LIBTORCH"]
    try:
        import torch
    except ImportError:
        sys.exit("check.py: this Python has no torch, and LIBTORCH names no folder: `pip install torch==2.11.0`, or set LIBTORCH")
    return str(pathlib.Path(torch.__file__).parent)


class Checks:
    def __init__(self, bundle, out, device):
        self.bundle, self.out, self.device = bundle.resolve(), out.resolve(), device
        self.environment = {**os.environ, "LIBTORCH": libtorch()}
        self.found = {}
        self.out.mkdir(parents=True, exist_ok=True)

    def mopd(self, *words):
        done = subprocess.run([str(self.bundle / "mopd"), *words], cwd=self.out, env=self.environment, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"check.py: `mopd {' '.join(words)}` failed with status {done.returncode}")
        return done.stdout

    def run(self, source, name, dtype):
        """Runs a file of the bundle from nothing on the device, in its own folder. Returns events and results folder."""
        text = source.read_text()
        header = f'{{ seed = 1, device = {self.device}, dtype = {dtype} }}'
        assert "{ seed = 1 }" in text, f"{source} has a header"
        copy = self.bundle / f".{name}.mopd"
        copy.write_text(text.replace("{ seed = 1 }", header, 1))
        folder = self.out / name
        folder.mkdir(exist_ok=True)
        words = ["run", str(copy), "--out", str(folder / "results"), "--fresh", "--predict", "never", "--format", "json"]
        return [json.loads(line) for line in self.mopd(*words).splitlines()], folder / "results"

    def say(self, check, passed, text, **figures):
        self.found[check] = {"passed": passed, "text": text, **figures}
        print(f"{'pass' if passed else 'FAIL'}  {check:<24} {text}", flush=True)

    def parity(self):
        recorded = json.loads((self.bundle / "recorded.json").read_text())
        for dtype, tolerance in TOLERANCES.items():
            events, results = self.run(self.bundle / "parity.mopd", f"parity-{dtype}", dtype)
            losses, expected = losses_of(events), recorded["parity"][dtype]
            if sorted(losses) != sorted(expected):
                sys.exit(f"check.py: the steps that ran are not those that were recorded: {sorted(set(losses) ^ set(expected))[:4]}")
            apart = {step: abs(losses[step] - expected[step]) / max(1.0, abs(expected[step])) for step in losses}
            first = max(distance for step, distance in apart.items() if step.endswith(" 0"))
            median, worst = statistics.median(apart.values()), max(apart, key=apart.get)
            self.say(
                f"parity, {dtype}", max(first, median) <= tolerance,
                f"{len(losses)} losses; from the CPU's, first steps are at most {first:.1e}, half of all {median:.1e}, the farthest "
                f"{apart[worst]:.1e} ({worst}); {tolerance:.0e} is allowed of the first two",
            )
            again, other = self.run(self.bundle / "parity.mopd", f"again-{dtype}", dtype)
            same = losses == losses_of(again) and weights_of(results) == weights_of(other)
            self.say(f"determinism, {dtype}", same, "losses and weights of two runs " + ("are equal" if same else "differ"))

    def quickstart(self):
        events, results = self.run(self.bundle / "quickstart.mopd", "quickstart", "float32")
        recorded = json.loads((self.bundle / "recorded.json").read_text())["quickstart"]
        cells = cells_of(results)
        apart = {cell: abs(cells[cell] - recorded[cell]) for cell in recorded}
        worst = max(apart, key=apart.get)
        seconds = next(event["seconds"] for event in events if event["event"] == "finished")
        # With three seeds, a single cell that is far off is no fault, but half of them are.
        far = sum(distance > 0.15 for distance in apart.values())
        self.say(
            "quickstart", far * 2 < len(apart),
            f"{seconds:.0f} s; {len(apart)} cells, {far} more than 0.15 from the CPU's; the farthest {apart[worst]:.2f} ({worst})",
            seconds=seconds,
        )

    def step(self, sizes):
        tokenizer = self.bundle / "tokenizer"
        script = [sys.executable, str(self.bundle / "random_checkpoint.py"), "student", "teacher", "--tokenizer", str(tokenizer)]
        subprocess.run(script + [word for name, value in sizes.items() for word in (f"--{name}", str(value))], cwd=self.out, check=True)
        words = ["bench", "distill", "student", "teacher", "--dtype", "bfloat16", "--json"]
        small = self.device == "cpu"
        words += ["--batch", "2" if small else "32", "--new", "8" if small else "256", "--steps", "2" if small else "6"]
        figures = json.loads(self.mopd(*words))
        self.say(
            f"step of {'a tiny model' if small else '0.6B'}, bfloat16", True,
            f"{figures['seconds']['step']:.2f} s a step, {figures['tokens_per_second']['step']:.0f} tokens a second, "
            f"{figures['peak_memory'] / 2**30:.1f} GiB",
            figures=figures,
        )


def losses_of(events):
    return {f"{event['stage']} {event['step']}": event["loss"] for event in events if event["event"] == "step"}


def weights_of(results):
    """A hash of the weights of each model."""
    files = sorted((results / "models").glob("*/*.safetensors"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def cells_of(results):
    tables = json.loads((results / "results.json").read_text())["tables"]
    return {
        f"{row['model']}, {domain}": score["mean"]
        for table in tables for row in table["rows"] for domain, score in row["scores"].items()
    }


# The size of Qwen3-0.6B, with heads of 64 instead of 128, because `random_checkpoint.py` can't set the width of heads.
SIZES = {"layers": 28, "width": 1024, "heads": 16, "key-value-heads": 8, "hidden": 3072, "vocabulary": 151936}
SMALL = {"layers": 2, "width": 64, "heads": 4, "key-value-heads": 2, "hidden": 128, "vocabulary": 512}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("mopd-gpu-check"))
    parser.add_argument("--cpu", action="store_true", help="on the CPU, small")
    parser.add_argument("--skip", action="append", default=[], choices=["quickstart", "step"])
    arguments = parser.parse_args()
    if "step" not in arguments.skip and importlib.util.find_spec("numpy") is None:
        sys.exit("check.py: the step of 0.6B makes its models with numpy, which this Python lacks: `pip install numpy`, or `--skip step`")
    checks = Checks(arguments.bundle, arguments.out, "cpu" if arguments.cpu else "cuda")
    print(checks.mopd("doctor"))
    checks.parity()
    if "quickstart" not in arguments.skip:
        checks.quickstart()
    if "step" not in arguments.skip:
        checks.step(SMALL if arguments.cpu else SIZES)
    (checks.out / "check.json").write_text(json.dumps(checks.found, indent=2) + "\n")
    sys.exit(0 if all(found["passed"] for found in checks.found.values()) else 1)


if __name__ == "__main__":
    main()
