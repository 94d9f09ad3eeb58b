"""The history of single jobs in one file, which proves itself to whoever has nothing else."""

from .files import Proven, compare_results, export_histories, verify_history
from .history import History, HistoryError, JobHistory, Step
from .words import visible

__all__ = [
    "History",
    "HistoryError",
    "JobHistory",
    "Proven",
    "Step",
    "compare_results",
    "export_histories",
    "verify_history",
    "visible",
]
