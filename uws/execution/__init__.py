"""Running programs, and clearing away what is no longer wanted."""

from .deletion import Deletion
from .destruction import Destruction
from .nodes import taking_jobs
from .scheduler import Scheduler

__all__ = ["Deletion", "Destruction", "Scheduler", "taking_jobs"]
