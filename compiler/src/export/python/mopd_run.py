"""What a step exchanges with `mopd run`, which started this program, by files in this folder: `run.json` says what is
trained, `asks/` has what `mopd` is asked for and its answers, `steps/` has the numbers of each step."""

import base64
import json
import os
import pathlib
import time

import torch
from mopd_whole import gathered
from transformers import TrainerCallback

HERE = pathlib.Path(__file__).resolve().parent
RUN = json.loads((HERE / "run.json").read_text()) if (HERE / "run.json").exists() else None
# `mopd` looks for requests more often.
PAUSE = 0.01


def written(path, value):
    """Writes a file that is never seen incomplete."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(path)


def numbers(values):
    """The bytes of 32-bit floats, as text."""
    return base64.b64encode(values.detach().cpu().float().numpy().tobytes()).decode()


def answered(kind, step, request, is_first):
    """What `mopd` answers to a request of the first process."""
    asked, given = (HERE / "asks" / f"{step}.{kind}.{name}" for name in ("json", "answer"))
    answer = None
    if is_first:
        given.unlink(missing_ok=True)
        written(asked, {"step": step, **request})
        # Ends with this process, which `mopd` ends if it can't answer.
        while not given.exists():
            time.sleep(PAUSE)
        answer = json.loads(given.read_text())
        asked.unlink()
        given.unlink()
    return gathered(answer)[0]


def report(step, **values):
    written(HERE / "steps" / f"{step}.json", {"step": step, **values})


class Checkpoints(TrainerCallback):
    """Saves from time to time, and when `mopd` asks the program to stop."""

    def __init__(self, seconds):
        self.seconds, self.last, self.stopped = seconds, time.monotonic(), False
        self.trainer = None

    def on_step_end(self, args, state, control, **_):
        due = time.monotonic() - self.last >= self.seconds
        # All processes do what the first one decides.
        due, self.stopped = gathered((due, (HERE / "stop").exists()))[0]
        if state.global_step < state.max_steps and (due or self.stopped):
            control.should_save = True
        control.should_training_stop = control.should_training_stop or self.stopped
        return control

    def on_save(self, args, state, control, **_):
        self.last = time.monotonic()
        # Every process has written its part.
        if len(gathered(None)) and state.is_world_process_zero:
            folder = pathlib.Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(self.trainer.copied_weights(), folder / "copies.pt")
            written(folder / "complete.json", {"step": state.global_step})


def last_checkpoint():
    """The folder to resume from, if any: `mopd` says which one; another program takes the last complete one."""
    if RUN is not None:
        return RUN["resume"]
    folders = {int(path.parent.name.split("-")[1]): path.parent for path in HERE.glob("checkpoints/*/complete.json")}
    return str(folders[max(folders)]) if folders else None


def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def world():
    return int(os.environ.get("WORLD_SIZE", "1"))
