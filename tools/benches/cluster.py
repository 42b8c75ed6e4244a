#!/usr/bin/env python3
"""Compares predictions of `mopd plan --predict --cluster` for a stage with served teachers with the measured time of the stage.

    tools/benches/cluster.py MODEL --mopd target/release/mopd --parameters 70e6 [--steps 5] [--cores 0 1]

Each set-up is a run of its own: a student that starts from MODEL, and one to four teachers behind `mopd serve`, one for each domain, with the
same weights. The student's machine is one core and the teachers' another, each pinned with `taskset`, so that they are two nodes of a cluster
as far as one machine can be that: the teachers are one pool, whose tasks wait for each other. Needs Linux, and a MODEL that seldom ends a
text by itself, such as those of `random_checkpoint.py`: the simulation takes every completion to be as long as its limit.

The rates of the cluster file are measured first, in three runs of other sizes with one teacher: operations a second of the student's core from
its updates, of the teachers' from scores, and bytes a second from rollouts; medians. The time of a step is the sum of its parts, as `mopd run
--format json` says them.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

from against_servers import Server, text


class SetUp:
    def __init__(self, teachers, prompts, new):
        self.teachers, self.prompts, self.new = teachers, prompts, new

    def __str__(self):
        return f"{self.teachers} teacher{'s' if self.teachers > 1 else ''}, {self.prompts} completions of {self.new} tokens"


SET_UPS = [SetUp(1, 8, 32), SetUp(2, 8, 32), SetUp(3, 12, 32), SetUp(4, 8, 32), SetUp(2, 4, 96)]
# Words of a prompt; a word of `against_servers` has about one token.
PROMPT = 48


def experiment(folder, model, set_up, steps, urls):
    names = [f"d{place}" for place in range(set_up.teachers)]
    domains = "".join(f'domain {name} {{ prompts = "{name}.jsonl", format = text, reward = exact_match, share = 1/{set_up.teachers} }}\n' for name in names)
    teachers = "".join(
        f'teacher t{place} = served("vllm", url: "{url}", model: "{model}", answers: sampled) {{ origin = same }}\n'
        for place, url in enumerate(urls)
    )
    routes = ", ".join(f"domain == {name} -> t{place}" for place, name in enumerate(names))
    for place, name in enumerate(names):
        rows = [{"prompt": text(PROMPT, 1000 * place + row), "answer": "a"} for row in range(64)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"""use std.opd.mopd

experiment "cluster" {{ seed = 1 }}
{domains}
model base = hf("{model}")
{teachers}route {{ {routes} }}

model student = distill(base) {{
  objective = mopd
  rollout   = sample(n: 1, temperature: 1, max_tokens: {set_up.new})
  prompts   = {set_up.prompts}
  steps     = {steps}
  lr        = 1e-6
}}
"""
    (folder / "cluster.mopd").write_text(source)
    return folder / "cluster.mopd"


def started(arguments, set_up, folder, work):
    """Calls `work` on the experiment of a set-up while its teachers are served. Returns its result."""
    servers = []
    try:
        for _ in range(set_up.teachers):
            serve = f"taskset -c {arguments.cores[1]} {arguments.mopd} serve {arguments.model} --port {{port}}"
            servers.append(Server(serve, ""))
        return work(experiment(folder, arguments.model, set_up, arguments.steps + 1, [server.url for server in servers]))
    finally:
        for server in servers:
            server.stop()


def output_of(command, folder):
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if output.returncode:
        sys.exit(f"{shlex.join(command)}: {output.stdout[-2000:]}{output.stderr[-2000:]}")
    return output.stdout


def measured(arguments, set_up, folder):
    """Medians of the seconds of a step's parts, without the first step."""

    def work(file):
        command = [arguments.mopd, "run", str(file), "--fresh", "--predict", "never", "--format", "json"]
        lines = output_of(["taskset", "-c", arguments.cores[0], *command], folder).splitlines()
        steps = [event for event in map(json.loads, lines) if event["event"] == "step"][1:]
        assert all(step["tokens"] == set_up.prompts * set_up.new for step in steps), "a completion is shorter than its limit"
        return {part: statistics.median(step["seconds"][part] for step in steps) for part in ["rollout", "scoring", "update"]}

    return started(arguments, set_up, folder, work)


def rates(arguments, folder):
    """The rates of the two nodes, from runs of other sizes: operations a second, and bytes a second of the student's."""
    sizes = SetUp(1, 6, 48)
    runs = [measured(arguments, sizes, folder) for _ in range(3)]
    parts = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
    weights, tokens = arguments.parameters, PROMPT + sizes.new
    student = 6 * weights * tokens * sizes.prompts / parts["update"]
    teachers = 2 * weights * tokens * sizes.prompts / parts["scoring"]
    prompts = 2 * weights * PROMPT * sizes.prompts / student
    return student, teachers, 4 * weights * sizes.new / (parts["rollout"] - prompts)


def predicted(arguments, set_up, folder, cluster):
    """The predicted seconds of a step, and the bottleneck."""
    (folder / "cluster.toml").write_text(cluster)

    def work(file):
        said = output_of([arguments.mopd, "plan", str(file), "--predict", "--cluster", "cluster.toml"], folder)
        step = re.search(r", ([0-9.]+) (ms|s) a step", said)
        return float(step[1]) * {"ms": 1e-3, "s": 1.0}[step[2]], re.search(r"bottleneck: ([^,]+)", said)[1]

    return started(arguments, set_up, folder, work)


def cluster(arguments, set_up, rates):
    student, teachers, bandwidth = rates
    served = "".join(f"t{place} = {arguments.parameters}\n" for place in range(set_up.teachers))
    return f"""student = "student"
teacher = "teachers"
prompt_tokens = {PROMPT}
weight_bytes = 4

[parameters]
base = {arguments.parameters}
{served}
[nodes.one]
gpus = 1
flops = {student}
memory_bandwidth = {bandwidth}
memory = 16e9

[nodes.two]
gpus = 1
flops = {teachers}
memory_bandwidth = {bandwidth}
memory = 16e9

[network]
bandwidth = 1e9
latency = 1e-3

[pools.student]
node = "one"
gpus = 1

[pools.teachers]
node = "two"
gpus = 1
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--mopd", required=True)
    parser.add_argument("--parameters", type=float, required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--cores", nargs=2, default=["0", "1"])
    arguments = parser.parse_args()
    arguments.mopd, arguments.model = os.path.abspath(arguments.mopd), os.path.abspath(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        found = rates(arguments, folder)
        print("student {:.3g}, teachers {:.3g} operations/s; {:.3g} bytes/s".format(*found), file=sys.stderr)
        print("| set-up | predicted | measured | predicted / measured | of that rollout, scoring, update | bottleneck |")
        print("|---|---|---|---|---|---|")
        for set_up in SET_UPS:
            parts = measured(arguments, set_up, folder)
            step, bottleneck = predicted(arguments, set_up, folder, cluster(arguments, set_up, found))
            whole = sum(parts.values())
            shown = ", ".join(f"{seconds:.2f}" for seconds in parts.values())
            print(f"| {set_up} | {step:.2f} s | {whole:.2f} s | {step / whole:.2f} | {shown} | {bottleneck} |", flush=True)


if __name__ == "__main__":
    main()
