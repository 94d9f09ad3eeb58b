"""Synchronous execution (DALI 1.1 section 2.2): a job whose result is waited for.

Who makes the job is led to an address that follows from it alone, and there to its result. What is answered
there depends on nothing but the job, so that it can be asked again, after any restart of the server.
"""

from __future__ import annotations

from aiohttp import web

from uws.model import STARTED, Broken, IllegalPhase, Job, NotFound, NotSuccessful, Phase, Unavailable

from .forms import Received
from .handlers import new_job
from .negotiation import is_for_reading
from .origins import check_origin
from .resource import Resource

_UNDER_WAY = STARTED | {Phase.QUEUED}
"""The phases in which a result may come without anybody asking for it."""


async def sync(request: web.Request) -> web.Response:
    """``/{service}/sync``: a new job, queued at once, and the way to its result."""
    resource = Resource(request)
    # DALI wants GET to make a job, too, which a page of another site could have a browser send.
    check_origin(request, resource.site.base_url)
    job = await new_job(resource, Received(of_browser=is_for_reading(request)), sync=True)
    return resource.see(f"{resource.uws.sync_url}/{job.id}")


async def outcome(request: web.Request) -> web.Response:
    """``/{service}/sync/{id}``: leads to the job's first result once it is there, or says why none comes.

    After ``sync_seconds`` it leads to the job.
    """
    resource = Resource(request)
    job = await resource.wait(resource.site.sync_seconds, _UNDER_WAY)
    if job.phase in _UNDER_WAY:
        if resource.site.closing.is_set():
            raise Unavailable(
                "the server is being stopped; the job goes on, and can be waited for again here"
            )
        return resource.see_job()
    if job.phase is not Phase.COMPLETED:
        raise _without_success(resource, job)
    if job.results:
        return resource.see(f"{resource.uws.get_url_for_id(job.id)}/results/{job.results[0].id}")
    # A browser shows nothing of an answer without content.
    return resource.see_job() if is_for_reading(request) else web.Response(status=204)


def _without_success(resource: Resource, job: Job) -> Exception:
    """Return what a job is told as that comes to no result now, or ever."""
    match job.phase:
        case Phase.HELD:
            return Unavailable(
                f"job {job.id} is HELD, {job.note}; it runs when there is room; wait for it here then"
            )
        case Phase.ABORTED:
            return NotSuccessful(f"job {job.id} is ABORTED: {job.note}")
        case Phase.ARCHIVED:
            return NotFound(f"job {job.id} is ARCHIVED: its results are gone")
        case Phase.ERROR if failure := job.failure:
            more = f"; in full at {resource.uws.get_url_for_id(job.id)}/error" if failure.detail else ""
            if failure.type == "transient":
                return Unavailable(failure.message + more)
            # A program that ends by itself tells what it makes of its input; what else goes wrong is ours.
            return (NotSuccessful if job.exit_code else Broken)(failure.message + more)
    return IllegalPhase(job.id, job.phase, "waiting for its result", _UNDER_WAY)
