"""Read models folded from the log, and the projector that keeps them."""

from .jobs import JobReadModel, JobReference, JobTables, QueueHead
from .projector import Behind, Projector, ReadModel

__all__ = ["Behind", "JobReadModel", "JobReference", "JobTables", "Projector", "QueueHead", "ReadModel"]
