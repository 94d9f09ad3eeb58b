"""What the server can be asked, for programs: an OpenAPI 3.1 description, made from its routes.

What a route is for stands in `OPERATIONS`. Where it is, which methods it has and what its path takes, the
router knows; what a service takes, its declaration. A path that takes the parameters of a service stands
there once for each service, any other once for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from uws.jobs import UserUWS
from uws.model import FileParameter, Parameter, Phase, Service
from uws.version import VERSION

from .auditing import FILTERS
from .capabilities import nobody_may_pass, schemes
from .errors import REASONS
from .forms import KEY, REPLACE
from .job_lists import MAX_LIMIT, OWN_PARAMETERS
from .negotiation import HTML, JSON, XML
from .provenance import FORMS
from .resource import Resource

Schema = dict[str, Any]
Answers = dict[int, Sequence[str]]
"""The media types that are answered, by status; none where they do not matter."""

_FORMS = tuple(form.content_type.partition(";")[0] for form in (XML, JSON, HTML))
_URLENCODED, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"
_TIME: Schema = {
    "type": "string",
    "pattern": r"^[0-9]{4}(-[0-9]{2}(-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?)?)?)?Z?$",
    "description": "UTC, ISO 8601",
}


def _numbers(count: str, bound: str = _NUMBER) -> Schema:
    return {"type": "string", "pattern": f"^{bound}([ ,]+{bound}){{{count}}}$"}


_AS_TEXT: dict[str, Schema] = {
    "timestamp": _TIME,
    "interval": _numbers("1", f"({_NUMBER}|[+-]?Inf)"),
    "point": _numbers("1"),
    "circle": _numbers("2"),
    "polygon": _numbers("5,"),
    "file": {"type": "string", "format": "binary"},
}
"""The types whose values are sent in another form than JSON gives them (DALI 1.1 section 3.3)."""

FIELDS: dict[str, Schema] = {
    "PHASE": {"enum": ["RUN", "ABORT"], "description": "what is to become of the job"},
    "ACTION": {
        "enum": ["DELETE", REPLACE],
        "description": f"{REPLACE}: what is not given is taken away; DELETE: the job is destroyed",
    },
    "ENDING": {"enum": ["DELETE"], "description": "the share ends"},
    "STEERING": {"enum": ["PAUSE", "RESUME"], "description": "what is to become of the queue"},
    "OF": {"type": "string", "description": "the service whose queue it is; without it, all are"},
    "RUNID": {"type": "string", "description": "the client's own name for the job"},
    "EXECUTIONDURATION": {
        "type": "integer",
        "minimum": 0,
        "maximum": 10**18 - 1,
        "description": "seconds that the job may run; 0 is unlimited",
    },
    "DESTRUCTION": {**_TIME, "description": "when the job is destroyed, UTC, ISO 8601"},
    "UPLOAD": {
        "type": "string",
        "description": "name,param:part or name,URL for each file, with ';' between",
    },
    "WITH": {"type": "string", "description": "a user, a group as @name, or LINK"},
    "EXPIRES": {
        "type": "string",
        "pattern": "^[0-9]{1,6}(s|min|h|d|w)?$",
        "description": "how long it is good",
    },
    "USERNAME": {"type": "string", "description": "who one is"},
    "PASSWORD": {"type": "string", "format": "password", "description": "what only he knows"},
    "NEXT": {"type": "string", "description": "the path of this server that is led to"},
}
"""What the fields of forms take that are not parameters of a service, by our names for it."""
_CREATING = ("PHASE", "RUNID", "EXECUTIONDURATION", "DESTRUCTION", "UPLOAD")

QUERY: dict[str, Schema] = {
    **{name: FIELDS[name] for name in ("EXECUTIONDURATION", "DESTRUCTION", "UPLOAD", "NEXT")},
    "RESPONSEFORMAT": {
        "enum": [name for form in (XML, JSON, HTML) for name in (form.name, *form.media_types)],
        "description": "the form of the answer, whatever Accept says",
    },
    "PROVFORMAT": {
        "enum": [name for form in FORMS for name in (form.name, *form.media_types)],
        "description": "the form of a provenance, whatever Accept says",
    },
    "WAIT": {
        "type": "integer",
        "minimum": -1,
        "maximum": 10**18 - 1,
        "description": "seconds to wait for the phase to change; -1 is as long as may be",
    },
    "LASTING": {"enum": [*Phase], "description": "with WAIT: only while the job is in this phase"},
    "PHASE": {
        "type": "array",
        "items": {"enum": [*Phase]},
        "description": "of a list: jobs in any of these phases",
    },
    "AFTER": {**_TIME, "description": "of a list: jobs made later, UTC, ISO 8601"},
    "LAST": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10**18 - 1,
        "description": "the newest so many of those that all other filters let through",
    },
    "OWNERID": {
        "type": "string",
        "description": "whose jobs: a user's, everybody's (*), or nobody's (empty), as one's role lets one",
    },
    "RUNID": {"type": "string", "description": "jobs with this run id"},
    "TEXT": {"type": "string", "description": "jobs with this in what is known of them"},
    "LIMIT": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_LIMIT,
        "description": "how many a page has at most",
    },
    "CURSOR": {
        "type": "string",
        "pattern": "^[A-Za-z0-9_-]+$",
        "description": "where a page begins, as its link says",
    },
    "FROM-JOB": {"type": "string", "description": "a job of this service, whose parameters are taken"},
    "SHARE": {"type": "string", "description": "the secret of a link; good below the job, too"},
    "CHANGE-JOB": {"type": "string", "description": "a job of this service that is to be changed"},
    "VERSION": {
        "type": "integer",
        "minimum": 0,
        "maximum": 10**18 - 1,
        "description": "how many events of the job one knows of",
    },
    "JOB": {"type": "string", "description": "the id of a job"},
    "SERVICE": {"type": "string", "description": "a service"},
    "ACTOR": {"type": "string", "description": "who caused it; the server is uwsd"},
    "TYPE": {"type": "string", "description": "the type of an event"},
    "SINCE": {**_TIME, "description": "events from then on, UTC, ISO 8601"},
    "UNTIL": {**_TIME, "description": "events until then, UTC, ISO 8601"},
    "AT": {**_TIME, "description": "the moment, UTC, ISO 8601"},
    "ELAPSED": {
        "type": "number",
        "minimum": 0,
        "maximum": 10**10 - 1,
        "description": "seconds since the first event of the job",
    },
    "BEHIND": {
        "type": "integer",
        "minimum": 0,
        "maximum": 10**18 - 1,
        "description": "of the log: events behind this position",
    },
    "POSITION": {
        "type": "integer",
        "minimum": 0,
        "maximum": 10**18 - 1,
        "description": "the position of the last event that one knows of",
    },
}
"""What queries take, by our names for it."""
_SENT_AS = {  # where that is not our name for it
    "LASTING": "PHASE",
    "ENDING": "ACTION",
    "STEERING": "ACTION",
    "OF": "SERVICE",
    "PROVFORMAT": "RESPONSEFORMAT",
    "POSITION": "after",
    "VERSION": "version",
    "FROM-JOB": "from-job",
    "CHANGE-JOB": "change-job",
    "BEHIND": "AFTER",
}
_VARIABLE = re.compile(r"\(\?P<(\w+)>([^()]*)\)")
HEADERS: dict[str, Schema] = {
    KEY: {
        "type": "string",
        "pattern": "^[ -~]{1,255}$",
        "description": "what is sent again under the same key is done once",
    },
    "If-None-Match": {"type": "string", "description": "the ETag of what one has"},
    "Range": {
        "type": "string",
        "pattern": "^bytes=([0-9]{1,9}-[0-9]{0,9}|-[0-9]{1,9})$",
        "description": "the bytes that are wanted",
    },
    "Last-Event-ID": QUERY["POSITION"],
}


class Operation(NamedTuple):
    """What a route does: what it answers, by status, the media types; and what it takes.

    ``fields`` are those of its form, None when it takes none. ``takes`` says which parameters of the service
    it takes, if any: in its query those that are ``given``, or ``all`` that a job needs; in its ``form`` all;
    ``one`` is that which its path names.
    """

    summary: str
    answers: Answers
    query: Sequence[str] = ()
    headers: Sequence[str] = ()
    fields: Sequence[str] | None = None
    takes: str = ""


def _document(
    summary: str, *query: str, forms: Sequence[str] = _FORMS, answers: Answers | None = None, takes: str = ""
) -> Operation:
    found: Answers = {200: forms, 304: (), **(answers or {})}
    return Operation(summary, found, ("RESPONSEFORMAT", *query), ("If-None-Match",), takes=takes)


def _text(summary: str) -> Operation:
    return Operation(summary, {200: ("text/plain",)})


def _file(summary: str, *, answers: Answers | None = None, takes: str = "") -> Operation:
    whole_or_part: Answers = {200: ("*/*",), 206: ("*/*",), 304: (), 412: (), 416: ()}
    return Operation(summary, whole_or_part | (answers or {}), headers=("Range",), takes=takes)


def _stream(summary: str, *query: str) -> Operation:
    answers: Answers = {200: ("text/event-stream",), 204: ()}
    return Operation(summary, answers, ("POSITION", *query), ("Last-Event-ID",))


def _command(summary: str, *fields: str, takes: str = "") -> Operation:
    return Operation(summary, {303: ()}, headers=(KEY,), fields=fields, takes=takes)


def _kept(summary: str, media_type: str) -> Operation:
    return Operation(summary, {200: (media_type,), 304: ()}, headers=("If-None-Match",))


_LIST, _JOB = "/{service}/async", "/{service}/async/{job_id}"
_SEEN = ("text/xml", "text/html")
_JOB_LIST = _document(
    "The caller's jobs, newest first", "PHASE", *OWN_PARAMETERS[1:-1], answers={303: ()}, takes="given"
)
OPERATIONS: dict[str, Operation] = {
    "GET /": _document("The services"),
    "GET /openapi.json": _kept("This description", JSON.content_type),
    "GET /availability": Operation("Whether the server does its work (VOSI)", {200: ("text/xml",)}),
    "GET /metrics": Operation(
        "Measures, for Prometheus", {200: ("text/plain", "application/openmetrics-text")}
    ),
    "GET /healthz": _text("Whether the process answers"),
    "GET /readyz": _text("Whether commands are carried out and jobs can be looked at"),
    "GET /static/{path}": _file("Stylesheets, and what pages need", answers={404: ()}),
    "GET /queue": _document("Which jobs wait, and why, for operators"),
    "POST /queue": _command("Pauses the queue, or has it go on", "STEERING", "OF"),
    "GET /audit": _document("Events of the log, for auditors", *FILTERS, "BEHIND", "LIMIT"),
    "GET /audit/": Operation("Leads to the events of the log", {303: ()}),
    "GET /audit/chain": _document("Where the log ends, and its last checkpoint"),
    "GET /audit/jobs/{job}": _document(
        "A job as it was right after one of its events, or at a time", "VERSION", "AT", "ELAPSED"
    ),
    "GET /audit/state": _document("The queue as it was at a time", "AT", "SERVICE", "OWNERID"),
    "GET /login": Operation("Who one is, and a form to be somebody", {200: ("text/html",)}, ("NEXT",)),
    "POST /login": Operation(
        "A session", {200: ("text/plain",), 303: ()}, fields=("USERNAME", "PASSWORD", "NEXT")
    ),
    "POST /logout": Operation("The end of a session", {303: ()}),
    "GET /{service}": _document(
        "A service, as a form that the query fills in", "FROM-JOB", "CHANGE-JOB", takes="given"
    ),
    "GET /{service}/": Operation("The service's own address", {303: ()}),
    "GET /{service}/parameters.json": Operation(
        "The JSON Schema of the parameters", {200: ("application/schema+json",)}
    ),
    "GET /{service}/availability": Operation("Whether jobs are run (VOSI)", {200: ("text/xml",)}),
    "GET /{service}/capabilities": _kept("The endpoints and their standards (VOSI)", "text/xml"),
    "GET /{service}/descriptor": _kept("A service descriptor (DataLink)", "application/x-votable+xml"),
    "GET /{service}/examples": _kept("Examples (DALI)", "application/xhtml+xml"),
    "GET /{service}/examples/{example}/{name}": _file("A file of an example"),
    "GET /{service}/examples/{example}/{name}/{number}": _file("The n-th of several files of an example"),
    "GET /{service}/sync": Operation(
        "Makes a job and leads to its result", {303: ()}, _CREATING[1:], takes="all"
    ),
    "POST /{service}/sync": _command("Makes a job and leads to its result", *_CREATING[1:], takes="form"),
    "GET /{service}/sync/{job_id}": Operation("Leads to the job's first result", {204: (), 303: ()}),
    f"GET {_LIST}": _JOB_LIST,
    f"GET {_LIST}/": _JOB_LIST,
    f"POST {_LIST}": _command("Makes a job", *_CREATING, takes="form"),
    f"GET {_LIST}/events": _stream("What happens to the caller's jobs, as it happens"),
    f"GET {_JOB}": _document("A job; WAIT waits for its phase to change", "WAIT", "LASTING", "SHARE"),
    f"POST {_JOB}": _command("Changes a job", "ACTION", *_CREATING, takes="form"),
    f"DELETE {_JOB}": _command("Destroys a job"),
    f"GET {_JOB}/phase": _text("The job's phase"),
    f"GET {_JOB}/executionduration": _text("How long the job may run, in seconds; 0 is unlimited"),
    f"GET {_JOB}/destruction": _text("When the job is destroyed"),
    f"GET {_JOB}/quote": _text("When the job is expected to end"),
    f"GET {_JOB}/error": _text("What went wrong, in full"),
    f"GET {_JOB}/owner": _text("Whose job it is"),
    f"POST {_JOB}/phase": _command("Starts or aborts a job", "PHASE"),
    f"POST {_JOB}/executionduration": _command("Sets how long the job may run", "EXECUTIONDURATION"),
    f"POST {_JOB}/destruction": _command("Sets when the job is destroyed", "DESTRUCTION"),
    f"GET {_JOB}/parameters": _document("The values of a job's parameters"),
    f"POST {_JOB}/parameters": _command(
        "Sets values of a job's parameters", "ACTION", "UPLOAD", takes="form"
    ),
    f"GET {_JOB}/parameters/{{name}}": _file("The value, or the file, of a parameter", takes="one"),
    f"PUT {_JOB}/parameters/{{name}}": Operation(
        "Sets the value, or the file, of a parameter", {204: ()}, headers=(KEY,), takes="one"
    ),
    f"GET {_JOB}/parameters/{{name}}/{{number}}": _file("The n-th of several values", takes="one"),
    f"GET {_JOB}/results": _document("The list of results"),
    f"GET {_JOB}/results/{{result_id}}": _file("A result"),
    f"GET {_JOB}/results/{{result_id}}/preview": _document("The beginning of a result", forms=_SEEN),
    f"GET {_JOB}/results/{{result_id}}/quicklook": _kept("A picture of a FITS image", "image/png"),
    f"GET {_JOB}/logs/{{name}}": _file("What the program wrote so far"),
    f"GET {_JOB}/logs/{{name}}/preview": _document("The end of what the program wrote", forms=_SEEN),
    f"GET {_JOB}/history": _document("What happened to the job, event by event"),
    f"GET {_JOB}/provenance": Operation(
        "What the job came of, and what came of it (W3C PROV)",
        {200: tuple(form.media_types[0] for form in FORMS), 304: ()},
        ("PROVFORMAT",),
        ("If-None-Match",),
    ),
    f"GET {_JOB}/shares": _document("With whom the job is shared"),
    f"POST {_JOB}/shares": Operation(
        "Shares the job, to be looked at",
        {201: ("text/plain",), 303: ()},
        headers=(KEY,),
        fields=("WITH", "EXPIRES"),
    ),
    f"DELETE {_JOB}/shares/{{share_id}}": _command("Ends a share"),
    f"POST {_JOB}/shares/{{share_id}}": _command("Ends a share", "ENDING"),
    f"GET {_JOB}/events": _stream("What happens to the job, as it happens", "VERSION"),
}
"""What each route does, by method and path; ``uws.xml`` is another name of ``async``."""


_ANYBODY = re.compile(
    r"/(availability|healthz|readyz|metrics|static/.*|login|logout|.*/availability|.*/capabilities)"
)
"""The paths where nobody is asked who he is."""


def refusals(key: str) -> list[int]:
    """Return the statuses by which what an operation asks is refused.

    Besides, any request is refused that is malformed (4xx), or that the server cannot deal with (5xx).
    """
    operation, (method, _, path) = OPERATIONS[key], key.partition(" ")
    fields = operation.fields or ()
    has_body = operation.fields is not None or method == "PUT"
    makes_job = path.endswith(("/async", "/sync")) and (method == "POST" or operation.takes == "all")
    is_outcome = path.endswith("/sync/{job_id}")
    is_counted = (
        makes_job or is_outcome or {"WAIT", "POSITION", "USERNAME"}.intersection((*operation.query, *fields))
    )
    found = {
        400: has_body or operation.query or operation.takes in ("all", "given"),
        401: not _ANYBODY.fullmatch(path) or "USERNAME" in fields,
        403: path.startswith(("/audit", "/queue", "/{service}")) and not _ANYBODY.fullmatch(path),
        404: ("{" in path and 404 not in operation.answers) or "USERNAME" in fields,
        410: "{job_id}" in path,
        413: has_body,
        415: has_body,
        422: KEY in operation.headers or is_outcome,
        429: is_counted,
        500: "{job_id}" in path and (operation.answers.get(200) == ("*/*",) or is_outcome),
        501: path.endswith("/provenance"),
        503: path != "/healthz" and not path.startswith("/static/"),
        507: makes_job or has_body or method == "DELETE",
    }
    return sorted(status for status, may_be in found.items() if may_be)


async def openapi(request: web.Request) -> web.Response:
    """``/openapi.json``: what the server can be asked."""
    resource = Resource(request)
    description = describe(request.app, resource.base_url, resource.offered)
    if found := sorted({"basic", "bearer"}.intersection(schemes(resource))):
        description["components"]["securitySchemes"] = {
            name: {"type": "http", "scheme": name} for name in found
        }
        ways: list[Schema] = [{name: []} for name in found]
        description["security"] = [{}, *ways] if await nobody_may_pass(resource) else ways
    return resource.answer(msgspec.json.encode(description), JSON)


def describe(app: web.Application, base_url: str, offered: Iterable[UserUWS]) -> Schema:
    """Return the OpenAPI description of an application that offers such services.

    Raises `KeyError` for a route that has none.
    """
    services = {uws.service.name: uws.service for uws in offered}
    routes = [(route, OPERATIONS[route.key]) for route in _routes(app)]
    of_one = {route.path for route, operation in routes if operation.takes}
    paths: dict[str, Schema] = {}
    for route, operation in routes:
        for name in services if route.path in of_one else [None]:
            service = services[name] if name else None
            if service and operation.takes == "one" and _names(service) == []:
                continue  # it has no parameter that could be named
            item = paths.setdefault(route.path.replace("{service}", name or "{service}"), {})
            item["parameters"] = list(_of_path(route, service, list(services)))
            item[route.method.lower()] = _operation(operation, route, service)
    components = {
        "schemas": {
            f"{name}.{kind}": _form(service, with_files=kind == "parts")
            for name, service in services.items()
            for kind in ("text", "parts")
        },
        "parameters": {
            **{name: _parameter("query", _SENT_AS.get(name, name), QUERY[name]) for name in QUERY},
            **{name: _parameter("header", name, HEADERS[name]) for name in HEADERS},
        },
        "responses": {name: _refusal(name) for name in (*map(str, REASONS), "4XX", "5XX")},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Universal Worker Service",
            "version": VERSION,
            "description": "Jobs by IVOA UWS 1.1. Names in queries and forms may be in upper or lower case.",
        },
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": components,
    }


class _Route(NamedTuple):
    """A route from the application's root on; what its path has of ``variables`` matches these patterns."""

    method: str
    path: str
    variables: dict[str, str]

    @property
    def key(self) -> str:
        """Under what its operation is described."""
        return f"{'GET' if self.method == 'HEAD' else self.method} {self.path.replace('/uws.xml', '/async')}"


def _routes(app: web.Application) -> Iterator[_Route]:
    root = str(app.router["index"].url_for()).rstrip("/")
    for route in app.router.routes():
        assert route.resource is not None, "every route belongs to a resource"
        path, info = route.resource.canonical.removeprefix(root), route.resource.get_info()
        if "prefix" in info:  # all files below it
            yield _Route(route.method, path + "/{path}", {"path": ".+"})
        else:
            pattern = info["pattern"].pattern if "pattern" in info else ""
            yield _Route(route.method, path, dict(_VARIABLE.findall(pattern)))


def _names(service: Service) -> list[str] | None:
    """Return what the parameters of a service are called; None where they may have any name."""
    return list(service.parameters) if service.unknown_parameters == "refuse" else None


def _of_path(route: _Route, service: Service | None, services: Sequence[str]) -> Iterator[Schema]:
    for name, pattern in route.variables.items():
        schema: Schema = {"type": "string", "pattern": f"^({pattern})$"}
        if name == "service":
            if service:
                continue
            schema = {"enum": services}
        elif name == "name" and service and (names := _names(service)) is not None:
            schema = {"enum": names}
        yield _parameter("path", name, schema, required=True)


def _operation(operation: Operation, route: _Route, service: Service | None) -> Schema:
    described: Schema = {"summary": operation.summary}
    parameters = [_reference("parameters", name) for name in (*operation.query, *operation.headers)]
    if service:
        parameters += _in_query(service, operation.takes)
    if parameters:
        described["parameters"] = parameters
    if operation.fields is not None:
        described["requestBody"] = {"content": dict(_bodies(operation, service))}
    elif route.method == "PUT":
        described["requestBody"] = {
            "required": True,
            "content": {"text/plain": {"schema": {"type": "string"}}, "application/octet-stream": {}},
        }
    answers = dict(operation.answers)
    if "job_id" in route.variables:
        answers.setdefault(303, ())  # to its own address, when it is a job of another service
    described["responses"] = {
        **{str(status): _answer(status, forms, route.method) for status, forms in sorted(answers.items())},
        **{name: _reference("responses", name) for name in (*map(str, refusals(route.key)), "4XX", "5XX")},
    }
    return described


def _in_query(service: Service, takes: str) -> Iterator[Schema]:
    """Yield the service's parameters as queries take them: as filters and blanks, or for a job that runs."""
    for name, parameter in service.parameters.items():
        if isinstance(parameter, FileParameter):
            continue
        if takes == "all":
            yield _parameter("query", name, _values(parameter), required=parameter.required)
        elif takes == "given" and name.upper() not in OWN_PARAMETERS:
            yield _parameter("query", name, _value(parameter))


def _bodies(operation: Operation, service: Service | None) -> Iterator[tuple[str, Schema]]:
    fields = {_SENT_AS.get(name, name): FIELDS[name] for name in operation.fields or ()}
    own = {"type": "object", "properties": fields}
    for media_type, kind in ((_URLENCODED, "text"), (_MULTIPART, "parts")):
        if service and operation.takes:
            yield media_type, {"schema": {"allOf": [_reference("schemas", f"{service.name}.{kind}"), own]}}
        elif kind == "text":
            yield media_type, {"schema": own}


def _form(service: Service, *, with_files: bool) -> Schema:
    """Return what a form takes for the parameters of a service; files are parts only."""
    return {
        "type": "object",
        "description": service.title,
        "properties": {
            name: _values(parameter)
            for name, parameter in service.parameters.items()
            if with_files or not isinstance(parameter, FileParameter)
        },
    }


def _values(parameter: Parameter) -> Schema:
    """Return the schema of all that one parameter may be given."""
    schema = _value(parameter)
    if parameter.multiple:
        schema = {"type": "array", "items": schema}
    default = getattr(parameter, "default", None)
    return schema if default is None else {**schema, "default": default}


def _value(parameter: Parameter) -> Schema:
    """Return the schema of one value as it is sent."""
    schema = msgspec.json.schema(parameter.annotation)
    if parameter.type not in _AS_TEXT:
        return schema
    told = {key: value for key, value in schema.items() if key == "description" or key.startswith("x-")}
    enumerated = {"enum": list(parameter.options)} if parameter.options else {}
    return _AS_TEXT[parameter.type] | told | enumerated


def _parameter(place: str, name: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"name": name, "in": place, **({"required": True} if required else {}), "schema": schema}


def _answer(status: int, media_types: Sequence[str], method: str) -> Schema:
    answer: Schema = {"description": HTTPStatus(status).phrase}
    if media_types and method != "HEAD":
        answer["content"] = {name.partition(";")[0]: {} for name in media_types}
    return answer


def _refusal(name: str) -> Schema:
    """Describe the answers of a status, or of a hundred of them, by which requests are refused."""
    reasons = REASONS.get(int(name), ()) if name.isdecimal() else ()
    return {
        "description": "\n".join(("The fault's name, and what is wrong.", *reasons)),
        "content": {"text/plain": {}, "text/html": {}},
    }


def _reference(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}
