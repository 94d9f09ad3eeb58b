"""Read models folded from the log, and the projector that keeps them."""

from ._following import Behind
from ._shelf import Making, Status, read_status
from .beside import Beside, beside
from .copies import Copied, pack, unpack
from .documents import Documents
from .history import Page
from .job_list import EVERYBODY, Cursor, ExpiredJob, JobList, JobReference, Whose
from .looking_back import Moment, Sought, Then
from .projector import READ_MODELS, Difference, Projector, Rebuilt
from .questions import JobReadModel
from .queue import Queue, QueueState, WaitingJob
from .readmodel import Batch, Contents, Event, ReadModel
from .services import DeclaredService, Services
from .trail import Trail
from .usage import DESTROYED, Usage, UsageOf, destroyed_first
from .usage import usage as usage_in

__all__ = [
    "DESTROYED",
    "EVERYBODY",
    "READ_MODELS",
    "Batch",
    "Behind",
    "Beside",
    "Contents",
    "Copied",
    "Cursor",
    "DeclaredService",
    "Difference",
    "Documents",
    "Event",
    "ExpiredJob",
    "JobList",
    "JobReadModel",
    "JobReference",
    "Making",
    "Moment",
    "Page",
    "Projector",
    "Queue",
    "QueueState",
    "ReadModel",
    "Rebuilt",
    "Services",
    "Sought",
    "Status",
    "Then",
    "Trail",
    "Usage",
    "UsageOf",
    "WaitingJob",
    "Whose",
    "beside",
    "destroyed_first",
    "pack",
    "read_status",
    "unpack",
    "usage_in",
]
