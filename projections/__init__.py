"""Read models folded from the log, and the projector that keeps them."""

from ._following import Behind
from ._shelf import Making, Status, read_status
from .documents import Documents
from .history import Page
from .job_list import Cursor, JobList, JobReference
from .projector import READ_MODELS, Difference, Projector, Rebuilt
from .questions import JobReadModel
from .queue import Queue, QueueHead
from .readmodel import Batch, Contents, Event, ReadModel
from .services import DeclaredService, Services
from .usage import DESTROYED, Usage, UsageOf

__all__ = [
    "DESTROYED",
    "READ_MODELS",
    "Batch",
    "Behind",
    "Contents",
    "Cursor",
    "DeclaredService",
    "Difference",
    "Documents",
    "Event",
    "JobList",
    "JobReadModel",
    "JobReference",
    "Making",
    "Page",
    "Projector",
    "Queue",
    "QueueHead",
    "ReadModel",
    "Rebuilt",
    "Services",
    "Status",
    "Usage",
    "UsageOf",
    "read_status",
]
