"""Files that are here already, of jobs and of examples: by the URLs at which this server offers them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from yarl import URL

from uws.commands import Caller
from uws.files import OwnFile, files_of_example
from uws.jobs import UserUWS
from uws.model import Action, Job, NotFound, Upload
from uws.peers import PeerFile

_OF_JOB = re.compile(
    r"/(?P<service>[^/]+)/(async|uws\.xml)/(?P<job>[^/]+)"
    r"/(?P<kind>results|parameters)/(?P<item>[^/?]+)(/(?P<number>[0-9]{1,6}))?"
)
_OF_EXAMPLE = re.compile(
    r"/(?P<service>[^/]+)/examples/(?P<example>[^/]+)/(?P<item>[^/?]+)(/(?P<number>[0-9]{1,6}))?"
)


async def own_file(
    services: Mapping[str, UserUWS], base_url: str, caller: Caller, url: URL
) -> OwnFile | PeerFile | None:
    """Return the file of a job, or of an example, that a URL below ``base_url`` names; None for any other.

    That of a job may be on another node.

    Raises `NotFound` when there is no such file, and what `UserUWS.get_job` does for a job that the caller
    may not look at.
    """
    text = str(url)
    path = text.removeprefix(base_url)
    found = _OF_JOB.fullmatch(path) or _OF_EXAMPLE.fullmatch(path)
    uws = services.get(found["service"]) if found and text.startswith(base_url) else None
    if not found or not uws:
        return None
    item, number = found["item"], int(found["number"] or 1)
    if found.re is _OF_EXAMPLE:
        caller.check_use(Action.READ, uws.service)
        return file_of_example(uws, found["example"], item, number)
    job = await uws.get_job(found["job"], caller, Action.FILES)
    return uws.backend.wherever(file_of_job(uws, job, found["kind"], item, number), path)


def file_of_job(uws: UserUWS, job: Job, kind: str, item: str, number: int) -> OwnFile:
    """Return a result of a job, or the ``number``-th file of a parameter, from 1. Raises `NotFound`."""
    if kind == "parameters":
        values = job.parameters.get(uws.service.find(item) or "", ())[number - 1 : number]
        files = [uws.backend.upload_of(job, value) for value in values if isinstance(value, Upload)]
    else:
        directory = uws.backend.files_of(job)
        files = [directory.result(one) for one in job.results if (one.id, number) == (item, 1)]
    if not files:
        raise NotFound(f"job {job.id} has no such file")
    return files[0]


def file_of_example(uws: UserUWS, example_id: str, name: str, number: int) -> OwnFile:
    """Return the ``number``-th file, counted from 1, that an example gives a parameter. Raises `NotFound`."""
    service = uws.service
    example = next((example for example in service.examples if example.id == example_id), None)
    files = files_of_example(service, example).get(service.find(name) or "", []) if example else []
    if not 0 < number <= len(files):
        raise NotFound(f"{service.name} has no such example, or that has no such file")
    return files[number - 1]
