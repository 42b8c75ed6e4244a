#!/usr/bin/env python3
"""Measures the cost of a distillation step against batch, length, vocabulary, teachers, and what is trained and kept.

    tools/benches/cost.py measure --mopd target/release/mopd --csv cost.csv [--quiet COMMAND] [--only batch] [--dtype float32]
    tools/benches/cost.py plot --csv cost.csv --svg book/src/cost.svg

`measure` writes checkpoints of one shape with random weights into a temporary folder and runs `mopd bench distill` on them, one change at a time; each
point becomes a line of the file, as soon as it is known. `plot` draws what such a file holds. Needs numpy and safetensors, and matplotlib
for the plot. `--quiet` is put in front of each run: a command that keeps others off the machine meanwhile.
"""
import argparse
import csv
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZER = HERE.parent / "tests" / "reference" / "text" / "smollm"
# Small enough that all points take minutes, large enough that products, not calls, take the time: 21 million parameters.
SHAPE = {"layers": 8, "width": 384, "heads": 6, "key-value-heads": 2, "hidden": 1024}
BASE = {"batch": 8, "new": 64, "vocabulary": 16384, "teachers": 1, "options": ""}
LONG = {**BASE, "batch": 16, "new": 192}
SWEEPS = {
    "batch": [{**BASE, "batch": batch} for batch in (2, 8, 32)],
    "new": [{**BASE, "new": new} for new in (16, 64, 256)],
    "vocabulary": [{**BASE, "vocabulary": entries} for entries in (4096, 16384, 65536, 131072)],
    "teachers": [{**BASE, "batch": 16, "teachers": count} for count in (1, 4, 16)],
    "kept": [{**LONG, "options": options} for options in
             ("", "--checkpointing 4", "--checkpointing all", "--micro-batch 4", "--lora 16", "--lora 16 --checkpointing all")],
}
PARTS = ["rollout", "scoring", "update", "step"]
COLUMNS = (["sweep", "dtype", *BASE, "tokens", "prompt_tokens"] + [f"{part}_seconds" for part in PARTS] + [f"{part}_floor" for part in PARTS]
           + ["peak_memory", "stage_peak_memory", "float32_rate", "bfloat16_rate", "memory_rate"])


def checkpoints(folder, vocabulary, count):
    """A student and this many teachers, made where they do not exist yet."""
    paths = [folder / str(vocabulary) / str(index) for index in range(count + 1)]
    for seed, path in enumerate(paths):
        if not (path / "model.safetensors").exists():
            sizes = [word for name, value in {**SHAPE, "vocabulary": vocabulary}.items() for word in (f"--{name}", str(value))]
            subprocess.run([sys.executable, str(HERE / "random_checkpoint.py"), str(path), "--tokenizer", str(TOKENIZER),
                            "--seed", str(seed), *sizes], check=True)
    return [str(path) for path in paths]


def measured(point, models, arguments):
    command = [*shlex.split(arguments.quiet), arguments.mopd, "bench", "distill", *models, "--json", "--dtype", arguments.dtype,
               "--batch", str(point["batch"]), "--new", str(point["new"]), "--steps", str(arguments.steps), *point["options"].split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    figures = json.loads(done.stdout)
    line = {**point, "dtype": arguments.dtype, **{name: figures[name] for name in ("tokens", "prompt_tokens", "peak_memory", "stage_peak_memory")}}
    line.update({f"{part}_seconds": round(figures["seconds"][part], 4) for part in PARTS})
    line.update({f"{part}_floor": round(figures["floor"][part], 4) for part in PARTS})
    line.update({f"{name}_rate": round(value) for name, value in figures["machine"].items()})
    return line


def measure(arguments):
    known = {}
    with open(arguments.csv, "w", newline="") as file, tempfile.TemporaryDirectory() as folder:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for sweep in arguments.only or SWEEPS:
            for point in SWEEPS[sweep]:
                key = tuple(point.values())
                if key not in known:
                    models = checkpoints(pathlib.Path(folder), point["vocabulary"], point["teachers"])
                    known[key] = measured(point, models, arguments)
                writer.writerow({"sweep": sweep, **known[key]})
                file.flush()
                print(f"{sweep}: {point} {known[key]['step_seconds']:.2f} s", file=sys.stderr)


def plot(arguments):
    import matplotlib
    matplotlib.use("svg")
    # Keeps text as text, and makes the file the same every time.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cost", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    import matplotlib.pyplot as pyplot

    with open(arguments.csv, newline="") as file:
        lines = list(csv.DictReader(file))
    of = lambda sweep: [line for line in lines if line["sweep"] == sweep]
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
    colours = {"rollout": "#4477aa", "scoring": "#ccbb44", "update": "#ee6677"}
    names = {"batch": "sequences of a step", "new": "new tokens of a sequence", "vocabulary": "entries of the vocabulary",
             "teachers": "teachers, of one shape"}
    for axis, sweep in zip(axes.flat, names):
        points = of(sweep)
        if not points:
            axis.set_axis_off()
            continue
        places = range(len(points))
        below = [0.0] * len(points)
        for part, colour in colours.items():
            values = [float(point[f"{part}_seconds"]) for point in points]
            axis.bar(places, values, 0.6, below, color=colour, label=part)
            below = [one + other for one, other in zip(below, values)]
        axis.plot(places, [float(point["step_floor"]) for point in points], "k_", markersize=14, label="floor")
        axis.set_xticks(places, [f"{int(point[sweep]):,}" for point in points])
        axis.set_xlabel(names[sweep])
        axis.set_ylabel("seconds a step")
    axes.flat[0].legend(frameon=False)
    gib = lambda point: float(point["stage_peak_memory"] or "nan") / 2**30
    axis, points = axes.flat[4], of("teachers")
    axis.bar(range(len(points)), [gib(point) for point in points], 0.6, color="#66ccee")
    axis.set_xticks(range(len(points)), [point["teachers"] for point in points])
    axis.set_xlabel(names["teachers"])
    axis.set_ylabel("peak memory of the stage, GiB")
    axis, points = axes.flat[5], of("kept")
    axis.barh(range(len(points)), [gib(point) for point in points], 0.6, color="#66ccee")
    labels = [point["options"].replace("--", "") or "all kept, all trained" for point in points]
    axis.set_yticks(range(len(points)), labels)
    for place, point in enumerate(points):
        axis.text(gib(point), place, f" {float(point['step_seconds']):.2f} s", va="center")
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.set_xlabel("peak memory of the stage, GiB")
    figure.savefig(arguments.svg, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--mopd", required=True, help="the program")
    measuring.add_argument("--csv", required=True)
    measuring.add_argument("--steps", type=int, default=5)
    measuring.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    measuring.add_argument("--only", action="append", choices=list(SWEEPS), help="may be given several times")
    measuring.add_argument("--quiet", default="", help="a command to put in front of each run")
    measuring.set_defaults(run=measure)
    plotting = commands.add_parser("plot")
    plotting.add_argument("--csv", required=True)
    plotting.add_argument("--svg", required=True)
    plotting.set_defaults(run=plot)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
