"""An environment for `turns`: a table that can only be known by asking.

The student is told a key. Its first turn is what it looks up, its second one is its answer. Half a point for a
key that the table has, and the other half for the value of the key that was asked for. Each seed has a table of
its own, so an answer that was not looked up is right once in eight times.
"""

import random

KEYS = "abcdefgh"


class Lookup:
    def reset(self, seed, record):
        draw = random.Random(seed)
        self.key, self.table = record["key"], {key: draw.choice(KEYS) for key in KEYS}
        self.asked = False

    def step(self, action):
        """The observation, the reward, and whether the episode is over."""
        if not self.asked:
            self.asked = True
            return f" got {self.table.get(action, '?')}=", 0.5 if action in self.table else 0.0, False
        return None, 0.5 if action == self.table[self.key] else 0.0, True
