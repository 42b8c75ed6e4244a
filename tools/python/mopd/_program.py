"""The program `mopd`: its path, and its arguments."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import shutil
from typing import List, Optional, Tuple, Union

Source = Union[str, "os.PathLike[str]"]


class Error(Exception):
    """A refusal or an error of `mopd`, with its message."""


def program() -> str:
    """The path of the program `mopd`: the one in `$MOPD_BIN`, else that of the installed package, else the
    first on the `PATH`."""
    named = os.environ.get("MOPD_BIN")
    if named:
        return os.path.abspath(named)
    try:
        files = importlib.metadata.distribution("mopd").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "mopd" and file.parent.name == "bin":
            path = pathlib.Path(os.path.normpath(file.locate()))
            if path.is_file():
                return str(path)
    found = shutil.which("mopd")
    if found is None:
        raise Error(
            "cannot find the program `mopd`: install its package with pip, or name the program in MOPD_BIN"
        )
    return found


def input_of(source: Source, folder: Optional[Source]) -> Tuple[str, Optional[str]]:
    """What a command gets as its FILE, and its standard input: the text, where `source` is one.

    A path, or a string of one line that ends with `.mopd`, names a file; any other string is the text itself.
    """
    if isinstance(source, str) and ("\n" in source or not source.rstrip().endswith(".mopd")):
        return "-", source
    path = os.fspath(source)
    # Absolute, because the program may run in another folder.
    return (path if folder is None else os.path.abspath(path)), None


def options(**given: object) -> List[str]:
    """`fresh=True, workers=2` as `--fresh --workers 2`. None and False are left out; every element of a list
    is given."""
    words: List[str] = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            words.append(flag)
        elif isinstance(value, (list, tuple)):
            for each in value:
                words += [flag, str(each)]
        else:
            words += [flag, str(value)]
    return words
