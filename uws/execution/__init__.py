"""Running programs, and clearing away what is no longer wanted."""

from .destruction import Destruction
from .scheduler import Scheduler

__all__ = ["Destruction", "Scheduler"]
