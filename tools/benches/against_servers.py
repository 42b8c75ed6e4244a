#!/usr/bin/env python3
"""Compares completions of `mopd serve` and other servers: tokens a second and latencies, with one and with several clients.

    tools/benches/against_servers.py MODEL --mopd target/release/mopd [--dtype float32]
        [--rival 'llama.cpp=llama-server -m model.gguf --port {port} --parallel 16 ...']
        [--rival 'transformers=transformers serve MODEL --port {port} ...']
        [--clients 1,4,16] [--requests 4] [--prompt 64] [--new 64] [--rounds 2] [--quiet COMMAND]

Each server is started, gets requests of some clients at a time through `POST /v1/completions`, and is stopped; a round does so with all of
them in turn. A client sends its requests one after the other; every request has its own text of about `--prompt` tokens, so that no cache
helps, and asks for `--new` tokens at temperature 1. Written tokens are counted by the `usage` of the reply. Medians over the
rounds are printed, with the lowest and the highest rate.

`--quiet` is put in front of each server: a command that keeps other programs off the machine meanwhile.
"""
import argparse
import concurrent.futures
import json
import random
import shlex
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

WORDS = "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which".split()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=1800) as answer:
        return json.load(answer)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def text(words, seed):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


class Server:
    def __init__(self, command, quiet):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = shlex.split(quiet) + [word.replace("{port}", str(port)) for word in shlex.split(command)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).read()
                return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    sys.exit(f"{shlex.join(command)} does not answer at /health")
                time.sleep(0.2)

    def stop(self):
        subprocess.run(["pkill", "-TERM", "-s", str(self.process.pid)], check=False)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            subprocess.run(["pkill", "-KILL", "-s", str(self.process.pid)], check=False)
            self.process.wait()


def name_of(url):
    """The name of a server's only model; `None` if it lists several, or can't list them."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=60) as answer:
            listed = [entry["id"] for entry in json.load(answer)["data"]]
    except urllib.error.URLError:
        return None
    return listed[0] if len(listed) == 1 else None


def one_request(url, model, arguments, seed):
    body = {"model": model, "prompt": text(arguments.prompt, seed), "max_tokens": arguments.new, "temperature": 1.0}
    began = time.monotonic()
    answer = post(f"{url}/v1/completions", body)
    return time.monotonic() - began, answer["usage"]["completion_tokens"]


def measured(server, model, arguments, clients):
    """Tokens a second over all clients, and the latency of each request."""

    def client(number):
        seeds = [1000 * clients + 100 * number + request for request in range(arguments.requests)]
        return [one_request(server.url, model, arguments, seed) for seed in seeds]

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        done = [request for requests in pool.map(client, range(clients)) for request in requests]
    seconds = time.monotonic() - began
    return sum(tokens for _, tokens in done) / seconds, [latency for latency, _ in done]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--mopd", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--clients", default="1,4,16")
    for name, default in [("requests", 4), ("prompt", 64), ("new", 64), ("rounds", 2)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--quiet", default="")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.clients.split(",")]
    ours = f"{shlex.quote(arguments.mopd)} serve {shlex.quote(arguments.model)} --port {{port}} --dtype {arguments.dtype}"
    servers = {"mopd serve": ours, **dict(rival.split("=", 1) for rival in arguments.rival)}
    rates = {(name, count): [] for name in servers for count in counts}
    latencies = {(name, count): [] for name in servers for count in counts}
    for number in range(arguments.rounds):
        for name, command in servers.items():
            server = Server(command, arguments.quiet)
            try:
                model = name_of(server.url) or arguments.model
                # The first requests are not counted, because servers may prepare things for them.
                one_request(server.url, model, arguments, seed=0)
                for count in counts:
                    rate, took = measured(server, model, arguments, count)
                    rates[name, count].append(rate)
                    latencies[name, count] += took
                    print(f"round {number + 1}, {name}, {count} clients: {rate:.1f} tokens/s", file=sys.stderr)
            finally:
                server.stop()
    print(f"| server | clients | tokens/s | latency, median | 95% | of ours |\n|---|---|---|---|---|---|")
    for count in counts:
        own = statistics.median(rates["mopd serve", count])
        for name in servers:
            rate, took = statistics.median(rates[name, count]), sorted(latencies[name, count])
            spread = f"{min(rates[name, count]):.0f} to {max(rates[name, count]):.0f}"
            last = took[min(len(took) - 1, int(0.95 * len(took)))]
            print(f"| {name} | {count} | {rate:.0f} ({spread}) | {statistics.median(took):.2f} s | {last:.2f} s | {rate / own:.2f} |")


if __name__ == "__main__":
    main()
