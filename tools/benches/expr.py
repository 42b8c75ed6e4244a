#!/usr/bin/env python3
"""Compares a per-token weight in mopd and in a rival, in turn.

    tools/benches/expr.py --mopd target/release/mopd --python venv/bin/python --rival token_expr.py [--rounds 5] [--tokens N]...

The rival is started as `PYTHON RIVAL TOKENS 1` (one thread) and ends with a line of JSON in which every key ending in `_s` is a
time in seconds for one call. It should compute the weight that `mopd bench expr --json` shows as `source`, on as many tokens.

Each round runs mopd and then the rival, so that other load on the machine affects both. A ratio is the rival's time over
mopd's in the same round; medians over the rounds are printed, with the lowest and the highest ratio.
"""
import argparse
import json
import statistics
import subprocess
import sys


def output(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mopd", required=True, help="the program")
    parser.add_argument("--python", required=True, help="the Python that the rival runs in")
    parser.add_argument("--rival", required=True, help="the rival's script")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, action="append", help="may be given several times [65536 and 4194304]")
    arguments = parser.parse_args()

    for tokens in arguments.tokens or [65_536, 4_194_304]:
        ours, rivals, ratios = [], {}, {}
        for _ in range(arguments.rounds):
            figures = json.loads(output([arguments.mopd, "bench", "expr", "--tokens", str(tokens), "--json"]))
            mine = figures["sizes"][0]["compiled_one_thread"]
            ours.append(figures)
            last = output([arguments.python, arguments.rival, str(tokens), "1"]).strip().splitlines()[-1]
            for name, value in json.loads(last).items():
                # A variant that can't run there has a text instead of a number.
                if name.endswith("_s") and isinstance(value, (int, float)):
                    rivals.setdefault(name, []).append(value)
                    ratios.setdefault(name, []).append(value / mine)

        def middle(key):
            return statistics.median(figures["sizes"][0][key] for figures in ours)

        print(f"{tokens:,} tokens, {arguments.rounds} rounds")
        code = statistics.median(figures["graph_to_code"] for figures in ours)
        print(f"  mopd: graph to code {code * 1e6:,.0f} us, one thread {middle('compiled_one_thread') * 1e6:,.1f} us,"
              f" all threads {middle('compiled') * 1e6:,.1f} us, plain pass {middle('memory_pass') * 1e6:,.1f} us")
        for name, values in rivals.items():
            low, high = min(ratios[name]), max(ratios[name])
            print(f"  {name.removesuffix('_s')}: {statistics.median(values) * 1e6:,.1f} us,"
                  f" {statistics.median(ratios[name]):.2f} times mopd's one thread ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
