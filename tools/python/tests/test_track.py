import io
import json
import os
import pathlib
import sys
import tempfile
import unittest
from types import ModuleType
from unittest import mock

from mopd import track

LINES = [
    {"event": "run", "experiment": "pilot", "out": "runs/pilot", "plan": "abc"},
    {"event": "stage_started", "stage": "student", "seed": 1, "steps": 2},
    {"event": "step", "stage": "student", "seed": 1, "step": 0, "scalars": {"loss": 2.0, "reward/a:b": 0.5}},
    {"event": "step", "stage": "student", "seed": 1, "step": 1, "scalars": {"loss": 1.0}},
    {"event": "evaluated", "model": "student", "seed": 1, "domain": "sort", "score": 0.75},
]
FINISHED = {"event": "finished", "seconds": 1.0, "peak_memory": 1}


def told(tracker: str, module: ModuleType, lines: list) -> None:
    """Runs `python3 -m mopd.track`, with a fake module of the tracker."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with mock.patch.dict(sys.modules, {tracker: module}), mock.patch.object(sys, "argv", ["track", tracker]):
        with mock.patch.object(sys, "stdin", io.StringIO(text)):
            track.main()


class Track(unittest.TestCase):
    def test_wandb(self) -> None:
        wandb = mock.MagicMock()
        told("wandb", wandb, [*LINES, FINISHED])
        self.assertEqual(wandb.init.call_args.kwargs["name"], "pilot")
        run = wandb.init.return_value
        logged = [call.args[0] for call in run.log.call_args_list]
        self.assertEqual(logged[0], {"student-seed1/step": 0, "student-seed1/loss": 2.0, "student-seed1/reward/a:b": 0.5})
        self.assertEqual(logged[1], {"student-seed1/step": 1, "student-seed1/loss": 1.0})
        run.define_metric.assert_called_with("student-seed1/*", step_metric="student-seed1/step")
        run.summary.update.assert_called_once_with({"score/student-seed1/sort": 0.75})
        run.finish.assert_called_once_with(exit_code=0)

    def test_mlflow(self) -> None:
        mlflow = mock.MagicMock()
        told("mlflow", mlflow, LINES)
        mlflow.start_run.assert_called_once_with(run_name="pilot", tags=None)
        first = mlflow.log_metrics.call_args_list[0]
        self.assertEqual(first, mock.call({"student-seed1/loss": 2.0, "student-seed1/reward/a_b": 0.5}, step=0))
        self.assertEqual(track.name_in_mlflow("expert[sort]-seed1/loss"), "expert.sort-seed1/loss")
        # There was no event that the run finished.
        mlflow.end_run.assert_called_once_with("FAILED")

    def test_a_run_of_a_sweep(self) -> None:
        sweep = {"group": "pilot runs/pilot abc", "run": "rate=0.1"}
        begin = {**LINES[0], "sweep": sweep, "settings": {"seed": 2, "student.lr": 0.5, "rate": 0.1}}
        wandb, mlflow = mock.MagicMock(), mock.MagicMock()
        told("wandb", wandb, [begin, FINISHED])
        given = wandb.init.call_args.kwargs
        self.assertEqual((given["name"], given["group"]), ("rate=0.1", "pilot runs/pilot abc"))
        known = {name: given["config"][name] for name in ("experiment", "plan", "seed", "student.lr", "rate")}
        self.assertEqual(known, {"experiment": "pilot", "plan": "abc", "seed": 2, "student.lr": 0.5, "rate": 0.1})
        begin["settings"] = {f"stage.{at}[a]": at for at in range(130)}
        told("mlflow", mlflow, [begin, FINISHED])
        mlflow.start_run.assert_called_once_with(run_name="rate=0.1", tags={"group": "pilot runs/pilot abc"})
        params = [call.args[0] for call in mlflow.log_params.call_args_list]
        self.assertEqual([len(part) for part in params], [100, 3 + 130 - 100])
        self.assertEqual(params[0]["stage.0.a"], "0")

    def test_a_finished_run_has_a_summary_and_answers(self) -> None:
        row = {"model": "student", "scores": {"sort": {"mean": 0.75}}, "normalized": {"mean": 0.5}}
        results = {"seconds": 2.0, "peak_memory": 3, "tables": [{"name": "t", "rows": [row]}]}
        cell = {"table": "t", "row": "student", "domain": "sort", "seed": 1}
        answer = {**cell, "prompt": 0, "sample": 1, "prompt_text": "p", "text": "x", "reward": 1.0, "tokens": 2, "truncated": False}
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder)
            (out / "results.json").write_text(json.dumps(results))
            played = out / "mopd"
            played.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open({str(out / 'called')!r}, 'w'))\nprint({json.dumps(answer)!r})\n")
            played.chmod(0o755)
            wandb, mlflow = mock.MagicMock(), mock.MagicMock()
            with mock.patch.dict(os.environ, MOPD_BIN=str(played)):
                for name, module in [("wandb", wandb), ("mlflow", mlflow)]:
                    told(name, module, [{**LINES[0], "out": folder}, FINISHED])
            called = json.loads((out / "called").read_text())
        self.assertEqual(called, ["answers", folder, "--row=student", "--format=json", "--limit=10000"])
        numbers = {"seconds": 2.0, "peak_memory": 3, "table/t/student/sort": 0.75, "table/t/student/normalized": 0.5}
        wandb.init.return_value.summary.update.assert_called_once_with(numbers)
        table = wandb.Table.call_args.kwargs
        self.assertEqual(dict(zip(table["columns"], table["data"][0])), answer)
        mlflow.log_table.assert_called_once_with({name: [answer[name]] for name in track.ANSWER}, "answers.json")

    def test_the_scores_of_several_tables(self) -> None:
        wandb = mock.MagicMock()
        run = {**LINES[0], "tables": ["greedy", "sampled"]}
        score = {"event": "evaluated", "model": "student", "seed": 1, "domain": "sort"}
        lines = [run, {**score, "score": 0.75, "tables": ["greedy"]}, {**score, "score": 0.5, "tables": ["sampled"]}]
        told("wandb", wandb, [*lines, FINISHED])
        wandb.init.return_value.summary.update.assert_called_once_with(
            {"score/greedy/student-seed1/sort": 0.75, "score/sampled/student-seed1/sort": 0.5}
        )

    def test_a_package_that_is_not_there(self) -> None:
        with self.assertRaises(SystemExit) as stopped:
            told("wandb", None, LINES)
        self.assertIn("there is no Python module `wandb`; install it with pip", str(stopped.exception))

    def test_its_arguments(self) -> None:
        with mock.patch.object(sys, "argv", ["track", "other"]), self.assertRaises(SystemExit) as stopped:
            track.main()
        self.assertIn("mlflow or wandb", str(stopped.exception))
