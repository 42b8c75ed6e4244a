"""The results of a run: its tables, and its Parquet files as frames of polars or pandas."""

from __future__ import annotations

import functools
import html
import importlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Optional, Sequence, Union

from ._program import Error, Source, program

#: In the order of preference.
FRAMES = ("polars", "pandas")


def load(run: Source, *, frames: Optional[str] = None) -> Run:
    """The run in a folder of results, such as `runs/quickstart`.

    `frames` is the library that reads frames, `"polars"` or `"pandas"`. By default it is polars if that is
    installed, else pandas; neither is needed until a frame is read.
    """
    path = pathlib.Path(run)
    if not (path / "plan.json").is_file() and not (path / "sweep.json").is_file():
        why = "it has no plan.json" if path.is_dir() else "there is no such folder"
        raise Error(f"{path} is no run: {why}; `mopd run` leaves one, runs/NAME where it is told nothing else")
    if frames is not None and frames not in FRAMES:
        raise Error(f"frames are read with polars or pandas, not with {frames!r}")
    return Run(path, frames)


def query(sql: str, runs: Union[Source, Sequence[Source]]) -> Any:
    """The answer to a question in SQL about the runs in these folders, as a frame of polars.

    The tables are `runs`, `metrics`, `samples`, `answers`, `rewards` and `tables`, as in `mopd query`.
    """
    folders = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "answer.parquet"
        command = [program(), "query", "--format=parquet", f"--out={out}", f"--python={sys.executable}", "--", sql]
        command += [os.fspath(run) for run in folders]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace")
        if said.returncode != 0:
            raise Error(said.stderr.strip())
        # Read as a whole: the file is gone afterwards.
        return _library("polars").read_parquet(out)


class Run:
    """A loaded run. Its frames are read at their first use."""

    def __init__(self, path: pathlib.Path, frames: Optional[str] = None) -> None:
        #: The folder of its results.
        self.path = path
        self._frames = frames

    @functools.cached_property
    def results(self) -> Dict[str, Any]:
        """`results.json`."""
        file = self.path / "results.json"
        if not file.is_file():
            raise Error(f"{self.path} has no tables: the run is not finished; the same command goes on with it")
        return json.loads(file.read_text(encoding="utf-8"))

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return self.results["experiment"]

    @property
    def tables(self) -> List[Table]:
        """Its tables, in the order of the experiment."""
        return [Table(each, self._frames) for each in self.results["tables"]]

    def query(self, sql: str) -> Any:
        """The answer to a question in SQL about this run, as a frame of polars; of a sweep, about its runs."""
        return query(sql, self.path)

    def table(self, name: str) -> Table:
        """The table with this name."""
        for table in self.tables:
            if table.name == name:
                return table
        names = ", ".join(f'"{table.name}"' for table in self.tables)
        raise Error(f'the run has no table "{name}"; it has {names or "none"}')

    @property
    def members(self) -> List[Run]:
        """The runs of a sweep that finished; empty for a run without a sweep."""
        file = self.path / "sweep.json"
        if not file.is_file():
            return []
        listed = json.loads(file.read_text(encoding="utf-8"))["members"]
        names = [pathlib.PurePath(member["out"]).name for member in listed if member["good"]]
        return [Run(self.path / name, self._frames) for name in names]

    @functools.cached_property
    def metrics(self) -> Any:
        """A frame: a row for each seed, stage, step and domain."""
        return self._read("metrics")

    @functools.cached_property
    def samples(self) -> Any:
        """A frame: completions of every stage that trains, a row for each token."""
        return self._read("samples")

    @functools.cached_property
    def rewards(self) -> Any:
        """A frame: the rewards behind the tables, a row for each model, domain, seed and test prompt."""
        return self._read("rewards")

    @functools.cached_property
    def weights(self) -> Any:
        """A frame: histograms of weights and signals over tokens."""
        return self._read("weights")

    def _read(self, name: str) -> Any:
        file = self.path / f"{name}.parquet"
        if not file.is_file():
            why = "it is a sweep, whose runs are its `members`" if self.members else "the run left none"
            raise Error(f"{self.path} has no {file.name}: {why}")
        return _library(self._frames).read_parquet(file)

    def __repr__(self) -> str:
        return f"<mopd.Run {str(self.path)!r}>"

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables)


class Table:
    """A table of a run. A notebook shows it as a table; `print` writes Markdown."""

    def __init__(self, said: Dict[str, Any], frames: Optional[str] = None) -> None:
        self._frames = frames
        #: The table as in `results.json`.
        self.said = said
        self.name: str = said["name"]
        #: The name of the score: `pass@1`, `mean reward`.
        self.metric: str = said["metric"]
        #: Its columns.
        self.domains: List[str] = said["domains"]
        #: The names of its rows.
        self.models: List[str] = [row["model"] for row in said["rows"]]

    def frame(self) -> Any:
        """A frame: a row for each model, domain and metric, with `mean`, `low`, `high` and `n`. The normalized
        score covers all domains, so its domain is null."""
        rows = []
        for row in self.said["rows"]:
            scores = [(self.metric, domain, score) for domain, score in row["scores"].items()]
            for metric, of_domain in row.get("metrics", {}).items():
                scores += [(metric, domain, score) for domain, score in of_domain.items()]
            if row["normalized"] is not None:
                scores.append(("normalized", None, row["normalized"]))
            for metric, domain, score in scores:
                key = {"model": row["model"], "domain": domain, "metric": metric}
                rows.append({**key, **{name: score.get(name) for name in ("mean", "low", "high", "n")}})
        return _library(self._frames).DataFrame(rows)

    def _grid(self) -> List[List[str]]:
        normalized = any(row["normalized"] is not None for row in self.said["rows"])
        grid = [["model", *self.domains, *(["normalized", "spread"] if normalized else [])]]
        for row in self.said["rows"]:
            cells = [row["model"], *(_span(row["scores"].get(domain)) for domain in self.domains)]
            if normalized:
                spread = row["spread"]
                cells += [_span(row["normalized"]), "" if spread is None else f"{spread:.2f}"]
            grid.append(cells)
        return grid

    def __repr__(self) -> str:
        return f"<mopd.Table {self.name!r}: {self.metric} of {', '.join(self.models)}>"

    def __str__(self) -> str:
        head, *rows = (f"| {' | '.join(cells)} |" for cells in self._grid())
        rule = f"|---|{'---:|' * (len(self._grid()[0]) - 1)}"
        return "\n".join([f"{self.name}: {self.metric}", "", head, rule, *rows])

    def _repr_html_(self) -> str:
        head, *rows = self._grid()
        lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
        for first, *cells in rows:
            # Each number of a domain stays on one line.
            numbers = (f'<td style="text-align: right; white-space: nowrap">{html.escape(cell)}</td>' for cell in cells)
            lines.append(f"<th>{html.escape(first)}</th>{''.join(numbers)}")
        caption = f"{self.name}: {self.metric}, mean [95% interval]"
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><caption>{html.escape(caption)}</caption>{body}</table>"


def _span(score: Optional[Dict[str, float]]) -> str:
    if score is None:
        return ""
    digits = _decimals(score)
    mean, low, high = (_fixed(score[name], digits) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _decimals(score: Dict[str, float]) -> int:
    """Two decimals, or more where the interval is narrower than these can show; as `mopd` itself prints."""
    width, size = score["high"] - score["low"], abs(score["mean"])
    # An interval without a width has no scale, but its number has. Smaller differences are rounding.
    scale = width if width > 1e-9 * max(size, 1.0) else size
    return min(max(-math.floor(math.log10(scale)), 2), 9) if 1e-9 < scale < 0.005 else 2


def _fixed(value: float, digits: int) -> str:
    """A number that rounds to 0 has no sign."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text


def _library(wanted: Optional[str]) -> Any:
    for name in FRAMES if wanted is None else (wanted,):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    needed = " or ".join(FRAMES) if wanted is None else wanted
    raise Error(f"frames need {needed}, which is not installed: `pip install {FRAMES[0] if wanted is None else wanted}`")
