"""Admin commands: what they do, and the Unix socket through which they reach a running server."""

from .client import ask
from .door import listening
from .failures import DoesNotHold, NobodyListens, Refusal, Unreachable, problems_of
from .operations import (
    Administered,
    EraseJob,
    ImportTrace,
    Operation,
    Place,
    ProjectionsStatus,
    PrunedLog,
    PruneLog,
    Question,
    RebuildProjections,
    Report,
    VerifyProjections,
    caller_of,
    carry_out,
    counting,
)

__all__ = [
    "Administered",
    "DoesNotHold",
    "EraseJob",
    "ImportTrace",
    "NobodyListens",
    "Operation",
    "Place",
    "ProjectionsStatus",
    "PruneLog",
    "PrunedLog",
    "Question",
    "RebuildProjections",
    "Refusal",
    "Report",
    "Unreachable",
    "VerifyProjections",
    "ask",
    "caller_of",
    "carry_out",
    "counting",
    "listening",
    "problems_of",
]
