"""The scheduler of what runs in Slurm: one does this for all servers that share a log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from eventstore import StoreUnavailable
from uws.config import SlurmSettings
from uws.jobs import Backend, UserUWS
from uws.model.queueing import IN_SLURM

from ..scheduler import Scheduler
from .cluster import Cluster
from .run import SlurmRun


class SlurmScheduler(Scheduler):
    """Hands the jobs of services to Slurm, and sees through what was handed to it, whoever did."""

    executor = "slurm"

    def __init__(
        self,
        backend: Backend,
        offered: Mapping[str, UserUWS],
        find: Callable[[str], Awaitable[UserUWS]],
        settings: SlurmSettings,
    ) -> None:
        super().__init__(backend, offered, find)
        self._cluster = Cluster(backend.clock, settings)
        self._here = self._here._replace(restarted=False)  # no matter to jobs elsewhere

    async def is_needed(self) -> bool:
        """Whether there is a service whose jobs Slurm runs, or such a job, or nobody can tell."""
        if self._offered:
            return True
        try:
            await self._backend.projector.caught_up("queue")
            return any(node == IN_SLURM for *_, node in await self._backend.jobs.started())
        except StoreUnavailable:
            return True

    async def start(self) -> None:
        self._cluster.start()
        await super().start()

    async def close(self) -> None:
        """Leave the jobs to Slurm, and to whoever does this next."""
        await super().close()
        await self._cluster.close()

    @property
    def _place(self) -> str | None:
        return IN_SLURM if self._backend.node else None

    def _is_own(self, node: str | None) -> bool:
        return node == IN_SLURM

    def _run(self, uws: UserUWS, job_id: str, owner: str | None = None) -> SlurmRun:
        return SlurmRun(uws, job_id, self._here, self._cluster)

    async def _end_strays(self) -> None:
        pass  # what runs elsewhere is for Slurm to end
