"""Tests of the module's handling of the program's output; a script plays the program, and records how it was called."""

import contextlib
import io
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import unittest
from unittest import mock

import mopd
from mopd import _results

SCORE = {"mean": 0.7249, "low": 0.69, "high": 0.75, "n": 200, "by_seed": [0.72]}
WHOLE = {"mean": 0.95, "low": 0.92, "high": 0.98}
ROW = {"model": "a<b", "scores": {"sort": SCORE}, "normalized": WHOLE, "normalized_by_seed": [0.95], "spread": 0.031}
TABLE = {
    "name": "tiny",
    "metric": "pass@1",
    "samples": 2,
    "domains": ["sort", "reverse"],
    "rows": [{**ROW, "metrics": {"length": {"sort": {**SCORE, "mean": 4.5}}}}],
}
RESULTS = {"schema": 1, "experiment": "tiny", "seeds": [1], "tables": [TABLE], "seconds": 1.5}
RANGE = {"start": {"line": 2, "character": 4}, "end": {"line": 2, "character": 9}}


class Played(unittest.TestCase):
    """Tests in a separate folder, in which the program `mopd` is a Python script."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        patched = mock.patch.dict(os.environ, MOPD_BIN=str(self.folder / "mopd"))
        patched.start()
        self.addCleanup(patched.stop)

    def play(self, script):
        head = f"#!{sys.executable}\nimport json, os, signal, sys, time\n"
        keep = "json.dump([sys.argv[1:], os.getcwd(), sys.stdin.read()], open(sys.path[0] + '/called', 'w'))\n"
        say = "def say(event, **fields): print(json.dumps({'event': event, **fields}), flush=True)\n"
        (self.folder / "mopd").write_text(head + keep + say + script)
        (self.folder / "mopd").chmod(0o755)

    def called(self):
        return json.loads((self.folder / "called").read_text())

    def left(self, path, **files):
        folder = self.folder / path
        folder.mkdir(parents=True)
        for name, content in {"plan": {}, **files}.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder


class Check(Played):
    def test_diagnostics_are_objects(self):
        label = {"file": "-", "range": RANGE, "text": "unknown"}
        fix = {"title": "write y", "file": "-", "range": RANGE, "replacement": "y", "applicability": "certain"}
        said = {
            "code": "unknown-name", "severity": "error", "message": "no `x`", "file": "-", "range": RANGE,
            "labels": [label], "help": "did you mean `y`?", "fix": fix, "url": None,
        }
        self.play(f"print({json.dumps([said])!r})\nsys.exit(1)")
        [found] = mopd.check("let a = x\n", folder=self.folder)
        place = mopd.Place("-", 3, 5, 3, 10)
        self.assertEqual((found.code, found.severity, found.place), ("unknown-name", "error", place))
        self.assertEqual(found.labels, (mopd.Label(place, "unknown"),))
        self.assertEqual(found.fix, mopd.Fix("write y", place, "y", certain=True))
        self.assertEqual(str(found), "-:3:5: error[unknown-name]: no `x`\n  help: did you mean `y`?")
        self.assertEqual(self.called(), [["check", "--format", "json", "--", "-"], str(self.folder), "let a = x\n"])

    def test_a_path_and_a_line_that_ends_so_are_files(self):
        self.play("print('[]')")
        for source, file, text in [
            ("sub/a.mopd", "sub/a.mopd", ""),
            (pathlib.Path("sub/a"), "sub/a", ""),
            ("let a = 1", "-", "let a = 1"),
            ("use b.mopd\n", "-", "use b.mopd\n"),
        ]:
            self.assertEqual(mopd.check(source), [])
            arguments, _, given = self.called()
            self.assertEqual((arguments[-1], given), (file, text))
        self.assertEqual(mopd.check("a.mopd", folder="/"), [])
        self.assertEqual(self.called()[:2], [["check", "--format", "json", "--", str(self.folder / "a.mopd")], "/"])

    def test_what_is_no_list_is_an_error_in_the_programs_words(self):
        self.play("sys.exit('error[broken]: no such thing')")
        with self.assertRaisesRegex(mopd.Error, r"^error\[broken\]: no such thing$"):
            mopd.check("")


class Run(Played):
    def setUp(self):
        super().setUp()
        # Shells start background processes with interrupts ignored, and children inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)

    def test_a_run_is_loaded_where_the_program_says(self):
        self.left("work/runs/tiny", results=RESULTS)
        self.play("say('step', loss=2.5)\nsay('results', out='runs/tiny')\nprint('all is well', file=sys.stderr)")
        events, said = [], io.StringIO()
        with contextlib.redirect_stderr(said):
            run = mopd.run(
                "experiment\n", set={"seed": 2, "clip": 0.5}, from_=["start"], checkpoint_every="30s", workers=1,
                fresh=True, arguments=["--predict", "never"], folder="work", on_event=events.append,
            )
        options = "--set seed=2 --set clip=0.5 --fresh --from start --checkpoint-every 30s --workers 1 --predict never"
        expected = ["run", "--format", "json", *options.split(), "--", "-"]
        self.assertEqual(self.called(), [expected, str(self.folder / "work"), "experiment\n"])
        self.assertEqual([event["event"] for event in events], ["step", "results"])
        self.assertEqual(said.getvalue(), "all is well\n")
        self.assertEqual((run.path, run.experiment), (self.folder / "work/runs/tiny", "tiny"))

    def test_values_are_written_as_the_language_has_them(self):
        self.left("runs/tiny", results=RESULTS)
        self.play("say('results', out='runs/tiny')")
        mopd.run("a.mopd", set={"quick": True, "slow": False, "n": 1, "who": "True"}, from_="student", quiet=True)
        given = "--set quick=true --set slow=false --set n=1 --set who=True --from student"
        self.assertEqual(self.called()[0], ["run", "--format", "json", *given.split(), "--", "a.mopd"])

    def test_a_dry_run_is_refused_before_anything_starts(self):
        self.play("say('dry_run')")
        with self.assertRaisesRegex(mopd.Error, "^`--dry-run` runs nothing") as raised:
            mopd.run("a.mopd", arguments=["--dry-run"], quiet=True)
        self.assertNotIsInstance(raised.exception, mopd.RunError)
        self.assertFalse((self.folder / "called").exists())

    def test_a_failure_has_the_programs_words(self):
        failed = "say('failed', kind='reward', message='it crashed', help='look there', stage='s', seed=1, step=3)"
        self.play(f"print('error', file=sys.stderr)\n{failed}\nsys.exit(1)")
        with self.assertRaises(mopd.RunError) as raised:
            mopd.run("a.mopd", quiet=True)
        error = raised.exception
        self.assertEqual(str(error), "it crashed\n  help: look there")
        self.assertEqual((error.kind, error.stage, error.seed, error.step), ("reward", "s", 1, 3))
        self.assertEqual(error.report, "error")

    def test_without_a_failure_it_is_what_was_said(self):
        said = io.StringIO()
        self.play("print('error[unknown-name]: no `x`', file=sys.stderr)\nsys.exit(1)")
        with contextlib.redirect_stderr(said), self.assertRaisesRegex(mopd.RunError, r"^error\[unknown-name\]"):
            mopd.run("a.mopd", quiet=True)
        self.assertEqual(said.getvalue(), "")

    def test_a_program_that_reads_nothing_says_why(self):
        (self.folder / "mopd").write_text("#!/bin/sh\necho 'error: no such option' >&2\nexit 2\n")
        (self.folder / "mopd").chmod(0o755)
        with self.assertRaisesRegex(mopd.RunError, "no such option"):
            mopd.run("x\n" * 1_000_000, quiet=True)

    def test_an_interrupt_is_handed_on_once(self):
        wait = "signal.signal(signal.SIGINT, lambda *_: (open('heard', 'a').write('x'), say('interrupted'), sys.exit(130)))"
        self.play(f"{wait}\nsay('ready')\ntime.sleep(60)")
        main = threading.main_thread().ident
        with self.assertRaises(KeyboardInterrupt):
            mopd.run("a.mopd", quiet=True, on_event=lambda event: signal.pthread_kill(main, signal.SIGINT))
        self.assertEqual((self.folder / "heard").read_text(), "x")

    def test_a_run_that_somebody_else_stops_is_an_error(self):
        self.play("sys.exit(130)")
        with self.assertRaisesRegex(mopd.RunError, "^interrupted; the same call goes on"):
            mopd.run("a.mopd", quiet=True)

    def test_what_a_callback_raises_ends_the_run(self):
        self.play("say('ready')\ntime.sleep(60)")
        with self.assertRaises(ZeroDivisionError):
            mopd.run("a.mopd", quiet=True, on_event=lambda event: 1 // 0)


class Load(Played):
    def test_tables(self):
        table = mopd.load(self.left("run", results=RESULTS)).table("tiny")
        self.assertEqual((table.metric, table.domains, table.models), ("pass@1", ["sort", "reverse"], ["a<b"]))
        row = "| a<b | 0.72 [0.69, 0.75] |  | 0.95 [0.92, 0.98] | 0.03 |"
        head = "| model | sort | reverse | normalized | spread |\n|---|---:|---:|---:|---:|"
        self.assertEqual(str(table), f"tiny: pass@1\n\n{head}\n{row}")
        page = table._repr_html_()
        self.assertIn("<caption>tiny: pass@1, mean [95% interval]</caption>", page)
        self.assertIn("<th>a&lt;b</th>", page)
        self.assertIn(">0.72 [0.69, 0.75]</td>", page)
        with self.assertRaisesRegex(mopd.Error, 'no table "tinny"; it has "tiny"'):
            mopd.load("run").table("tinny")

    def test_a_narrow_interval_has_the_decimals_that_it_needs(self):
        def shown(mean, low, high):
            row = {**ROW, "scores": {"sort": {**SCORE, "mean": mean, "low": low, "high": high}}}
            results = {**RESULTS, "tables": [{**RESULTS["tables"][0], "rows": [row]}]}
            return str(mopd.load(self.left(f"run-{mean}", results=results)).tables[0])

        self.assertIn("| 0.0012 [0.0010, 0.0014] |", shown(0.0012, 0.001, 0.0014))
        self.assertIn("| 0.00 [0.00, 0.30] |", shown(0.0, -0.001, 0.3))
        self.assertIn("| 1.00 [1.00, 1.00] |", shown(1.0, 1.0, 1.0))

    def test_frames_are_those_that_are_there(self):
        folder = self.left("run", results=RESULTS)
        (folder / "metrics.parquet").write_bytes(b"")
        library = lambda name: mock.Mock(read_parquet=lambda path: (name, path), DataFrame=lambda rows: (name, rows))
        polars, pandas = library("polars"), library("pandas")
        file = pathlib.Path("run/metrics.parquet")
        with mock.patch.dict(sys.modules, polars=polars, pandas=pandas):
            self.assertEqual(mopd.load("run").metrics, ("polars", file))
            self.assertEqual(mopd.load("run", frames="pandas").metrics, ("pandas", file))
            name, rows = mopd.load("run").tables[0].frame()
        key = {"model": "a<b", "domain": "sort", "metric": "pass@1"}
        self.assertEqual(rows[0], {**key, "mean": 0.7249, "low": 0.69, "high": 0.75, "n": 200})
        self.assertEqual([row["metric"] for row in rows], ["pass@1", "length", "normalized"])
        self.assertEqual((rows[2]["domain"], rows[2]["n"]), (None, None))

        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        with mock.patch.object(_results.importlib, "import_module", missing):
            with self.assertRaisesRegex(mopd.Error, "need polars or pandas, which is not installed"):
                mopd.load("run").metrics
            with self.assertRaisesRegex(mopd.Error, "need pandas, which is not installed: `pip install pandas`"):
                mopd.load("run", frames="pandas").metrics
        with self.assertRaisesRegex(mopd.Error, "not with 'arrow'"):
            mopd.load("run", frames="arrow")

    def test_a_sweep_has_members(self):
        members = [{"values": {"k": 1}, "out": "runs/s/k=1", "good": True}, {"values": {"k": 2}, "out": "x", "good": False}]
        folder = self.left("s", results=RESULTS, sweep={"schema": 1, "members": members})
        (folder / "plan.json").unlink()
        self.assertEqual([run.path for run in mopd.load("s").members], [pathlib.Path("s/k=1")])
        with self.assertRaisesRegex(mopd.Error, "it is a sweep, whose runs are its `members`"):
            mopd.load("s").metrics

    def test_what_is_no_run_is_named(self):
        with self.assertRaisesRegex(mopd.Error, "^gone is no run: there is no such folder"):
            mopd.load("gone")
        self.left("begun")
        with self.assertRaisesRegex(mopd.Error, "the run is not finished"):
            mopd.load("begun").results
        with self.assertRaisesRegex(mopd.Error, "has no samples.parquet: the run left none"):
            mopd.load("begun").samples


class Program(Played):
    def test_a_program_that_is_not_there(self):
        nowhere = {"MOPD_BIN": "", "PATH": str(self.folder)}
        with mock.patch.dict(os.environ, nowhere), self.assertRaisesRegex(mopd.Error, "cannot find the program `mopd`"):
            mopd.program()
        self.play("")
        with mock.patch.dict(os.environ, nowhere):
            self.assertEqual(mopd.program(), str(self.folder / "mopd"))


if __name__ == "__main__":
    unittest.main()
