"""What came of what: the record of a run, as a W3C PROV document and a drawing, and held against another."""

from .comparing import Comparison, Difference, ResultsHeld, compare, declarations_differ
from .runs import Run, read_run, run_of

__all__ = [
    "Comparison",
    "Difference",
    "ResultsHeld",
    "Run",
    "compare",
    "declarations_differ",
    "read_run",
    "run_of",
]
