"""An environment for `turns`: a table that can only be known by asking.

The student is told a key. Its first turn is what it looks up, its second one is its answer. Half a point for a
key that the table has, and the other half for the value of the key that was asked for. Each seed has a table of
its own, so an answer that was not looked up is right once in eight times.

One JSON object a line, in and out. Messages belong on standard error.
"""

import json
import random
import sys

KEYS = "abcdefgh"


def start(request):
    draw = random.Random(request["seed"])
    return {"key": request["record"]["key"], "table": {key: draw.choice(KEYS) for key in KEYS}, "asked": False}


def step(episode, action):
    """The observation, the reward, and whether the episode is over."""
    table, key = episode["table"], episode["key"]
    if not episode["asked"]:
        episode["asked"] = True
        return f" got {table.get(action, '?')}=", 0.5 if action in table else 0.0, False
    return "", 0.5 if action == table[key] else 0.0, True


def main():
    episodes = {}
    for line in sys.stdin:
        request = json.loads(line)
        id = request["id"]
        if "end" in request:  # It is not played on: nobody waits for a reply.
            episodes.pop(id, None)
            continue
        if "action" not in request:
            episodes[id] = start(request)
            reply = {}
        else:
            observation, reward, done = step(episodes[id], request["action"])
            reply = {"observation": observation, "reward": reward, "done": done}
            if done:
                del episodes[id]
        print(json.dumps({"id": id, **reply}), flush=True)


if __name__ == "__main__":
    main()
