"""The work of `mopd query`: a question about runs in SQL, answered by polars.

`mopd` passes this file to a Python that has polars, with the question and the runs as JSON on standard input; nothing of
the module `mopd` is imported. Parquet files are scanned lazily: a column or a row group that a question does not need is
not read.
"""

import json
import os
import re
import sys

#: The tables that are Parquet files of a run, with the columns that every such file has. Others, such as the parts of a
#: reward, are there if the file of a run has them.
FILES = {
    "metrics": {
        "seed": "UInt64", "stage": "String", "step": "UInt32", "domain": "String", "teacher": "String", "terms": "String",
        "reward": "Float64", "divergence": "Float64", "entropy": "Float64", "length": "Float64", "tokens": "Float64",
        "truncated": "Float64", "prompt_share": "Float64", "token_share": "Float64", "loss": "Float64",
        "gradient_norm": "Float64", "learning_rate": "Float64", "seconds": "Float64", "memory": "UInt64",
    },
    "samples": {
        "seed": "UInt64", "stage": "String", "step": "UInt32", "domain": "String", "teacher": "String", "sample": "UInt32",
        "prompt": "String", "prompt_text": "String", "reward": "Float64", "length": "UInt32", "position": "UInt32",
        "text": "String", "logp": "Float32", "teacher_logp": "Float32", "divergence": "Float32", "entropy": "Float32",
        "weight": "Float32", "signal": "Float32", "advantage": "Float32",
    },
    "answers": {
        "table": "String", "row": "String", "model": "String", "domain": "String", "seed": "UInt64", "prompt": "UInt32",
        "prompt_text": "String", "sample": "UInt32", "text": "String", "reward": "Float64", "feedback": "String",
        "tokens": "UInt32", "truncated": "Boolean",
    },
    "rewards": {
        "table": "String", "model": "String", "domain": "String", "seed": "UInt64", "tests": "String", "prompt": "UInt32",
        "reward": "Float64", "samples": "UInt32", "correct": "UInt32", "length": "Float64",
    },
}
SCORES = {
    "run": "String", "table": "String", "model": "String", "domain": "String", "metric": "String", "mean": "Float64",
    "low": "Float64", "high": "Float64", "n": "UInt32", "samples": "UInt32",
}
#: The oldest version of polars whose SQL and scans do what is needed here.
OLDEST = (2, 1)
#: The most rows of a table for people.
SHOWN = 50
#: Polars' own table functions read any file, by any spelling of their names.
READS = re.compile(r"^(read|scan)_", re.IGNORECASE)
#: A text, a quoted name (in double quotes or backticks), a comment, a word, or any other character.
TOKENS = re.compile(
    r"'(?:[^']|'')*'|\"((?:[^\"]|\"\")*)\"|`([^`]*)`|--[^\n]*|/\*.*?\*/|([^\W\d]\w*)|\S", re.DOTALL | re.UNICODE
)


class Refused(Exception):
    """A question that is not answered, with the reason."""


def refuse_files(sql):
    """Refuses table functions: a question reads the named runs, and no other file."""
    name = None
    for token in TOKENS.finditer(sql):
        if token.group().startswith(("--", "/*")):
            continue
        if token.group() == "(" and name is not None and READS.match(name):
            raise Refused(f"`{name}(...)` reads other files, and a query reads only the runs that are named after it")
        name = next((text for text in token.groups() if text is not None), None)


def typed(pl, columns):
    return {name: getattr(pl, kind) for name, kind in columns.items()}


def scanned(pl, name, runs):
    """The files of one name of all runs, as one lazy table."""
    schema = {"run": pl.String, **typed(pl, FILES[name])}
    parts = [pl.LazyFrame(schema=schema)]
    # Runs of one experiment have the same columns: their files are scanned together, which is faster than one by one.
    alike = {}
    for run in runs:
        file = os.path.join(run["folder"], f"{name}.parquet")
        if os.path.isfile(file):
            try:
                columns = pl.read_parquet_schema(file)
            except Exception as error:
                raise Refused(f"can't read {file}: {error}") from None
            alike.setdefault(tuple(columns.items()), []).append((file, run["run"]))
    for files in alike.values():
        names = pl.LazyFrame({"__file": [file for file, _ in files], "run": [run for _, run in files]})
        scan = pl.scan_parquet([file for file, _ in files], include_file_paths="__file", glob=False)
        parts.append(scan.join(names, on="__file", how="left", maintain_order="left").drop("__file"))
    return pl.concat(parts, how="diagonal_relaxed")


def scores(pl, runs):
    """The tables of results: a row for each run, table, model, domain and metric."""
    rows = []
    for run in runs:
        for table in run["tables"] or []:
            for row in table["rows"]:
                found = [(table["metric"], domain, score) for domain, score in row["scores"].items()]
                for metric, of_domain in row.get("metrics", {}).items():
                    found += [(metric, domain, score) for domain, score in of_domain.items()]
                if row.get("normalized") is not None:
                    # It is of all domains.
                    found.append(("normalized", None, row["normalized"]))
                for metric, domain, score in found:
                    key = {"run": run["run"], "table": table["name"], "model": row["model"], "domain": domain, "metric": metric}
                    rows.append({**key, **{name: score.get(name) for name in ("mean", "low", "high", "n", "samples")}})
    return pl.DataFrame(rows, schema=typed(pl, SCORES)).lazy()


def facts(pl, runs):
    """A row for each run, with its settings as columns."""
    rows = [{"run": run["run"], **run["facts"]} for run in runs]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        elif len(kinds) > 1:
            values = [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
        columns[name] = pl.Series(name, values, dtype=None if kinds else pl.String)
    return pl.DataFrame(columns).lazy()


def answer(pl, sql, runs):
    """The table that answers a question, as a frame."""
    refuse_files(sql)
    tables = {name: scanned(pl, name, runs) for name in FILES if re.search(rf"\b{name}\b", sql, re.IGNORECASE)}
    context = pl.SQLContext({**tables, "runs": facts(pl, runs), "tables": scores(pl, runs)}, eager=False)
    try:
        return context.execute(sql).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        # The rest is polars' plan.
        raise Refused(str(error).strip().split("\n\n")[0]) from None


def visible(pl, frame):
    """Texts on one line, without the characters that control a terminal."""
    strings = pl.selectors.string() if hasattr(pl, "selectors") else pl.col(pl.String)
    return frame.with_columns(
        strings.str.replace_all("\n", "↵", literal=True)
        .str.replace_all("[\\x00-\\x1f\\x7f-\\x9f\u200b-\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff]", "\ufffd")
    )


def write(pl, frame, kind, out):
    to = out if out is not None else sys.stdout.buffer
    if kind == "csv":
        frame.write_csv(to)
    elif kind == "json":
        frame.write_ndjson(to)
    elif kind == "parquet":
        frame.write_parquet(to)
    else:
        with pl.Config(
            tbl_formatting="ASCII_MARKDOWN", tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True,
            tbl_rows=SHOWN, tbl_cols=-1, tbl_width_chars=60_000, fmt_str_lengths=60, fmt_table_cell_list_len=8,
        ):
            text = f"{visible(pl, frame.head(SHOWN))}\n"
        if out is None:
            sys.stdout.write(text)
        else:
            with open(out, "w", encoding="utf-8") as file:
                file.write(text)
        if frame.height > SHOWN:
            print(f"{SHOWN} of {frame.height} rows; `--format csv` has all", file=sys.stderr)
    sys.stdout.flush()


def main():
    # A module of this name in the folder where the command runs is not polars.
    sys.path = [path for path in sys.path if path not in ("", os.getcwd())]
    try:
        import polars as pl
    except ModuleNotFoundError:
        sys.exit(3)
    if tuple(int(part) for part in pl.__version__.split(".")[:2]) < OLDEST:
        print(f"polars {pl.__version__}", file=sys.stderr)
        sys.exit(3)
    asked = json.load(sys.stdin)
    try:
        write(pl, answer(pl, asked["sql"], asked["runs"]), asked["format"], asked["out"])
    except Refused as refused:
        print(refused, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # As with `| head`: nobody reads the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        print(f"can't write {asked['out'] or 'the answer'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
