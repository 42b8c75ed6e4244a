import io
import json
import sys
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
        mlflow.start_run.assert_called_once_with(run_name="pilot")
        first = mlflow.log_metrics.call_args_list[0]
        self.assertEqual(first, mock.call({"student-seed1/loss": 2.0, "student-seed1/reward/a_b": 0.5}, step=0))
        self.assertEqual(track.name_in_mlflow("expert[sort]-seed1/loss"), "expert.sort-seed1/loss")
        # There was no event that the run finished.
        mlflow.end_run.assert_called_once_with("FAILED")

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
