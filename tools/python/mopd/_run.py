"""`mopd run`."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import IO, Any, Callable, Deque, Dict, Mapping, Optional, Sequence, Union

from ._program import Error, Source, input_of, options, program
from ._results import Run, load

#: Number of lines of the program's standard error that an exception can quote.
LINES_KEPT = 200


class RunError(Error):
    """An experiment that is wrong, or a run that failed."""

    def __init__(self, failure: Dict[str, Any], report: str) -> None:
        message = failure.get("message") or report or "the run failed"
        hint = failure.get("help")
        super().__init__(f"{message}\n  help: {hint}" if hint else message)
        #: The kind of failure: `data`, `reward`, ...; None if nothing had begun, as with a mistake in the text.
        self.kind: Optional[str] = failure.get("kind")
        self.stage: Optional[str] = failure.get("stage")
        self.seed: Optional[int] = failure.get("seed")
        self.step: Optional[int] = failure.get("step")
        #: The last lines of the program's standard error, including diagnostics.
        self.report = report


def run(
    source: Source,
    *,
    set: Optional[Mapping[str, object]] = None,
    out: Optional[Source] = None,
    fresh: bool = False,
    from_: Union[str, Sequence[str]] = (),
    resume: bool = False,
    checkpoint_every: Optional[str] = None,
    workers: Optional[int] = None,
    log_every: Optional[str] = None,
    tensorboard: bool = False,
    arguments: Sequence[str] = (),
    folder: Optional[Source] = None,
    on_event: Optional[Callable[[Dict[str, Any]], object]] = None,
    quiet: bool = False,
) -> Run:
    """Runs an experiment, and loads what it leaves. Finished stages are not run again.

    `source` is the text of an experiment, or a file: a `pathlib.Path`, or a string of one line that ends with
    `.mopd`. `folder` is the folder in which the program works: results and the store lie below it, and a
    text's data and modules; by default it is the current one.

    `set={"seed": 2}` is `--set seed=2`; `out`, `fresh`, `from_`, `resume`, `checkpoint_every`, `workers`,
    `log_every` and `tensorboard` are the options of `mopd run`, and `arguments` has any others but `--dry-run`,
    which leaves nothing to load.

    `on_event` is called with each event, a dictionary, as it comes. What the program says for people goes to
    `sys.stderr`, unless `quiet`. An interrupt ends the run after its step, with a checkpoint; a second one at
    once.

    Raises `RunError` where the experiment is wrong or the run fails.
    """
    if "--dry-run" in arguments:
        raise Error(
            "`--dry-run` runs nothing, so that there is no run to load\n"
            "  help: use `mopd.check`, or `mopd run --dry-run` on the command line"
        )
    file, text = input_of(source, folder)
    given = options(
        set=[f"{name}={_value(value)}" for name, value in (set or {}).items()],
        out=None if out is None else os.fspath(out),
        fresh=fresh,
        **{"from": [from_] if isinstance(from_, str) else list(from_)},
        resume=resume,
        checkpoint_every=checkpoint_every,
        workers=workers,
        log_every=log_every,
        tensorboard=tensorboard,
    )
    place = pathlib.Path(os.path.abspath("." if folder is None else folder))
    libc = ctypes.CDLL(None)
    process = subprocess.Popen(
        [program(), "run", "--format", "json", *given, *arguments, "--", file],
        cwd=place,
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C at the terminal reaches only this process, which passes it on. If it is killed, the run ends.
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PARENT_DEATH, signal.SIGTERM),
    )
    kept: Deque[str] = collections.deque(maxlen=LINES_KEPT)
    said = threading.Thread(target=_hand_on, args=(process.stderr, kept, quiet), daemon=True)
    said.start()
    failure: Dict[str, Any] = {}
    results: Optional[str] = None
    with process:
        try:
            if process.stdin is not None and text is not None:
                # A program that has ended already reports why.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(text)
                    process.stdin.close()
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "failed":
                    failure = event
                elif event["event"] == "results":
                    results = event["out"]
                if on_event is not None:
                    on_event(event)
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            said.join()
    if status == 0 and results is not None:
        return load(place / results)
    if status == 130:
        raise RunError({"message": "interrupted; the same call goes on from the last checkpoint"}, "".join(kept))
    raise RunError(failure, "".join(kept).strip())


def _value(given: object) -> str:
    """The value in the language's notation."""
    return str(given).lower() if isinstance(given, bool) else str(given)


#: PR_SET_PDEATHSIG
_PARENT_DEATH = 1


def _hand_on(stream: Union[IO[str], None], kept: Deque[str], quiet: bool) -> None:
    assert stream is not None
    for line in stream:
        kept.append(line)
        if not quiet:
            print(line, end="", file=sys.stderr, flush=True)


def _end(process: "subprocess.Popen[str]") -> None:
    """Asks the program to end after its step, and waits; the next interrupt ends it at once."""
    process.send_signal(signal.SIGINT)
    try:
        # Reads the remaining output, because the program would wait for that.
        for _ in process.stdout or ():
            pass
        process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
