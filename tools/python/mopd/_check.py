"""`mopd check`: diagnostics as objects."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from ._program import Error, Source, input_of, program


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in a text. Lines and columns count from 1; columns are UTF-16 units, as in editors."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclasses.dataclass(frozen=True)
class Label:
    """A place that a diagnostic refers to, with a text about it."""

    place: Place
    text: str


@dataclasses.dataclass(frozen=True)
class Fix:
    """A change of the text that resolves a diagnostic."""

    title: str
    place: Place
    replacement: str
    #: Whether the fix is certain: `mopd check --fix` would apply it.
    certain: bool


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """An error or a warning of the compiler."""

    #: A stable name; `mopd explain` has a page for it.
    code: str
    #: `error` or `warning`.
    severity: str
    message: str
    place: Place
    #: How to fix it.
    help: Optional[str]
    #: The place again, with what is wrong there, and other places that explain it.
    labels: Tuple[Label, ...]
    fix: Optional[Fix]

    def __str__(self) -> str:
        text = f"{self.place}: {self.severity}[{self.code}]: {self.message}"
        return text if self.help is None else f"{text}\n  help: {self.help}"


def check(source: Source, *, folder: Optional[Source] = None) -> List[Diagnostic]:
    """The diagnostics of an experiment; nothing runs.

    `source` is the text of an experiment, or a file: a `pathlib.Path`, or a string of one line that ends with
    `.mopd`. `folder` is the folder that a text's data and modules are relative to, by default the current one.

    >>> for diagnostic in mopd.check(text):
    ...     print(diagnostic)
    """
    file, text = input_of(source, folder)
    ended = subprocess.run(
        [program(), "check", "--format", "json", "--", file],
        input="" if text is None else text,
        cwd=None if folder is None else os.fspath(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        found = json.loads(ended.stdout)
    except json.JSONDecodeError:
        raise Error(ended.stderr.strip() or f"`mopd check` ended with status {ended.returncode}") from None
    return [_diagnostic(each) for each in found]


def _diagnostic(said: Dict[str, Any]) -> Diagnostic:
    fix = said["fix"]
    return Diagnostic(
        code=said["code"],
        severity=said["severity"],
        message=said["message"],
        place=_place(said),
        help=said["help"],
        labels=tuple(Label(_place(label), label["text"]) for label in said["labels"]),
        fix=fix
        and Fix(fix["title"], _place(fix), fix["replacement"], certain=fix["applicability"] == "certain"),
    )


def _place(said: Dict[str, Any]) -> Place:
    start, end = said["range"]["start"], said["range"]["end"]
    return Place(said["file"], start["line"] + 1, start["character"] + 1, end["line"] + 1, end["character"] + 1)
