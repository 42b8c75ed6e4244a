"""What the programs share that call a user's Python: loading it, its streams, and messages about its errors.

This file is run as text, before that of the program, by Python 3.9 or newer, where the package is not installed: it
imports nothing but Python's own modules.
"""

import importlib.util
import os
import sys
import traceback
from typing import Any, BinaryIO, Callable, TextIO, Tuple

#: Number of lines of a traceback that are passed on.
LINES = 8


def streams() -> Tuple[BinaryIO, TextIO]:
    """Requests and replies. The user's code may print and start programs: their output goes to standard error, and
    they can't read the requests."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, replies


def load(file: str, name: str, kind: str) -> Callable[..., Any]:
    """The function or class `name` of a file."""
    path = os.path.abspath(file)
    # Imports in the file find modules beside it, as when it is run as a program.
    sys.path.insert(0, os.path.dirname(path))
    module_name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(module_name, module)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise NameError(f"{file} has no {kind} `{name}`")
    return found


def told(value: Any) -> str:
    """The value in Python's notation, with the middle left out if it is long."""
    try:
        text = repr(value)
    except Exception:
        # For example an integer with more than 4300 digits.
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:150]} ... {text[-45:]}"


def explained(error: BaseException, file: str) -> str:
    """The traceback's last line and its place, followed by the end of the traceback."""
    last = traceback.format_exception_only(type(error), error)[-1].strip()
    # Leaves out this program and Python's import machinery.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    frames = [frame for frame in frames if frame.filename != __file__] if "__file__" in globals() else frames
    folder = os.path.dirname(os.path.abspath(file))
    own = [frame for frame in frames if os.path.abspath(frame.filename).startswith(folder + os.sep)]
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({shown(error.filename)}, line {error.lineno})"
    elif own:
        where = f" ({shown(own[-1].filename)}, line {own[-1].lineno}, in {own[-1].name})"
    text = "".join(traceback.format_list(frames)) if own else ""
    return "\n".join([last + where, *text.rstrip().splitlines()[-LINES:]])


def shown(path: str) -> str:
    """A path relative to the experiment's folder, or unchanged if it is outside."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
