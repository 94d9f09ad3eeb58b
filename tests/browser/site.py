"""A site with every page there is, for those tests that look at all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests.harness import Site, job_id, running
from tests.web.support import record
from uws import (
    BoolParameter,
    Example,
    FileParameter,
    FloatParameter,
    ResultDeclaration,
    Service,
    StrParameter,
)
from uws.config import AuthSettings
from uws.model import Identity, Role
from uws.model import events as e
from uws.web import Authentication

TABLE = (
    '<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
    '<FIELD name="ra" unit="deg" datatype="double"/><FIELD name="dec" unit="deg" datatype="double"/>'
    "<DATA><TABLEDATA><TR><TD>83.63</TD><TD>22.01</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
)
IMAGE = Path(__file__).parents[2] / "examples" / "data" / "sky.fits"
PLOT = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="240" height="120">'
    '<rect width="240" height="120" fill="#123"/><circle cx="80" cy="60" r="9" fill="#fff"/></svg>'
)
PROGRAM = """
set -e
cp "$3" stars.vot
cp "$1" stars.fits
echo "$2" > stars.svg
echo "[1]" > stars.json
echo done
"""
STARS = Service(
    name="stars",
    title="Bright stars",
    description="The bright stars around a position, as a table and as a picture.",
    command=["sh", "-c", PROGRAM, "stars", str(IMAGE), PLOT, ["{list}"]],
    results=[
        ResultDeclaration(id="stars", path="stars.vot", mime="application/x-votable+xml"),
        ResultDeclaration(id="image", path="stars.fits", mime="image/fits"),
        ResultDeclaration(id="plot", path="stars.svg"),
        ResultDeclaration(id="numbers", path="stars.json"),
        ResultDeclaration(id="said", path="-"),
    ],
    parameters={
        "ra": FloatParameter(required=True, min=0, max=360, unit="deg", description="Where"),
        "dec": FloatParameter(min=-90, max=90, unit="deg", default=22.0),
        "band": StrParameter(values=["J", "H", "K"], multiple=True, default=["J"]),
        "deep": BoolParameter(default=False),
        "note": StrParameter(multiple=True),
        "list": FileParameter(max_size="10MB", description="A table of stars"),
    },
    examples=[Example(title="The Crab", description="A nebula.", parameters={"ra": 83.63, "band": ["K"]})],
)


class _AuditorsAll(Authentication):
    """Whoever comes is nobody in particular, may pause the queue and read the record."""

    async def identify(self, request: web.Request) -> Identity:
        return Identity(roles=frozenset({Role.OPERATOR, Role.AUDITOR}))


@asynccontextmanager
async def full_site(data: Path) -> AsyncIterator[tuple[Site, dict[str, str]]]:
    """Serve jobs in every state; gives the site, and its pages by name."""
    async with running(data, STARS) as site:
        done = job_id(await site.create("stars", ra="83.6", list=TABLE.encode(), RUNID="Crab", PHASE="RUN"))
        failed = job_id(await site.run("stars", ra="1"))
        for job in (done, failed):
            await site.ended(f"{site.list_url('stars')}/{job}")
    for_all = _AuditorsAll(AuthSettings(users="users.json"), data, anonymous=True)
    async with running(data, STARS, executes=False, authenticator=for_all) as site:
        done, failed = (f"{site.list_url('stars')}/{job}" for job in (done, failed))
        held = await site.create("stars", ra="2", band=["J", "H"])
        await record(site, held, e.JobHeld(reason="all places are taken"))
        at_work = await site.create("stars", ra="3")
        progress = e.ProgressMade(fraction=0.35, text="reading the catalogue")
        await record(site, at_work, e.JobQueued(), e.JobStarted(declaration=""), progress)
        waiting = await site.run("stars", ra="4")
        pages = {
            "services": f"{site.url}/",
            "login": f"{site.url}/login",
            "service": f"{site.url}/stars",
            "service-again": f"{site.url}/stars?from-job={job_id(done)}",
            "service-change": f"{site.url}/stars?change-job={job_id(held)}",
            "service-refused": f"{site.url}/stars?ra=400&dec=north&band=K",
            "examples": f"{site.url}/stars/examples",
            "jobs": f"{site.url}/stars/async",
            "jobs-none": f"{site.url}/stars/async?TEXT=nothing",
            "jobs-more": f"{site.url}/stars/async?LIMIT=2",
            "job": done,
            "job-failed": failed,
            "job-held": held,
            "job-waiting": waiting,
            "job-executing": at_work,
            "parameters": f"{done}/parameters",
            "results": f"{done}/results",
            "history": f"{done}/history",
            "table": f"{done}/results/stars/preview",
            "image": f"{done}/results/image/preview",
            "text": f"{done}/results/numbers/preview",
            "log": f"{failed}/logs/stderr/preview",
            "not-found": f"{site.url}/nothing",
            "queue": f"{site.url}/queue",
            "record": f"{site.url}/audit",
            "record-job": f"{site.url}/audit/jobs/{job_id(at_work)}?VERSION=3",
            "record-state": f"{site.url}/audit/state",
            "record-chain": f"{site.url}/audit/chain",
        }
        yield site, pages
