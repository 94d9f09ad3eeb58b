"""Services whose jobs Slurm runs, and ways to wait for what Slurm makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.execution.programs import shell
from tests.execution.test_programs import info
from tests.harness import Site
from tests.slurm.cluster import Slurm
from uws import Service
from uws.config import SlurmSettings

T = TypeVar("T")
SOON = SlurmSettings(every=0.2, unknown_after=3, lost_after=2)
"""How a server looks after jobs that tests wait for."""


def in_slurm(script: str, *arguments: str, **fields: Any) -> Service:
    """Declare a service that has Slurm run a shell script."""
    return shell(script, *arguments, **{"executor": "slurm", "max_running": 8, **fields})


LEDGER = 'echo "$UWS_JOB_ID" >> "$LEDGER"; '


def counted(tmp_path: Path, script: str, **fields: object) -> Service:
    """Declare a service of which each run leaves a line in a ledger."""
    environment = {"LEDGER": str(tmp_path / "ledger"), **fields.pop("environment", {})}  # type: ignore[dict-item]
    return in_slurm(LEDGER + script, environment=environment, **fields)


def ran(tmp_path: Path) -> list[str]:
    """Return the jobs that were run, each as often as it was."""
    ledger = tmp_path / "ledger"
    return sorted(ledger.read_text().split()) if ledger.exists() else []


async def until(holds: Callable[[], Awaitable[T | None]], seconds: float = 60) -> T:
    """Return what ``holds`` returns as soon as that is something."""
    async with asyncio.timeout(seconds):
        while (found := await holds()) is None or found is False:
            await asyncio.sleep(0.05)
        return found


def state_of(cluster: Slurm, number: str | None) -> str:
    """Return a job's state in Slurm."""
    return cluster.run("squeue", "-h", "-t", "all", "-j", str(number), "-o", "%T")


async def batch_job(site: Site, job: str) -> str | None:
    """Return what Slurm calls a job, None as long as that is not known."""
    return info(await site.document(job)).get("batchJob")
