"""What names a job or a service on the command line, and how a shell completes it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

import typer

from eventstore import EventStoreError
from projections import READ_MODELS, beside
from projections.job_list import ids
from uws.config import Settings, load
from uws.model import UWSError

from .common import CONFIG, settings_of

_SHOWN = 100


def service_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of declared services that begin so; none where that cannot be found out."""
    with suppress(UWSError):
        services = load(context.params.get("config") or CONFIG).services
        return [service.name for service in services if service.name.startswith(incomplete)]
    return []


def job_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Return the newest ids of jobs that begin so, as the job list has them; none where there is no list."""
    with suppress(UWSError, EventStoreError):
        settings = settings_of(context.params.get("config") or CONFIG, context.params.get("data"))
        return asyncio.run(_ids(settings, incomplete))
    return []


def read_models(incomplete: str) -> list[str]:
    """Return the names of read models that begin so."""
    return [model.name for model in READ_MODELS if model.name.startswith(incomplete)]


async def _ids(settings: Settings, incomplete: str) -> list[str]:
    async with beside(settings.projections, "job_list") as job_list:
        return await job_list.ask(ids, incomplete, _SHOWN) if job_list else []


JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.", autocompletion=job_ids)]
