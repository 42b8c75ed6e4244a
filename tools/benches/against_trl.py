#!/usr/bin/env python3
"""Compares steps of on-policy distillation in mopd and in TRL, in turn and on the same weights.

    tools/benches/against_trl.py STUDENT TEACHER --mopd target/release/mopd --python venv/bin/python --trl trl_distill.py
                           [--rounds 2] [--batch 8] [--new 64] [--steps 6] [--dtype float32] [--quiet COMMAND]

TRL's script is started as `PYTHON TRL STUDENT TEACHER --batch N --new N --steps N --dtype NAME`, in a Python that has torch and trl. It
trains with trl's DistillationTrainer on as many prompts a step, forces every completion to its full length, and ends with a line of JSON:
`step_s` (seconds of each step) and `peak_rss_gib`, or `peak_gpu_gib` on a GPU; `parts_s` (seconds of `rollout`, `scoring` and `update`, one
list each), if it tells them apart. A script without them is measured as a whole. Prompts go through the student's chat template on both sides.

Each round runs mopd and then TRL, so that other load on the machine affects both. A ratio compares figures of one round; medians
over the rounds are printed, with the lowest and the highest. The first step of each run is not counted. A completion that ends early is
less work: tokens a second count the written tokens.

`--quiet` is put in front of each single run: a command that keeps other programs off the machine meanwhile.
"""
import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

PARTS = ["rollout", "scoring", "update"]


def last_json(command, quiet):
    done = subprocess.run(shlex.split(quiet) + command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        return json.loads(done.stdout.strip().splitlines()[-1])


def counted(seconds):
    return statistics.median(seconds[1:] or seconds)


def ours(arguments):
    command = [arguments.mopd, "bench", "distill", arguments.student, arguments.teacher, "--chat", "--json"]
    for name in ["batch", "new", "steps", "dtype"]:
        command += [f"--{name}", str(getattr(arguments, name))]
    figures = last_json(command, arguments.quiet)
    return {
        "seconds": {part: figures["seconds"][part] for part in [*PARTS, "step"]},
        "floor": {part: figures["floor"][part] for part in [*PARTS, "step"]},
        "rate": figures["tokens_per_second"]["step"],
        "memory": figures["peak_memory"] / 2**30,
        "machine": figures["machine"],
    }


def theirs(arguments):
    command = [arguments.python, arguments.trl, arguments.student, arguments.teacher]
    for name in ["batch", "new", "steps", "dtype"]:
        command += [f"--{name}", str(getattr(arguments, name))]
    figures = last_json(command, arguments.quiet)
    seconds = {"step": counted(figures["step_s"])}
    seconds.update({part: counted(values) for part, values in figures.get("parts_s", {}).items() if part in PARTS})
    return {
        "seconds": seconds,
        "rate": arguments.batch * arguments.new / seconds["step"],
        "memory": figures.get("peak_gpu_gib", figures["peak_rss_gib"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("teacher")
    parser.add_argument("--mopd", required=True, help="the program")
    parser.add_argument("--python", required=True, help="a Python with torch and trl")
    parser.add_argument("--trl", default=str(pathlib.Path(__file__).with_name("trl_distill.py")), help="TRL's script [trl_distill.py beside this one]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--quiet", default="", help="a command to put in front of each run")
    parser.add_argument("--json", action="store_true", help="every figure of every round")
    arguments = parser.parse_args()

    rounds = []
    for number in range(arguments.rounds):
        rounds.append((ours(arguments), theirs(arguments)))
        mine, other = rounds[-1]
        print(f"round {number + 1}: mopd {mine['seconds']['step']:.2f} s, TRL {other['seconds']['step']:.2f} s a step", file=sys.stderr)
    if arguments.json:
        print(json.dumps([{"mopd": mine, "trl": other} for mine, other in rounds], indent=2))
        return

    def line(name, unit, of, ratio):
        pairs = [(of(mine), of(other)) for mine, other in rounds]
        ratios = [ratio(*pair) for pair in pairs]
        mine, other = (statistics.median(values) for values in zip(*pairs))
        print(f"| {name} | {mine:.2f} {unit} | {other:.2f} {unit} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")

    print(f"{arguments.dtype}, {arguments.batch} prompts a step, {arguments.new} new tokens, {arguments.steps} steps, {arguments.rounds} rounds\n")
    print("| | mopd | TRL | ratio |\n|---|---:|---:|---:|")
    line("tokens a second", "", lambda side: side["rate"], lambda mine, other: mine / other)
    line("peak memory", "GiB", lambda side: side["memory"], lambda mine, other: mine / other)
    for part in ["step", *PARTS]:
        if all(part in side["seconds"] for pair in rounds for side in pair):
            line(part, "s", lambda side: side["seconds"][part], lambda mine, other: other / mine)
        else:
            mine = statistics.median(mine["seconds"][part] for mine, _ in rounds)
            print(f"| {part} | {mine:.2f} s | not told | |")
    floor = statistics.median(mine["floor"]["step"] for mine, _ in rounds)
    above = statistics.median(mine["seconds"]["step"] / mine["floor"]["step"] for mine, _ in rounds)
    machine = {name: max(mine["machine"][name] for mine, _ in rounds) for name in rounds[0][0]["machine"]}
    print(f"\nfloor of this machine {floor:.2f} s a step, mopd at {above:.2f} times it; {machine['float32'] / 1e9:.0f} GFLOP/s in float32,"
          f" {machine['bfloat16'] / 1e9:.0f} in bfloat16, {machine['memory'] / 1e9:.1f} GB/s from memory")


if __name__ == "__main__":
    main()
