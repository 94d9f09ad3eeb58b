"""What came of what: the record of a run, as a W3C PROV document and a drawing, and held against another."""

from .comparing import Comparison, Difference, ResultsHeld, compare, declarations_differ
from .runs import Run, run_of

__all__ = [
    "Comparison",
    "Difference",
    "ResultsHeld",
    "Run",
    "compare",
    "declarations_differ",
    "run_of",
]
