"""Passes the events of a run on to an experiment tracker: started by `mopd run --tracker`.

    mopd run --tracker "python3 -m mopd.track wandb" mine.mopd
    mopd run --tracker "python3 -m mopd.track mlflow" mine.mopd

One run of mopd is one run of the tracker. Numbers are named `STAGE/TAG`, with the tags of the event files:
`student-seed1/loss`, `student-seed1/reward/sort`. Scores of tables are named `score/MODEL-seedN/DOMAIN`, or
`score/TABLE/MODEL-seedN/DOMAIN` if the run has several tables. The tracker's own settings say where it keeps runs
(WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, ...).

For another tracker, write a class with these three methods and pass it to `follow`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator


class Wandb:
    """Weights & Biases; needs the package `wandb`."""

    def begin(self, run: Dict[str, Any]) -> None:
        import wandb

        self.run = wandb.init(name=run["experiment"], config=settings(run))
        self.stages: set = set()

    def step(self, stage: str, step: int, numbers: Dict[str, float]) -> None:
        # Stages train in parallel, so each has its own step axis.
        if stage not in self.stages:
            self.stages.add(stage)
            self.run.define_metric(f"{stage}/step")
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self.run.log({f"{stage}/step": step, **{f"{stage}/{tag}": value for tag, value in numbers.items()}})

    def end(self, good: bool, scores: Dict[str, float]) -> None:
        self.run.summary.update(scores)
        self.run.finish(exit_code=0 if good else 1)


class Mlflow:
    """MLflow; needs the package `mlflow` or `mlflow-skinny`."""

    def begin(self, run: Dict[str, Any]) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(run["experiment"])
        mlflow.start_run(run_name=run["experiment"])
        mlflow.log_params(settings(run))

    def step(self, stage: str, step: int, numbers: Dict[str, float]) -> None:
        named = {name_in_mlflow(f"{stage}/{tag}"): value for tag, value in numbers.items()}
        self.mlflow.log_metrics(named, step=step)

    def end(self, good: bool, scores: Dict[str, float]) -> None:
        self.mlflow.log_metrics({name_in_mlflow(name): score for name, score in scores.items()})
        self.mlflow.end_run("FINISHED" if good else "FAILED")


def name_in_mlflow(name: str) -> str:
    """The name with characters that MLflow allows: `expert.sort` for `expert[sort]`."""
    name = name.replace("[", ".").replace("]", "")
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def settings(run: Dict[str, Any]) -> Dict[str, Any]:
    return {"experiment": run["experiment"], "plan": run["plan"], "results": str(Path(run["out"]).resolve())}


def follow(tracker: Any, lines: Iterable[str]) -> None:
    """Passes the lines that `mopd run --tracker` sends to a tracker."""
    good, scores = False, {}
    begun, several = False, False
    for event in events(lines):
        kind = event["event"]
        if kind == "run":
            tracker.begin(event)
            begun, several = True, len(event.get("tables", [])) > 1
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
