"""Environments by a class: `turns(python("shop.py:Shop"), ...)` starts this with the file and the class.

It speaks the protocol of environments: a line of JSON for each start, turn and end of an episode in, a line for each
start and turn out. Each episode has an instance of its own.

This file is also run as text, behind that of `_user_code.py`, by Python 3.9 or newer, where the package is not
installed: it imports nothing but Python's own modules.
"""

import inspect
import json
import math
import sys
from typing import Any, Callable, Dict

if __name__ != "__main__":
    from mopd._user_code import explained, load, streams, told

#: What the parameters of `reset` may be called.
RESET = ("seed", "domain", "prompt", "record")

#: The help if `reset` can't be called or returned something else.
RESETS = (
    "write `def reset(self, seed, record)`, with any of `seed`, `domain`, `prompt` and `record`; it returns what the "
    "student reads behind the prompt: a text, a list of messages, or None"
)

#: The help if `step` can't be called or returned something else.
STEPS = (
    "write `def step(self, turn)`, which returns `observation, reward, done`, and may return a dictionary with parts of "
    "the reward behind them: the observation is a text, a list of messages, or None at the end; the reward is a number, "
    "or None in every reply if the domain's reward judges; done is True or False"
)


class Wrong(Exception):
    """Something that the class does or returns and can't: what, and the way out."""


class Episode:
    """An instance of the class, and how it is called."""

    def __init__(self, make: Callable[[], Any], name: str, start: Dict[str, Any]) -> None:
        self.name = name
        self.instance = make()
        for method in ("reset", "step"):
            if not callable(getattr(self.instance, method, None)):
                help = RESETS if method == "reset" else STEPS
                raise Wrong(f"`{name}` has no method `{method}`\n{help}")
        given = {key: start[key] for key in RESET}
        self.first = self.observed(self.instance.reset(**self.accepted("reset", given, RESETS)), "reset", RESETS)

    def accepted(self, method: str, given: Dict[str, Any], help: str, *turn: Any) -> Dict[str, Any]:
        """Those of the arguments that the method takes."""
        try:
            signature = inspect.signature(getattr(self.instance, method))
        except (TypeError, ValueError):
            # A method of C does not tell.
            return given
        names = signature.parameters
        if not any(each.kind is each.VAR_KEYWORD for each in names.values()):
            given = {key: value for key, value in given.items() if key in names}
        try:
            signature.bind(*turn, **given)
        except TypeError as error:
            raise Wrong(f"`{self.name}.{method}{signature}` can't be called: {error}\n{help}") from None
        return given

    def observed(self, given: Any, method: str, help: str) -> Dict[str, Any]:
        """An observation, as in a reply."""
        if given is None:
            return {}
        if isinstance(given, str):
            return {"observation": given}
        if not isinstance(given, list):
            found = f"`{method}` returned {told(given)} as the observation, which is not a text and no list of messages"
            raise Wrong(f"{found}\n{help}")
        return {"messages": given}

    def step(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """The reply to a turn: its text, or the message where the prompt is a conversation."""
        turn = request.get("message", request["action"])
        more = self.accepted("step", {"truncated": request.get("truncated", False)}, STEPS, turn)
        given = self.instance.step(turn, **more)
        if not isinstance(given, tuple) or len(given) not in (3, 4):
            raise Wrong(f"`step` returned {told(given)}, which is not `observation, reward, done`\n{STEPS}")
        observation, reward, done = given[:3]
        reply = self.observed(observation, "step", STEPS)
        if reward is not None:
            reply["reward"] = number(reward, "the reward")
        if len(given) == 4 and given[3] is not None:
            if not isinstance(given[3], dict):
                raise Wrong(f"`step` returned {told(given[3])} as parts of the reward, which is no dictionary\n{STEPS}")
            reply["parts"] = {str(name): number(part, f"the part `{name}`") for name, part in given[3].items()}
        # The class of a bool in an array of numpy has a name of its own.
        if type(done).__name__ not in ("bool", "bool_"):
            raise Wrong(f"`step` returned {told(done)} as done, which is not True or False\n{STEPS}")
        return {**reply, "done": bool(done)}


def number(given: Any, what: str) -> float:
    try:
        value = math.nan if isinstance(given, (str, bytes)) else float(given)
    except Exception:
        value = math.nan
    if not math.isfinite(value):
        raise Wrong(f"`step` returned {told(given)} as {what}, which is not a number\n{STEPS}")
    return value


def play(file: str, name: str) -> None:
    requests, replies = streams()
    make = None
    episodes: Dict[int, Episode] = {}

    def reply(request: Dict[str, Any]) -> str:
        nonlocal make
        id = request["id"]
        if "end" in request:
            del episodes[id]
            return ""
        if "action" in request:
            what = episodes[id].step(request)
            if what["done"]:
                del episodes[id]
        else:
            make = make or load(file, name, "class")
            episodes[id] = Episode(make, name, request)
            what = episodes[id].first
        try:
            return json.dumps({"id": id, **what}, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise Wrong(f"the messages can't be written as JSON: {error}\n{STEPS}") from None

    for line in requests:
        request = json.loads(line)
        try:
            text = reply(request)
        except Wrong as wrong:
            text = json.dumps({"id": request["id"], "error": str(wrong)}) + "\n"
        except BaseException as error:
            text = json.dumps({"id": request["id"], "error": explained(error, file)}) + "\n"
        replies.write(text)
        replies.flush()


if __name__ == "__main__":
    play(*sys.argv[1:])
