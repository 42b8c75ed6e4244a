"""The confidence that a completion states, as its reward; 0 where it states none."""

import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    try:
        stated = float(request["completion"].split("Confidence: ")[1])
    except (IndexError, ValueError):
        stated = 0.0
    print(json.dumps({"id": request["id"], "reward": min(max(stated, 0.0), 1.0)}), flush=True)
