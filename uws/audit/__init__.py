"""For auditors: checkpoints, erasure, archives of the log."""

from .archiving import archive, check_pruning, check_signature, prune
from .checkpoints import Checkpointing, sign_head
from .erasure import erase_job

__all__ = [
    "Checkpointing",
    "archive",
    "check_pruning",
    "check_signature",
    "erase_job",
    "prune",
    "sign_head",
]
