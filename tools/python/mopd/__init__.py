"""mopd from Python: check, run and read experiments.

>>> import mopd
>>> run = mopd.run("pilot/pilot.mopd")
>>> run.tables[0]
>>> run.metrics
>>> run.query("select model, mean from tables")

The program `mopd` of the same package does everything; this module starts it and reads its output and its
results.
"""

from ._check import Diagnostic, Fix, Label, Place, check
from ._program import Error, program
from ._results import Run, Table, load, query
from ._run import RunError, run
from .reward import Completion

__all__ = [
    "Completion",
    "Diagnostic",
    "Error",
    "Fix",
    "Label",
    "Place",
    "Run",
    "RunError",
    "Table",
    "check",
    "load",
    "program",
    "query",
    "run",
]
