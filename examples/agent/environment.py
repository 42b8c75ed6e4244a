"""An environment for `turns` in conversations: a shop with two tools.

Each seed has prices and stocks of its own, so an answer that was not looked up is right once in ten times. Half a
point for the right call, and half for the value that it returned.
"""

import random

ITEMS = "abcdefgh"


class Shop:
    def reset(self, seed, record):
        draw = random.Random(seed)
        self.shop = {tool: {item: str(draw.randrange(10)) for item in ITEMS} for tool in ["price", "stock"]}
        self.tool, self.item = record["tool"], record["item"]
        self.asked = False

    def step(self, message):
        """The messages, the reward, and whether the episode is over."""
        calls = [call["function"] for call in message.get("tool_calls", [])]
        if not calls or self.asked:
            # An answer. Without a call it is a guess, which earns nothing.
            right = self.asked and not calls and message["content"] == self.shop[self.tool][self.item]
            return None, 0.5 if right else 0.0, True
        self.asked = True
        results = [self.shop.get(call["name"], {}).get(call["arguments"].get("item"), "?") for call in calls]
        right = calls == [{"name": self.tool, "arguments": {"item": self.item}}]
        return [{"role": "tool", "content": result} for result in results], 0.5 if right else 0.0, False
