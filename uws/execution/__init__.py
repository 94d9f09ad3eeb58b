"""Running programs, and clearing away what is no longer wanted."""

from .deletion import Deletion
from .destruction import Destruction
from .nodes import taking_jobs
from .scheduler import Scheduler
from .settling import Settling
from .slurm import SlurmScheduler

__all__ = ["Deletion", "Destruction", "Scheduler", "Settling", "SlurmScheduler", "taking_jobs"]
