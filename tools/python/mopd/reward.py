"""Rewards by a function: `reward = python("judge.py:score")` starts this with the file and the function.

It speaks the protocol of reward commands: a line of JSON for each completion in, a line for each out. The
requests of a batch say how many follow in it (`left`), so the function gets each batch as one list.

This file is also run as text, behind that of `_user_code.py`, by Python 3.9 or newer, where the package is not
installed: it imports nothing but Python's own modules.
"""

import collections.abc
import inspect
import json
import math
import os
import site
import sys
import sysconfig
from typing import Any, Callable, Dict, List, NamedTuple, Set

if __name__ != "__main__":
    from mopd._user_code import explained, load, streams, told

#: The help if a function returned something else.
RETURNS = "the function gets a list of completions and returns a list with a number for each"

#: The help if a function can't be called like this.
TAKES = (
    "write `def score(batch)`, which gets a list of completions with `prompt`, `completion` and `record`, and returns a "
    "list with a number for each; functions of TRL (`completions, **kwargs`) and of verl (`solution_str`, "
    "`ground_truth`) are called as these call them"
)

#: Iterables that are not lists: a dictionary would give its keys, and a set has no order.
NO_LISTS = (collections.abc.Mapping, collections.abc.Set, str, bytes, bytearray)


class Completion(NamedTuple):
    """A completion to judge."""

    prompt: str
    completion: str
    #: The data line that the prompt came from.
    record: Dict[str, Any]


class Opened:
    """The files that this process opens, other than those of Python, its packages and devices."""

    #: Most files that one reply names.
    MOST = 1000
    WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self) -> None:
        paths = sysconfig.get_paths()
        installed = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        installed += [*site.getsitepackages(), site.getusersitepackages(), "/dev", "/proc", "/sys"]
        self.outside = tuple(os.path.realpath(folder) + os.sep for folder in installed if folder)
        self.seen: Dict[str, Set[str]] = {"opened": set(), "written": set()}
        self.new: Dict[str, List[str]] = {"opened": [], "written": []}
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: Any) -> None:
        if event != "open":
            return
        # An exception here would be one of the function's `open`.
        try:
            path, _, flags = args
            if isinstance(path, int) or path is None:
                return
            path = os.path.abspath(os.fsdecode(path))
            if path.endswith(".pyc") or os.path.realpath(path).startswith(self.outside):
                return
            kind = "written" if flags & self.WRITES else "opened"
            if path not in self.seen[kind]:
                self.seen[kind].add(path)
                self.new[kind].append(path)
        except Exception:
            pass

    def take(self) -> Dict[str, List[str]]:
        """The next files, for a reply."""
        taken = {kind: paths[: self.MOST] for kind, paths in self.new.items() if paths}
        for kind, paths in taken.items():
            del self.new[kind][: len(paths)]
        return taken


def serve(file: str, function: str) -> None:
    files = Opened()
    requests, replies = streams()
    try:
        judge, broken = adapted(load(file, function, "function"), function), ""
    except BaseException as error:
        judge, broken = None, explained(error, file)
    batch: List[Dict[str, Any]] = []
    for line in requests:
        batch.append(json.loads(line))
        if batch[-1]["left"]:
            continue
        answers = judged(judge, batch, file) if judge else [{"id": batch[0]["id"], "error": broken}]
        answers[-1].update(files.take())
        for answer in answers:
            replies.write(json.dumps(answer) + "\n")
        replies.flush()
        batch = []


def adapted(judge: Callable[..., Any], name: str) -> Callable[[List[Completion]], Any]:
    """The function as one of a list of completions, where it has the parameters of another tool's."""
    try:
        signature = inspect.signature(judge)
    except (TypeError, ValueError):
        # A callable of C does not tell.
        return judge
    names = signature.parameters
    open_ended = any(each.kind is each.VAR_KEYWORD for each in names.values())

    def accepted(given: Dict[str, Any]) -> Dict[str, Any]:
        return given if open_ended else {key: value for key, value in given.items() if key in names}

    if "solution_str" in names and "ground_truth" in names:
        return lambda batch: [of_verl(judge(**accepted(to_verl(each)))) for each in batch]
    if "completions" in names and len(names) > 1:
        return lambda batch: judge(**accepted(to_trl(batch)))
    try:
        signature.bind([])
    except TypeError:
        raise TypeError(f"`{name}{signature}` can't be called with one list of completions\n{TAKES}") from None
    return judge


def to_verl(each: Completion) -> Dict[str, Any]:
    """What verl calls `compute_score` with."""
    record, truth = each.record, each.record.get("reward_model")
    if isinstance(truth, dict) and "ground_truth" in truth:
        truth = truth["ground_truth"]
    else:
        found = [key for key in ("ground_truth", "answer") if key in record]
        if not found:
            raise KeyError("the data has no `reward_model.ground_truth`, `ground_truth` or `answer`")
        truth = record[found[0]]
    source, more = record.get("data_source"), record.get("extra_info") or {}
    return {"data_source": source, "solution_str": each.completion, "ground_truth": truth, "extra_info": more}


def of_verl(given: Any) -> Any:
    """The number that verl takes of what `compute_score` returns."""
    if isinstance(given, dict):
        return given.get("score")
    return given[0] if isinstance(given, (list, tuple)) and given else given


def to_trl(batch: List[Completion]) -> Dict[str, Any]:
    """What TRL calls a function of rewards with: prompts and completions, as messages where the data has messages,
    and a list for every other column."""
    records = [each.record for each in batch]
    columns = dict.fromkeys(key for record in records for key in record)
    given: Dict[str, Any] = {key: [record.get(key) for record in records] for key in columns}
    asked = [record.get("prompt", record.get("messages")) for record in records]
    if all(isinstance(messages, list) for messages in asked):
        given["prompts"] = asked
        given["completions"] = [[{"role": "assistant", "content": each.completion}] for each in batch]
    else:
        given["prompts"], given["completions"] = [each.prompt for each in batch], [each.completion for each in batch]
    given.pop("prompt", None)
    return given


def judged(
    judge: Callable[[List[Completion]], Any], batch: List[Dict[str, Any]], file: str
) -> List[Dict[str, Any]]:
    """A reply for each request of a batch, or a single one for an error of the whole batch."""
    completions = [Completion(each["prompt"], each["completion"], each["record"]) for each in batch]
    try:
        given = judge(completions)
        if not hasattr(given, "__iter__") or isinstance(given, NO_LISTS):
            error = f"it returned {told(given)}, which is not a list\n{RETURNS}"
            return [{"id": batch[0]["id"], "error": error}]
        given = list(given)
    except BaseException as error:
        return [{"id": batch[0]["id"], "error": explained(error, file)}]
    if len(given) != len(batch):
        error = f"it returned {len(given)} rewards for {len(batch)} completions\n{RETURNS}"
        return [{"id": batch[0]["id"], "error": error}]
    return [reply(each["id"], reward) for each, reward in zip(batch, given)]


def reply(id: int, given: Any) -> Dict[str, Any]:
    """The reply for `given`: a number, or a number and a feedback text."""
    words = None
    if isinstance(given, tuple) and len(given) == 2:
        given, words = given
    try:
        reward = None if isinstance(given, (str, bytes)) else float(given)
    except Exception:
        # OverflowError for an integer that is too large, RuntimeError for a tensor with several numbers.
        reward = None
    if reward is None or not math.isfinite(reward):
        error = f"it returned {told(given)}, which is not a number, for a completion\n{RETURNS}"
        return {"id": id, "error": error}
    return {"id": id, "reward": reward, **({} if words is None else {"feedback": str(words)})}


if __name__ == "__main__":
    serve(*sys.argv[1:])
