"""Writes completions anew through a subspace of keys and values, as SPD does (arXiv:2605.22675): `|> through("python3 project.py FOLDER DATA")`.

FOLDER has the weights of a small Llama. Its keys and values, those of the middle and of the last layer, are projected on the
directions that a loss on the answers of 50 lines of DATA moves along most: half as many as there are. Plain Python, so that
it runs everywhere; in float64.
"""

import json
import math
import pathlib
import random
import struct
import sys
import time
from operator import mul

CALIBRATION = 50
LONGEST = 9


def dot(a, b):
    return sum(map(mul, a, b))


def times(matrix, x):
    return [sum(map(mul, row, x)) for row in matrix]


def plus(*vectors):
    return [sum(entries) for entries in zip(*vectors)]


def load(folder):
    """Matrices by name, as lists of rows."""
    deadline = time.monotonic() + 60
    while not (folder / "model.safetensors").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            numbers = struct.unpack(f"<{(last - first) // 4}f", data[8 + size + first : 8 + size + last])
            width = entry["shape"][-1]
            rows = [list(numbers[i : i + width]) for i in range(0, len(numbers), width)]
            found[name] = rows[0] if len(entry["shape"]) == 1 else rows
    return found


class Llama:
    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.heads, self.groups = config["num_attention_heads"], config["num_key_value_heads"]
        self.head, self.theta = config["head_dim"], config["rope_theta"]
        self.layers, self.eps, self.end = config["num_hidden_layers"], config["rms_norm_eps"], config["eos_token_id"]
        self.begin = config["bos_token_id"]
        self.of = load(folder)
        self.turned = {name: list(map(list, zip(*rows))) for name, rows in self.of.items() if isinstance(rows[0], list)}
        self.projections = {}  # by layer and "k" or "v"

    def part(self, layer, name, turned=False):
        return (self.turned if turned else self.of)[f"model.layers.{layer}.{name}.weight"]

    def norm(self, x, weight):
        scale = (dot(x, x) / len(x) + self.eps) ** -0.5
        return [a * scale * w for a, w in zip(x, weight)]

    def norm_back(self, x, weight, gradient):
        scale = (dot(x, x) / len(x) + self.eps) ** -0.5
        inner = list(map(mul, gradient, weight))
        common = dot(inner, x) * scale**3 / len(x)
        return [scale * g - common * a for g, a in zip(inner, x)]

    def rotate(self, x, position, way=1):
        """Rotary positions of each head; `way` -1 takes them back."""
        out, half = [], self.head // 2
        for first in range(0, len(x), self.head):
            low, high = x[first : first + half], x[first + half : first + self.head]
            angles = [way * position * self.theta ** (-i / half) for i in range(half)]
            out += [a * math.cos(r) - b * math.sin(r) for a, b, r in zip(low, high, angles)]
            out += [b * math.cos(r) + a * math.sin(r) for a, b, r in zip(low, high, angles)]
        return out

    def step(self, token, cache):
        """Logits behind one more token; `cache` has what each layer kept of each token."""
        x = self.of["model.embed_tokens.weight"][token]
        for layer in range(self.layers):
            past = cache[layer]
            normed = self.norm(x, self.part(layer, "input_layernorm"))
            q, k, v = (times(self.part(layer, f"self_attn.{name}_proj"), normed) for name in "qkv")
            if (layer, "k") in self.projections:
                k, v = (times(self.projections[layer, name], y) for name, y in (("k", k), ("v", v)))
            q, k = self.rotate(q, len(past)), self.rotate(k, len(past))
            kept = {"x": x, "q": q, "k": k, "v": v, "shares": []}
            past.append(kept)
            read = []
            for head in range(self.heads):
                mine, theirs = self.slices(head)
                scores = [dot(q[mine], other["k"][theirs]) * self.head**-0.5 for other in past]
                highest = max(scores)
                shares = [math.exp(score - highest) for score in scores]
                whole = sum(shares)
                shares = [share / whole for share in shares]
                kept["shares"].append(shares)
                read += [dot(shares, column) for column in zip(*(other["v"][theirs] for other in past))]
            middle = plus(x, times(self.part(layer, "self_attn.o_proj"), read))
            normed = self.norm(middle, self.part(layer, "post_attention_layernorm"))
            gate, up = (times(self.part(layer, f"mlp.{name}_proj"), normed) for name in ("gate", "up"))
            open_ = [g / (1 + math.exp(-g)) for g in gate]
            kept |= {"middle": middle, "gate": gate, "up": up, "open": open_}
            x = plus(middle, times(self.part(layer, "mlp.down_proj"), list(map(mul, open_, up))))
        cache[self.layers].append(x)
        return times(self.of["model.embed_tokens.weight"], self.norm(x, self.of["model.norm.weight"]))

    def slices(self, head):
        group = head * self.groups // self.heads
        return slice(head * self.head, (head + 1) * self.head), slice(group * self.head, (group + 1) * self.head)

    def cache(self):
        return [[] for _ in range(self.layers + 1)]

    def gradients(self, prompt, answer):
        """By layer, the derivative of minus the answer's log-likelihood by keys (before their rotation) and values, token by token."""
        tokens, cache, back = prompt + answer, self.cache(), []
        for place, token in enumerate(tokens[:-1]):
            logits = self.step(token, cache)
            if place + 1 < len(prompt):
                back.append([0.0] * len(cache[-1][-1]))
                continue
            highest = max(logits)
            p = [math.exp(logit - highest) for logit in logits]
            whole = sum(p)
            p = [entry / whole for entry in p]
            p[tokens[place + 1]] -= 1
            inner = times(self.turned["model.embed_tokens.weight"], p)
            back.append(self.norm_back(cache[-1][-1], self.of["model.norm.weight"], inner))
        found = {}
        for layer in reversed(range(self.layers)):
            past, places = cache[layer], range(len(back))
            width = self.groups * self.head
            dq, dk, dv = ([[0.0] * size for _ in places] for size in (self.heads * self.head, width, width))
            for t in places:
                kept = past[t]
                inside = times(self.part(layer, "mlp.down_proj", True), back[t])
                slope = [s + o * (1 - s) for o, s in ((o, 1 / (1 + math.exp(-g))) for o, g in zip(kept["open"], kept["gate"]))]
                of_gate = [i * u * s for i, u, s in zip(inside, kept["up"], slope)]
                of_up = list(map(mul, inside, kept["open"]))
                normed = plus(times(self.part(layer, "mlp.gate_proj", True), of_gate), times(self.part(layer, "mlp.up_proj", True), of_up))
                back[t] = plus(back[t], self.norm_back(kept["middle"], self.part(layer, "post_attention_layernorm"), normed))
                read = times(self.part(layer, "self_attn.o_proj", True), back[t])
                for head in range(self.heads):
                    mine, theirs = self.slices(head)
                    shares = kept["shares"][head]
                    of_shares = [dot(read[mine], past[s]["v"][theirs]) for s in range(t + 1)]
                    mean = dot(shares, of_shares)
                    for s in range(t + 1):
                        score = shares[s] * (of_shares[s] - mean) * self.head**-0.5
                        dv[s][theirs] = [a + shares[s] * b for a, b in zip(dv[s][theirs], read[mine])]
                        dk[s][theirs] = [a + score * b for a, b in zip(dk[s][theirs], kept["q"][mine])]
                        dq[t][mine] = [a + score * b for a, b in zip(dq[t][mine], past[s]["k"][theirs])]
            dq, dk = ([self.rotate(x, t, -1) for t, x in enumerate(rows)] for rows in (dq, dk))
            found[layer] = {"k": dk, "v": dv}
            for t in places:
                normed = plus(*(times(self.part(layer, f"self_attn.{name}_proj", True), d[t]) for name, d in (("q", dq), ("k", dk), ("v", dv))))
                back[t] = plus(back[t], self.norm_back(past[t]["x"], self.part(layer, "input_layernorm"), normed))
        return found


def directions(rows, count):
    """The right singular vectors of the largest singular values, one after the other by powers of the second moment."""
    size = len(rows[0])
    moment = [[0.0] * size for _ in range(size)]
    for row in rows:
        for i, a in enumerate(row):
            moment[i] = [m + a * b for m, b in zip(moment[i], row)]
    found, draw = [], random.Random(1)
    for _ in range(count):
        x = [draw.gauss(0, 1) for _ in range(size)]
        for _ in range(200):
            x = times(moment, x)
            for other in found:
                along = dot(x, other)
                x = [a - along * b for a, b in zip(x, other)]
            length = math.sqrt(dot(x, x))
            x = [a / length for a in x]
        found.append(x)
    return found


def calibrated(folder, data):
    model = Llama(folder)
    lines = pathlib.Path(data).read_text().splitlines()
    lines = lines[:: len(lines) // CALIBRATION][:CALIBRATION]
    gradients = {}
    for line in map(json.loads, lines):
        found = model.gradients(encoded(model, line["prompt"]), [*line["answer"].encode(), model.end])
        for layer in (model.layers // 2 - 1, model.layers - 1):
            for name in "kv":
                gradients.setdefault((layer, name), []).extend(found[layer][name])
    for place, rows in gradients.items():
        kept = directions(rows, len(rows[0]) // 2)
        model.projections[place] = [[sum(v[i] * v[j] for v in kept) for j in range(len(rows[0]))] for i in range(len(rows[0]))]
    return model


def encoded(model, prompt):
    return [model.begin, *prompt.encode()]


def written(model, prompt):
    """One completion at temperature 1; its random numbers follow from the prompt."""
    draw, cache, text = random.Random(prompt), model.cache(), []
    for token in encoded(model, prompt):
        logits = model.step(token, cache)
    while len(text) < LONGEST:
        highest = max(logits)
        (token,) = draw.choices(range(len(logits)), [math.exp(logit - highest) for logit in logits])
        if token == model.end:
            break
        text.append(token)
        logits = model.step(token, cache)
    return bytes(token for token in text if token < 256).decode(errors="replace")


def main():
    model = None
    for line in sys.stdin:
        model = model or calibrated(pathlib.Path(sys.argv[1]), sys.argv[2])
        request = json.loads(line)
        print(json.dumps({"id": request["id"], "completion": written(model, request["prompt"])}), flush=True)


if __name__ == "__main__":
    main()
