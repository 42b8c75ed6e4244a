"""An environment for `turns` in conversations: it runs the two tools of a shop.

Each seed has prices and stocks of its own, so an answer that was not looked up is right once in ten times. Half a
point for the right call, and half for the value that it returned.

One JSON object a line, in and out. Messages belong on standard error.
"""

import json
import random
import sys

ITEMS = "abcdefgh"


def start(request):
    draw = random.Random(request["seed"])
    shop = {tool: {item: str(draw.randrange(10)) for item in ITEMS} for tool in ["price", "stock"]}
    return {"shop": shop, "record": request["record"], "asked": False}


def step(episode, message):
    """The messages, the reward, and whether the episode is over."""
    shop, tool, item = episode["shop"], episode["record"]["tool"], episode["record"]["item"]
    calls = [call["function"] for call in message.get("tool_calls", [])]
    if not calls or episode["asked"]:
        # An answer. Without a call it is a guess, which earns nothing.
        right = episode["asked"] and not calls and message["content"] == shop[tool][item]
        return None, 0.5 if right else 0.0, True
    episode["asked"] = True
    results = [shop.get(call["name"], {}).get(call["arguments"].get("item"), "?") for call in calls]
    right = calls == [{"name": tool, "arguments": {"item": item}}]
    return [{"role": "tool", "content": result} for result in results], 0.5 if right else 0.0, False


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
            messages, reward, done = step(episodes[id], request["message"])
            reply = {"messages": messages, "reward": reward, "done": done}
            if done:
                del episodes[id]
        print(json.dumps({"id": id, **reply}), flush=True)


if __name__ == "__main__":
    main()
