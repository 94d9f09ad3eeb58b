"""The resources of UWS 1.1 (section 2.2): one handler for each, thin over `UserUWS`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import msgspec
from aiohttp import web
from lxml import etree

from uws.commands import Changes
from uws.files import OwnFile, Spooled
from uws.jobs import UserUWS
from uws.model import (
    ACTIVE,
    Action,
    FileParameter,
    Job,
    NotFound,
    OverQuota,
    ParameterError,
    Phase,
    Result,
    TooMany,
    Unavailable,
    Upload,
    UsageError,
    did_you_mean,
    parameters_schema,
)
from uws.model.units import format_time

from . import documents, json_documents
from .errors import Handler, answer_for, discreet
from .forms import (
    REPLACE,
    Received,
    phase_of,
    query_of,
    read_file,
    read_submission,
    read_value,
    single,
    whole_number,
)
from .negotiation import HTML, JSON, Form, form_of, is_for_reading
from .resource import Resource, ask_again
from .services import refused
from .stored import stored_file

_SHORTEST = 0.5
"""The part of the longest wait that who would wait for longer gets at least."""
SHOWN_AFTER_DELETION = 100
"""Jobs of the list that a client is led to when it has deleted one."""
Document = Callable[[UserUWS, Job], etree._Element]
Json = Callable[[UserUWS, Job], bytes]


def _text(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/plain")


async def parameters_json(request: web.Request) -> web.Response:
    """``/{service}/parameters.json``: the JSON Schema of the generated job class."""
    schema = parameters_schema(Resource(request).uws.job_class)
    return web.Response(body=msgspec.json.encode(schema), content_type="application/schema+json")


async def create(request: web.Request) -> web.Response:
    """POST to the job list: a new job, and RUN with it when ``PHASE=RUN`` is there."""
    resource = Resource(request)
    received = Received(of_browser=is_for_reading(request))
    try:
        job = await new_job(resource, received)
    except (UsageError, OverQuota, TooMany, Unavailable) as error:
        if not is_for_reading(request):
            raise
        return await refused(resource, received, error)
    return resource.see(resource.uws.get_url_for_id(job.id))


async def new_job(resource: Resource, received: Received, *, sync: bool = False) -> Job:
    """Make the job that a request asks for; what of it has come is ``received``, whatever goes wrong."""
    uws = resource.uws
    async with resource.receiving() as spool:
        sent = await read_submission(resource.request, uws.service, spool, resource.fetches(spool), received)
        if sent.phase == "ABORT" or sent.action:
            raise UsageError("a job that is only being created can neither be aborted, changed nor deleted")
        await ask_again(resource.request)
        run = sync or sent.phase == "RUN"
        return await uws.create_job(sent.changes, resource.caller, run=run, sync=sync)


async def job_document(request: web.Request) -> web.Response:
    """``{job}``: the document; blocks while WAIT says so (section 2.2.1.1)."""
    resource = Resource(request)
    pairs = query_of(request)
    form = form_of(request, pairs)
    wait, wanted = single(pairs, "WAIT"), single(pairs, "PHASE")
    job = await resource.job()
    phase = None if wanted is None else phase_of(wanted)
    if wait is not None:
        seconds: float = whole_number(wait, "WAIT", -1)
        longest = resource.site.longest_wait
        if not 0 <= seconds <= longest:
            # Who came all at once, as after a restart, would come so again and again.
            seconds = longest * random.uniform(_SHORTEST, 1)  # noqa: S311 - nothing is kept secret by this
        job = await resource.wait(
            seconds,
            None if phase is None else {phase} & ACTIVE,
        )
    standing, may = await resource.uws.standing(job), _may(resource, job)

    def made() -> etree._Element | bytes:
        if form is JSON:
            return json_documents.job_document(resource.uws, job, standing)
        return documents.job_document(resource.uws, job, standing, may=may)

    if form is HTML:
        return resource.answer(made(), form)
    if wait is None:
        _lasts(resource, job)
    kept = resource.rendered((job.id, job.version, resource.base_url, standing, may, form), made)
    return resource.answer(kept, form)


def _lasts(resource: Resource, job: Job) -> None:
    """Let the answer be given again until something happens to the job.

    A place in the queue depends on other jobs, and who may look at a job that is shared on the time.
    """
    if job.phase is not Phase.QUEUED and not job.shares:
        resource.lasts_as(partial(resource.uws.backend.jobs.is_now, job))


def _may(resource: Resource, job: Job) -> str | None:
    """Return what the caller may do to a job, None when that is all."""
    commands = (Action.CHANGE, Action.ABORT, Action.DESTROY, Action.SHARE)
    lets = [one.name.lower() for one in commands if resource.uws.lets(resource.caller, one, job)]
    return None if len(lets) == len(commands) else " ".join(["read", *lets])


def _part(resource: Resource, job: Job, form: Form, xml: Document, json: Json) -> web.Response:
    """Answer with what tells of a job, or of a part of it, or with 304 when the client holds it."""
    if form is JSON:
        return resource.answer(json(resource.uws, job), form)
    return resource.answer(xml(resource.uws, job), form)


def changing(*expected: str) -> Handler:
    """Make the handler of POSTs to a job or to what is below it, where one of ``expected`` must be given."""

    async def change(request: web.Request) -> web.Response:
        resource = Resource(request)
        return await _change(resource, Received(of_browser=is_for_reading(request)), expected)

    return change


def setting(name: str) -> Handler:
    """Make the handler of POSTs to a setting of a job; a refusal is told beside its field."""

    async def change(request: web.Request) -> web.Response:
        resource = Resource(request)
        received = Received(of_browser=is_for_reading(request))
        try:
            return await _change(resource, received, (name,))
        except UsageError as error:
            if not received.of_browser:
                raise
            answer = answer_for(error)
            assert answer, "this error is meant for a client"
            job = await resource.job()
            sent = next((pair.value for pair in received.pairs if pair.name.upper() == name), None)
            refused = documents.Refused(name, discreet(error).removeprefix(f"{name}: "), sent)
            standing = await resource.uws.standing(job)
            return resource.answer(
                documents.job_document(resource.uws, job, standing, refused, _may(resource, job)),
                HTML,
                answer.status,
            )

    return change


async def set_parameters(request: web.Request) -> web.Response:
    """POST to ``{job}/parameters``; a form that gives all of them anew is shown again when it is refused."""
    resource = Resource(request)
    received = Received(of_browser=is_for_reading(request))
    try:
        return await _change(resource, received, ())
    except (UsageError, OverQuota, TooMany, Unavailable) as error:
        if not received.of_browser or ("ACTION", REPLACE) not in received.pairs:
            raise
        return await refused(resource, received, error, await resource.job())


async def _change(resource: Resource, received: Received, expected: Sequence[str]) -> web.Response:
    request, uws = resource.request, resource.uws
    async with resource.receiving() as spool:
        sent = await read_submission(request, uws.service, spool, resource.fetches(spool), received)
        if expected and not sent.given.intersection(expected):
            raise UsageError(f"{' or '.join(expected)} is missing")
        await ask_again(request)
        if sent.action == "DELETE":
            return await _destroy(resource)
        if received.of_browser and _is_past(sent.changes.destruction, uws):
            raise UsageError("DESTRUCTION: this time is past; to be rid of the job now, delete it")
        await uws.change_job(
            resource.job_id,
            sent.changes,
            resource.caller,
            run=sent.phase == "RUN",
            abort=sent.phase == "ABORT",
        )
    return resource.see_job()


def _is_past(time: datetime | None, uws: UserUWS) -> bool:
    return time is not None and time <= uws.backend.clock.now()


async def destroy(request: web.Request) -> web.Response:
    """DELETE of a job: back to the list when it is gone."""
    resource = Resource(request)
    await resource.admit()
    return await _destroy(resource)


async def _destroy(resource: Resource) -> web.Response:
    await resource.uws.destroy_job(resource.job_id, resource.caller)
    if is_for_reading(resource.request):
        return resource.see(resource.uws.joblist_url)  # for people it comes page by page
    # A client that follows this must not be sent a list of any length (UWS 1.1 section 2.2.2.1).
    return resource.see(f"{resource.uws.joblist_url}?LAST={SHOWN_AFTER_DELETION}")


def value_of(read: Callable[[Job], str]) -> Handler:
    """Make the handler of a resource that is one value of a job, as text."""

    async def value(request: web.Request) -> web.Response:
        resource = Resource(request)
        job = await resource.job()
        _lasts(resource, job)
        return _text(read(job))

    return value


def error_text(job: Job) -> str:
    """The full text of what went wrong; also why a job was aborted."""
    if job.failure:
        return job.failure.detail or job.failure.message
    return job.note if job.phase is Phase.ABORTED else ""


VALUES: dict[str, Callable[[Job], str]] = {
    "phase": lambda job: job.phase,
    "executionduration": lambda job: str(job.execution_duration),
    "destruction": lambda job: format_time(job.destruction) if job.destruction else "",
    "quote": lambda job: format_time(job.quote) if job.quote else "",
    "error": error_text,
    "owner": lambda job: job.owner or "",
}
"""The simple values below a job, by the last part of their URL."""


async def parameters(request: web.Request) -> web.Response:
    """``{job}/parameters``: the list."""
    resource = Resource(request)
    form = form_of(request, query_of(request))
    job = await resource.job()
    return _part(resource, job, form, documents.parameters_document, json_documents.parameters_document)


async def parameter(request: web.Request) -> web.StreamResponse:
    """``{job}/parameters/{name}``: the value or the uploaded file; the n-th of several with ``/n``."""
    resource = Resource(request)
    job = await resource.job()
    name = resource.uws.service.find(request.match_info["name"]) or request.match_info["name"]
    values = job.parameters.get(name)
    if not values:
        raise NotFound(f"job {job.id} has no value for {name}")
    number = request.match_info.get("number")
    if number is not None:
        if not 1 <= int(number) <= len(values):
            raise NotFound(f"{name} of job {job.id} has {len(values)} values, not {number}")
        values = values[int(number) - 1 : int(number)]
    value = values[0]
    if isinstance(value, Upload):
        resource.caller.check(Action.FILES, job, resource.uws.backend.clock.now())
        return stored_file(request, resource.uws.backend.upload_of(job, value))
    return _text("\n".join(str(value) for value in values))


async def put_parameter(request: web.Request) -> web.Response:
    """PUT of one parameter: its new value, or its new file, is the body."""
    resource = Resource(request)
    uws = resource.uws
    name = request.match_info["name"]
    declared = uws.service.parameters.get(uws.service.find(name) or "")
    async with resource.receiving() as spool:
        if uws.service.find(name) is None and spool.keep:
            raise ParameterError(name, uws.service.unknown(name))
        if isinstance(declared, FileParameter):
            files: dict[str, list[Spooled]] = {name: [await read_file(request, name, declared, spool)]}
            changes = Changes(files=files)
        else:
            changes = Changes(parameters={name: [await read_value(request)]})
        await ask_again(request)
        await uws.change_job(resource.job_id, changes, resource.caller)
    return web.Response(status=204)


async def results(request: web.Request) -> web.Response:
    """``{job}/results``: the list."""
    resource = Resource(request)
    form = form_of(request, query_of(request))
    job = await resource.job()
    return _part(resource, job, form, documents.results_document, json_documents.results_document)


async def result(request: web.Request) -> web.StreamResponse:
    """``{job}/results/{id}``: the file, with its media type; ranges are served."""
    resource = Resource(request)
    return stored_file(request, result_of(resource, await resource.job(Action.FILES)))


async def log(request: web.Request) -> web.StreamResponse:
    """``{job}/logs/{name}``: what the program wrote to standard output or error so far."""
    resource = Resource(request)
    return stored_file(request, log_of(resource, await resource.job(Action.FILES)))


def result_of(resource: Resource, job: Job) -> OwnFile:
    """Return the result that the URL names. Raises `NotFound`."""
    wanted = resource.request.match_info["result_id"]
    found: Result | None = next((item for item in job.results if item.id == wanted), None)
    if found is None:
        known = [item.id for item in job.results]
        raise NotFound(f"job {job.id} has no result {wanted}{did_you_mean(wanted, known)}")
    return resource.uws.backend.files_of(job).result(found)


def log_of(resource: Resource, job: Job) -> OwnFile:
    """Return the output that the URL names; there is none before the job's program was started."""
    return resource.uws.backend.files_of(job).log(resource.request.match_info["name"])
