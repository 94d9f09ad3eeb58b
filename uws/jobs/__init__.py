"""The commands: create, change, queue, abort and destroy jobs, and ask about them.

Everything else - HTTP, the scheduler, the command line - goes through `UserUWS`. A command loads the
job's events, folds them, lets the pure model decide, and appends what then has happened.
"""

from uws.jobs.backend import Backend
from uws.jobs.facade import UserUWS, make_uws_for_service, new_job_id
from uws.jobs.offered import Offered, offered
from uws.jobs.questions import JobFilter

__all__ = ["Backend", "JobFilter", "Offered", "UserUWS", "make_uws_for_service", "new_job_id", "offered"]
