"""The rewards of completions, which `mopd rewards` computes as in a run. `launch.sh` starts it."""

import http.client
import json
import os
import pathlib
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
HOST = os.uname().nodename
# Its address, and a secret that requests must have. Machines that share the folder have a service each.
SERVICE = HERE / f"rewards-service.{HOST}.json"
# Proxies of the environment must not get the secret.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def judged(records, completions):
    """For each completion, an answer to the prompt of a record, its `reward`, and the `parts` of it by name."""
    body = json.dumps({"records": [int(record) for record in records], "completions": list(completions)}).encode()
    try:
        service = json.loads(SERVICE.read_text())
        headers = {"Authorization": f"Bearer {service['secret']}", "Content-Type": "application/json"}
        with OPENER.open(urllib.request.Request(f"{service['url']}/rewards", body, headers)) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        why = f"mopd can't judge a completion: {json.load(error)['error']['message']}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = f"`mopd rewards {HERE}` does not answer on {HOST}; launch.sh starts it, and it ends with that ({error})"
    raise RuntimeError(why)


def compute_score(data_source, solution_str, ground_truth, extra_info, **_):
    """The function that verl calls."""
    return judged([extra_info["record"]], [solution_str])[0]["reward"]
