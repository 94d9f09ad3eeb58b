"""The jobs that are seen through at one time, each in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from structlog.contextvars import bind_contextvars

from eventstore import RecordedEvent
from uws.clock import Clock, first_of, pause
from uws.model import JobGone, Superseded
from uws.model.events import job_id_of

from .fetching import FilesAway
from .run import Run

_log = logging.getLogger(__name__)

_CONCERNS_RUNS = frozenset(
    {
        "JobStarted", "StopRequested", "JobRequeued", "JobFailed", "JobAborted", "JobArchived",
        "JobDestroyed",
    }
)  # fmt: skip


class Runs:
    """The jobs that are seen through, ``by_job`` id. ``over`` is called with each that is no more."""

    def __init__(self, clock: Clock, closing: asyncio.Event, over: Callable[[Run], None]) -> None:
        self._clock, self._closing, self._over = clock, closing, over
        self.by_job: dict[str, Run] = {}

    async def begin(self, run: Run, step: Callable[[], Awaitable[None]]) -> None:
        """Let a run take its ``step``; returns when that has decided something of the job."""
        self.by_job[run.job_id] = run
        run.task = asyncio.create_task(self._see_through(run, step), name=f"job {run.job_id}")
        # The read model is asked again only when it tells what was decided of this job.
        await run.decided.wait()

    def hear(self, event: RecordedEvent) -> bool:
        """Tell a job's run what has become of the job; returns whether there is one."""
        run = self.by_job.get(job_id_of(event.stream) or "")
        if run and event.type in _CONCERNS_RUNS:
            run.hear(event)
        return run is not None

    async def close(self, *, stop: bool = False) -> None:
        """Leave the programs to their supervisors, or ``stop`` them and return when all is recorded."""
        runs = list(self.by_job.values())
        for run in runs:
            if stop:
                run.stop("shutdown")
            else:
                run.task.cancel()
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)

    async def _see_through(self, run: Run, step: Callable[[], Awaitable[None]]) -> None:
        bind_contextvars(job_id=run.job_id)  # what is logged in its task is about the job
        try:
            await step()
        except (Superseded, JobGone) as error:
            _log.warning("%s", error)
        except FilesAway as error:
            _log.info("job %s is not started here for now: %s", run.job_id, error)
            run.awaits = error.node or run.job_id
        except Exception:
            _log.exception("job %s is left to itself for a moment", run.job_id)
            run.failed = True
            # Whatever is the matter with it: not again at once.
            run.decided.set()
            await first_of(pause(self._clock), self._closing.wait())
        finally:
            run.decided.set()
            del self.by_job[run.job_id]
            self._over(run)
