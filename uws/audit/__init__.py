"""For auditors: checkpoints, erasure, archives of the log; what happened, and how it was then."""

from .archiving import archive, check_pruning, check_signature, prune
from .chain import Chain, chain_of
from .checkpoints import Checkpointing, sign_head
from .entries import Entry, entry_of
from .erasure import erase_job
from .past import (
    READ_MODEL,
    JobThen,
    NotThere,
    Past,
    State,
    check_time,
    happened_by,
)
from .retained import Told, tell
from .retention import Retention

__all__ = [
    "READ_MODEL",
    "Chain",
    "Checkpointing",
    "Entry",
    "JobThen",
    "NotThere",
    "Past",
    "Retention",
    "State",
    "Told",
    "archive",
    "chain_of",
    "check_pruning",
    "check_signature",
    "check_time",
    "entry_of",
    "erase_job",
    "happened_by",
    "prune",
    "sign_head",
    "tell",
]
