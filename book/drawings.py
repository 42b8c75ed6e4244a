"""Draws the diagrams of the book and the README: pictures/{method,step,rollouts,keep}.svg.

    python3 book/drawings.py

Only the standard library. A drawing has a light background of its own, so it can be read on a dark page too.
"""

import html
import pathlib

PICTURES = pathlib.Path(__file__).resolve().parent / "src/pictures"

INK, DIM, LINE = "#1f2328", "#59636e", "#8b949e"
PAPER, PLAIN = "#ffffff", "#f0f2f5"
BLUE, ORANGE, GREEN = ("#2f6fb3", "#dbe9f8"), ("#b3591b", "#fbe6d6"), ("#1f7a5c", "#d9f0e6")


class Drawing:
    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.title, self.parts = (width, height), title, []

    def add(self, text: str) -> None:
        self.parts.append(text)

    def text(self, x: float, y: float, words: str, size: int = 13, colour: str = INK, anchor: str = "middle", bold: bool = False, mono: bool = False) -> None:
        family = ' font-family="DejaVu Sans Mono,Menlo,Consolas,monospace"' if mono else ""
        weight = ' font-weight="600"' if bold else ""
        self.add(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}{family}>'
            f"{html.escape(words)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, lines: list[str], colours=(LINE, PLAIN), dashed: bool = False) -> None:
        stroke, fill = colours
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.add(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}" stroke="{stroke}" stroke-width="1.5"{dash}/>'
        )
        top = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
        for number, line in enumerate(lines):
            first = number == 0
            self.text(x + width / 2, top + 17 * number, line, 14 if first else 12, INK if first else DIM, bold=first)

    def arrow(self, points: list[tuple[float, float]], colour: str = LINE, dashed: bool = False) -> None:
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        marker = "arrow" + colour.strip("#")
        self.add(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash} marker-end="url(#{marker})"/>')

    def tokens(self, x: float, y: float, cells: list[tuple[str, tuple[str, str]]], size: int = 18) -> float:
        """A text as a row of cells; returns where it ends. The width of a cell follows its word."""
        for word, (stroke, fill) in cells:
            width = max(size, 7.4 * len(word) + 10)
            self.add(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{size + 4}" rx="3" fill="{fill}" stroke="{stroke}"/>')
            self.text(x + width / 2, y + size - 2, word, 12, mono=True)
            x += width + 3
        return x

    def write(self, name: str) -> None:
        width, height = self.size
        ends = "".join(
            f'<marker id="arrow{colour.strip("#")}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
            f'<path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker>'
            for colour in (LINE, BLUE[0], ORANGE[0], GREEN[0])
        )
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            'font-family="DejaVu Sans,Helvetica,Arial,sans-serif">',
            f"<title>{html.escape(self.title)}</title><defs>{ends}</defs>",
            f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>',
            *self.parts,
            "</svg>",
        ]
        (PICTURES / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(PICTURES / name)


def method() -> None:
    """Who writes, who scores, who learns."""
    d = Drawing(820, 384, "A student writes completions; the specialist of each domain scores them; the student learns from all.")
    columns = [(230, "math", BLUE), (420, "code", ORANGE), (610, "dates", GREEN)]
    samples = [["12", "x", "3", "=", "36"], ["x", "+=", "1"], ["2021", "-", "03"]]
    d.text(115, 36, "what you have", 13, DIM)
    d.box(40, 50, 150, 56, ["start", "any model"])
    for (x, domain, colours), words in zip(columns, samples):
        d.box(x, 50, 170, 56, [f"specialist: {domain}", "trained on it, now frozen"], colours)
        d.arrow([(x + 55, 106), (x + 55, 168)], colours[0])
        d.text(x + 64, 134, "scores", 12, DIM, "start")
        d.text(x + 64, 150, "each token", 12, DIM, "start")
        width = sum(max(18, 7.4 * len(word) + 10) + 3 for word in words)
        d.tokens(x + 85 - width / 2, 174, [(word, colours) for word in words])
        d.arrow([(x + 55, 262), (x + 55, 204)])
        d.text(x + 64, 238, "writes", 12, DIM, "start")
    d.arrow([(190, 78), (226, 78)])
    d.arrow([(115, 106), (115, 290), (226, 290)])
    d.text(110, 312, "begins as a copy", 12, DIM)
    d.text(130, 184, "its own", 13, DIM, "start")
    d.text(130, 201, "completions", 13, DIM, "start")
    d.box(230, 264, 550, 56, ["student", "answers prompts of every domain"], (INK, PLAIN))
    d.arrow([(760, 186), (800, 186), (800, 292), (784, 292)])
    d.text(230, 344, "what you want: one model", 13, INK, "start", bold=True)
    d.text(230, 364, "It learns from the score of every token, on its own mistakes.", 13, DIM, "start")
    d.write("method.svg")


def step() -> None:
    """The five parts of a step of distillation, and what in the file decides each."""
    d = Drawing(900, 270, "A step: prompts, completions, scores, objective, update.")
    parts = [
        ("prompts", "a mix of the domains", "share, prompts", LINE, PLAIN),
        ("completions", "the student samples", "rollout = sample(...)", *BLUE),
        ("scores", "the routed teacher's", "teacher, route", *ORANGE),
        ("objective", "one number a token,", "term, reduce", *GREEN),
        ("update", "gradient and optimizer", "lr, adapter, steps", LINE, PLAIN),
    ]
    third = ["", "tokens, log-probabilities", "distribution of every token", "averaged as written", ""]
    for number, ((name, what, setting, stroke, fill), more) in enumerate(zip(parts, third)):
        x = 20 + 175 * number
        d.box(x, 50, 155, 84, [name, what] + ([more] if more and len(more) < 22 else []), (stroke, fill))
        d.text(x + 77, 158, setting, 12, mono=True)
        if number < 4:
            d.arrow([(x + 155, 92), (x + 173, 92)])
    d.arrow([(797, 166), (797, 206), (272, 206), (272, 166)], dashed=True)
    d.text(535, 198, "the next step samples with the new weights: that is what on-policy means", 12, DIM)
    d.text(20, 32, "a step of distill(start) { ... }", 13, DIM, "start", mono=True)
    d.text(20, 246, "Only what is marked live in the objective carries gradient. Teachers are frozen.", 13, DIM, "start")
    d.write("step.svg")


def rollouts() -> None:
    """Who writes the tokens that a stage trains on."""
    d = Drawing(820, 300, "Rollouts: the student's own completions, a teacher's, those of the data, a mix.")
    prompt = [("capital", (LINE, PLAIN)), ("of", (LINE, PLAIN)), ("Peru?", (LINE, PLAIN))]
    rows = [
        ("sample(n: 2, ...)", [["It", "is", "Lima"], ["Cusco"]], BLUE, "the student's own: on-policy"),
        ("from(expert, ...)", [["Lima", "."]], ORANGE, "a teacher's: off-policy"),
        ("data(answer)", [["Lima"]], GREEN, "those of the data"),
    ]
    y = 46
    d.text(30, 28, "rollout =", 13, DIM, "start", mono=True)
    d.text(240, 28, "prompt", 13, DIM, "start")
    d.text(420, 28, "completions that are trained on", 13, DIM, "start")
    for setting, completions, colours, who in rows:
        d.text(30, y + 16, setting, 13, anchor="start", mono=True)
        for completion in completions:
            d.tokens(240, y, prompt)
            end = d.tokens(420, y, [(word, colours) for word in completion] + [("end", (colours[0], PAPER))])
            y += 30
        d.text(max(end, 590) + 10, y - 14, who, 12, DIM, "start")
        y += 12
    d.text(30, y + 16, "mix(0.5, sample(...), data(answer))", 13, anchor="start", mono=True)
    d.text(420, y + 16, "for each prompt one or the other, by chance", 12, DIM, "start")
    y += 40
    d.text(30, y + 16, "sample(n: 8, ...) |> best(reward, of: 1)", 13, anchor="start", mono=True)
    d.text(420, y + 16, "eight are written, the best one is kept", 12, DIM, "start")
    d.write("rollouts.svg")


def keep() -> None:
    """What an edit of the student runs again."""
    d = Drawing(820, 250, "After an edit of the student only the student and its cells of the table are computed again.")
    kept, again = (LINE, PLAIN), BLUE
    d.box(30, 92, 110, 50, ["start", "kept"], kept)
    d.box(210, 30, 150, 50, ["expert[math]", "kept"], kept)
    d.box(210, 92, 150, 50, ["expert[code]", "kept"], kept)
    d.box(210, 154, 150, 50, ["baseline", "kept"], kept)
    d.box(440, 60, 150, 56, ["student", "edited: runs again"], again)
    d.box(660, 92, 130, 56, ["table", "one row is new"], again)
    d.arrow([(140, 110), (206, 58)])
    d.arrow([(140, 117), (206, 117)])
    d.arrow([(140, 124), (206, 176)])
    d.arrow([(360, 55), (436, 80)])
    d.arrow([(360, 117), (436, 96)])
    d.arrow([(590, 88), (656, 112)], BLUE[0])
    d.arrow([(360, 180), (656, 132)])
    d.text(30, 234, "A stage is found again by a key: the hash of its settings, its data and the keys of the models it reads.", 13, DIM, "start")
    d.write("keep.svg")


if __name__ == "__main__":
    for draw in (method, step, rollouts, keep):
        draw()
