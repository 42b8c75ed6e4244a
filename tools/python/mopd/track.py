"""Passes the events of a run on to an experiment tracker: started by `mopd run --tracker`.

    mopd run --tracker "python3 -m mopd.track wandb" mine.mopd
    mopd run --tracker "python3 -m mopd.track mlflow" mine.mopd

One run of mopd is one run of the tracker. Numbers are named `STAGE/TAG`, with the tags of the event files:
`student-seed1/loss`, `student-seed1/reward/sort`. Scores of tables are named `score/MODEL-seedN/DOMAIN`, or
`score/TABLE/MODEL-seedN/DOMAIN` if the run has several tables. The tracker's own settings say where it keeps runs
(WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, ...).

Every setting of the experiment and every swept value is part of the tracker's configuration. The runs of a sweep have one
group. At the end, the means of the tables are added to the summary as `table/TABLE/MODEL/DOMAIN`, and the completions
behind them as a table `answers`.

For another tracker, write a class with the methods `begin`, `step` and `end`, and `answers` if it has tables, and pass it
to `follow`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List

from ._program import program

#: The most completions that a tracker gets.
MOST_ANSWERS = 10_000
#: Their columns.
ANSWER = ("table", "row", "domain", "seed", "prompt", "sample", "prompt_text", "text", "reward", "tokens", "truncated")
#: MLflow refuses longer lists and longer values.
MLFLOW_PARAMS, MLFLOW_VALUE = 100, 500


class Wandb:
    """Weights & Biases; needs the package `wandb`."""

    def begin(self, run: Dict[str, Any]) -> None:
        import wandb

        self.wandb = wandb
        self.run = wandb.init(name=name_of(run), group=group_of(run), config=settings(run))
        self.stages: set = set()

    def step(self, stage: str, step: int, numbers: Dict[str, float]) -> None:
        # Stages train in parallel, so each has its own step axis.
        if stage not in self.stages:
            self.stages.add(stage)
            self.run.define_metric(f"{stage}/step")
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self.run.log({f"{stage}/step": step, **{f"{stage}/{tag}": value for tag, value in numbers.items()}})

    def answers(self, rows: List[Dict[str, Any]]) -> None:
        table = self.wandb.Table(columns=list(ANSWER), data=[[row[name] for name in ANSWER] for row in rows])
        self.run.log({"answers": table})

    def end(self, good: bool, scores: Dict[str, float]) -> None:
        self.run.summary.update(scores)
        self.run.finish(exit_code=0 if good else 1)


class Mlflow:
    """MLflow; needs the package `mlflow` or `mlflow-skinny`."""

    def begin(self, run: Dict[str, Any]) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(run["experiment"])
        group = group_of(run)
        mlflow.start_run(run_name=name_of(run), tags={"group": group} if group else None)
        params = {name_in_mlflow(name): str(value)[:MLFLOW_VALUE] for name, value in settings(run).items()}
        names = list(params)
        for at in range(0, len(names), MLFLOW_PARAMS):
            mlflow.log_params({name: params[name] for name in names[at : at + MLFLOW_PARAMS]})

    def step(self, stage: str, step: int, numbers: Dict[str, float]) -> None:
        named = {name_in_mlflow(f"{stage}/{tag}"): value for tag, value in numbers.items()}
        self.mlflow.log_metrics(named, step=step)

    def answers(self, rows: List[Dict[str, Any]]) -> None:
        self.mlflow.log_table({name: [row[name] for row in rows] for name in ANSWER}, "answers.json")

    def end(self, good: bool, scores: Dict[str, float]) -> None:
        self.mlflow.log_metrics({name_in_mlflow(name): score for name, score in scores.items()})
        self.mlflow.end_run("FINISHED" if good else "FAILED")


def name_in_mlflow(name: str) -> str:
    """The name with characters that MLflow allows: `expert.sort` for `expert[sort]`."""
    name = name.replace("[", ".").replace("]", "")
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def settings(run: Dict[str, Any]) -> Dict[str, Any]:
    """The configuration: every setting, with the values that were set from outside or swept."""
    known = {"experiment": run["experiment"], "plan": run["plan"], "results": str(Path(run["out"]).resolve())}
    return {**known, **run.get("settings", {})}


def name_of(run: Dict[str, Any]) -> str:
    """The name of a run: of one of a sweep, its values."""
    return (run.get("sweep") or {}).get("run") or run["experiment"]


def group_of(run: Dict[str, Any]) -> Any:
    return (run.get("sweep") or {}).get("group")


def summary(out: Path) -> Dict[str, float]:
    """The means of a finished run's tables, its time and its memory; nothing without results."""
    file = out / "results.json"
    if not file.is_file():
        return {}
    results = json.loads(file.read_text(encoding="utf-8"))
    found = {"seconds": results["seconds"], "peak_memory": results["peak_memory"]}
    for table in results["tables"]:
        for row in table["rows"]:
            name = f"table/{table['name']}/{row['model']}"
            found.update({f"{name}/{domain}": score["mean"] for domain, score in row["scores"].items()})
            if row.get("normalized") is not None:
                found[f"{name}/normalized"] = row["normalized"]["mean"]
    return found


def answers(out: Path) -> List[Dict[str, Any]]:
    """The completions behind the tables of a finished run, at most `MOST_ANSWERS`."""
    file = out / "results.json"
    if not file.is_file():
        return []
    tables = json.loads(file.read_text(encoding="utf-8"))["tables"]
    names = dict.fromkeys(row["model"] for table in tables for row in table["rows"])
    found: List[Dict[str, Any]] = []
    for name in names:
        limit = MOST_ANSWERS // len(names)
        command = [program(), "answers", str(out), f"--row={name}", "--format=json", f"--limit={limit}"]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
        if said.returncode != 0:
            print(f"no table of answers: {said.stderr.strip()}", file=sys.stderr)
            return []
        found += [json.loads(line) for line in said.stdout.splitlines()]
    return found


def follow(tracker: Any, lines: Iterable[str]) -> None:
    """Passes the lines that `mopd run --tracker` sends to a tracker."""
    good, scores = False, {}
    begun, several, out = False, False, Path()
    for event in events(lines):
        kind = event["event"]
        if kind == "run":
            tracker.begin(event)
            begun, several = True, len(event.get("tables", [])) > 1
            out = Path(event["out"])
        elif kind == "step":
            tracker.step(f"{event['stage']}-seed{event['seed']}", event["step"], event["scalars"])
        elif kind == "evaluated":
            name = f"{event['model']}-seed{event['seed']}/{event['domain']}"
            # Two tables may sample the same model in different ways.
            for table in event["tables"] if several else [None]:
                scores[f"score/{name}" if table is None else f"score/{table}/{name}"] = event["score"]
        elif kind == "finished":
            good = True
    if begun:
        if good:
            scores.update(summary(out))
            rows = answers(out) if hasattr(tracker, "answers") else []
            if rows:
                tracker.answers(rows)
        tracker.end(good, scores)


def events(lines: Iterable[str]) -> Iterator[Dict[str, Any]]:
    """The events of a run, as they come."""
    for line in lines:
        if line.strip():
            yield json.loads(line)


TRACKERS = {"mlflow": Mlflow, "wandb": Wandb}


def main() -> None:
    known = " or ".join(TRACKERS)
    if len(sys.argv) != 2 or sys.argv[1] not in TRACKERS:
        sys.exit(f"usage: python3 -m mopd.track TRACKER, where TRACKER is {known}")
    name = sys.argv[1]
    try:
        follow(TRACKERS[name](), sys.stdin)
    except ModuleNotFoundError as missing:
        sys.exit(f"mopd.track {name}: there is no Python module `{missing.name}`; install it with pip")


if __name__ == "__main__":
    main()
