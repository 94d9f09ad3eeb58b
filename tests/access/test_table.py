"""Who may do what: every route, for everybody. A route without a row here fails the test."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.access.issuer import Issuer, settings
from tests.access.support import basic, bearer, guarded
from tests.access.test_logging_in import logged_in
from tests.harness import ManualClock, Site, job_id
from tests.web.support import events_of
from uws import Example, FileParameter, ResultDeclaration, Service, StrParameter
from uws.access.tokens import Tokens
from uws.commands import SERVER
from uws.config import ProxySettings
from uws.model import Scope
from uws.web.shares import COOKIE

NOBODY, OWNER, OTHER = "nobody", "owner", "other"
OPERATOR, AUDITOR, ADMIN = "operator", "auditor", "admin"
READ, SUBMIT = "read token", "submit token"
FRIEND, LINK = "with whom it is shared", "who has a link"
USERS = {OWNER: "ann", OTHER: "bob", OPERATOR: "ops", AUDITOR: "aud", ADMIN: "adm"}
EVERYBODY = {NOBODY, *USERS, READ, SUBMIT, FRIEND, LINK}
KNOWN = EVERYBODY - {NOBODY, LINK}

LOOKING = {OWNER, OPERATOR, AUDITOR, ADMIN, READ, FRIEND, LINK}
FILES = {OWNER, ADMIN, READ, FRIEND, LINK}
CHANGING = {OWNER, ADMIN, SUBMIT}
SHARING = {OWNER, ADMIN}
ENDING = {OWNER, OPERATOR, ADMIN, SUBMIT}
MAKING = KNOWN - {READ}
LISTING = KNOWN - {SUBMIT}
AUDITING = {AUDITOR, ADMIN}


class Row(NamedTuple):
    """Who may send such a request, and what he is answered; others are answered 401 or 403."""

    who: set[str]
    status: int = 200
    data: Callable[[], object] | None = None
    query: str = ""


def form(**fields: str) -> Callable[[], object]:
    return lambda: fields


def upload() -> object:
    data = aiohttp.FormData()
    data.add_field("file", b"x", filename="x")
    return data


JOB = "/{service}/async/{job_id}"
GET_ONLY = {"/{service}/sync", f"{JOB}/provenance", f"{JOB}/results/{{result_id}}/quicklook"}
"""What has no HEAD."""
TABLE: dict[tuple[str, str], list[Row]] = {
    ("GET", "/"): [Row(KNOWN)],
    ("GET", "/openapi.json"): [Row(KNOWN)],
    ("GET", "/availability"): [Row(EVERYBODY)],
    ("GET", "/metrics"): [Row(EVERYBODY)],
    ("GET", "/healthz"): [Row(EVERYBODY)],
    ("GET", "/readyz"): [Row(EVERYBODY)],
    ("GET", "/static"): [Row(EVERYBODY)],
    ("GET", "/queue"): [Row(AUDITING | {OPERATOR})],
    ("POST", "/queue"): [Row({OPERATOR, ADMIN}, 303, form(ACTION="RESUME"))],
    **{("GET", f"/audit{path}"): [Row(AUDITING)] for path in ("", "/chain", "/state")},
    ("GET", "/audit/"): [Row(AUDITING, 303)],
    ("GET", "/audit/jobs/{job}"): [Row(AUDITING)],
    ("GET", "/login"): [Row(EVERYBODY)],
    ("POST", "/login"): [Row(EVERYBODY, data=form(username="ann", password="ann's"))],
    ("POST", "/logout"): [Row(EVERYBODY, 303)],
    ("GET", "/{service}"): [Row(KNOWN)],
    ("GET", "/{service}/"): [Row(KNOWN, 303)],
    ("GET", "/{service}/parameters.json"): [Row(KNOWN)],
    ("GET", "/{service}/availability"): [Row(EVERYBODY)],
    ("GET", "/{service}/capabilities"): [Row(EVERYBODY)],
    ("GET", "/{service}/descriptor"): [Row(KNOWN)],
    ("GET", "/{service}/examples"): [Row(KNOWN)],
    ("GET", "/{service}/examples/{example}/{name}"): [Row(KNOWN)],
    ("GET", "/{service}/examples/{example}/{name}/{number}"): [Row(KNOWN)],
    ("GET", "/{service}/sync"): [Row(MAKING, 303)],
    ("POST", "/{service}/sync"): [Row(MAKING, 303, upload)],
    ("GET", "/{service}/sync/{job_id}"): [Row(LOOKING, 303)],
    ("GET", "/{service}/async"): [
        Row(LISTING),
        Row(LISTING - {OTHER, FRIEND}, query="?OWNERID={owner}"),
        Row(LISTING - {OWNER, READ, OTHER, FRIEND}, query="?OWNERID=*"),
    ],
    ("GET", "/{service}/async/"): [Row(LISTING)],
    ("POST", "/{service}/async"): [Row(MAKING, 303, upload)],
    ("GET", "/{service}/async/events"): [Row(LISTING)],
    ("GET", JOB): [Row(LOOKING), Row(LOOKING, query="?WAIT=0")],
    ("POST", JOB): [
        Row(ENDING, 303, form(ACTION="DELETE")),
    ],
    ("DELETE", JOB): [Row(ENDING, 303)],
    **{
        ("GET", f"{JOB}/{name}"): [Row(LOOKING)]
        for name in (
            "phase", "executionduration", "destruction", "quote", "error", "owner", "parameters", "results",
            "history", "provenance",
        )
    },
    # Who has heard of the end of a job is answered 204.
    ("GET", f"{JOB}/events"): [Row(LOOKING)],
    ("POST", f"{JOB}/phase"): [
        Row(ENDING, 403, form(PHASE="ABORT")),  # it has ended
    ],
    ("POST", f"{JOB}/executionduration"): [Row(CHANGING, 403, form(EXECUTIONDURATION="1"))],
    ("POST", f"{JOB}/destruction"): [Row(CHANGING, 303, form(DESTRUCTION="2100-01-01T00:00:00Z"))],
    ("POST", f"{JOB}/parameters"): [Row(CHANGING, 403, form(word="other"))],
    ("GET", f"{JOB}/parameters/{{name}}"): [Row(FILES)],
    ("PUT", f"{JOB}/parameters/{{name}}"): [Row(CHANGING, 403, lambda: b"other")],
    ("GET", f"{JOB}/parameters/{{name}}/{{number}}"): [Row(FILES)],
    ("GET", f"{JOB}/results/{{result_id}}"): [Row(FILES)],
    ("GET", f"{JOB}/results/{{result_id}}/preview"): [Row(FILES)],
    ("GET", f"{JOB}/results/{{result_id}}/quicklook"): [Row(FILES, 404)],  # a text has none
    ("GET", f"{JOB}/shares"): [Row(SHARING)],
    ("POST", f"{JOB}/shares"): [Row(SHARING, 303, form(WITH="eve"))],
    ("DELETE", f"{JOB}/shares/{{share_id}}"): [Row(SHARING, 404)],  # there is none of this id
    ("POST", f"{JOB}/shares/{{share_id}}"): [Row(SHARING, 404, form(ACTION="DELETE"))],
    ("GET", f"{JOB}/logs/{{name}}"): [Row(FILES)],
    ("GET", f"{JOB}/logs/{{name}}/preview"): [Row(FILES)],
}  # fmt: skip


def kept(directory: Path) -> Service:
    example = directory / "example"
    example.write_text("example")
    return Service(
        name="keep",
        title="Keep",
        command=["cp", ["{file}"], "kept"],
        parameters={"file": FileParameter(), "word": StrParameter(default="a")},
        results=[ResultDeclaration(id="kept", path="kept", mime="text/plain", optional=True)],
        examples=[Example(title="E", id="e", parameters={"file": str(example)})],
    )


@asynccontextmanager
async def everybody(tmp_path: Path) -> AsyncIterator[tuple[Site, dict[str, dict[str, str]]]]:
    """Serve, and give the headers with which each says who he is."""
    async with guarded(tmp_path / "data", kept(tmp_path)) as (site, _):
        backend = site.node.backend
        tokens = Tokens(backend.store, backend.clock)
        headers = {NOBODY: {}, **{role: basic(user) for role, user in USERS.items()}}
        for role, scope in ((READ, Scope.READ), (SUBMIT, Scope.SUBMIT)):
            _, token = await tokens.issue(
                "ann", SERVER, lasts=timedelta(hours=1), scopes=frozenset({scope}), listed=True
            )
            headers[role] = bearer(token)
        _, token = await tokens.issue("eve", SERVER, lasts=timedelta(hours=1))
        headers[FRIEND] = bearer(token)
        yield site, headers


async def new_job(site: Site, headers: dict[str, str], **fields: str) -> str:
    """Return the URL of a new job of somebody's."""
    data = aiohttp.FormData(fields)
    data.add_field("file", b"x", filename="x")
    answer = await site.post("/keep/async", data, headers=headers)
    assert answer.status == 303
    return answer.location


async def ended_job(site: Site, headers: dict[str, str]) -> str:
    """Return the id of a job of somebody's that has ended."""
    job = await new_job(site, headers, PHASE="RUN")
    await site.ended(job, headers=headers)
    return job_id(job)


async def shared_with_eve_and_by_link(site: Site, job: str) -> dict[str, str]:
    """Share a job; return what a browser sends that has its link."""
    url = f"/keep/async/{job}/shares"
    assert (await site.post(url, {"WITH": "eve"}, headers=basic("ann"))).status == 303
    link = await site.post(url, {"WITH": "LINK", "EXPIRES": "1d"}, headers=basic("ann"))
    assert link.status == 201
    return {"Cookie": f"{COOKIE}={link.text.strip().partition('SHARE=')[2]}"}


async def sent(site: Site, method: str, path: str, row: Row, headers: dict[str, str]) -> tuple[int, str]:
    """Send a request; return the status, and the first line of a refusal."""
    data = row.data() if row.data else None
    url = site.url + path + row.query
    async with site.session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
        refusal = answer.headers.get("Content-Type", "").startswith("text/plain") and answer.status >= 400
        return answer.status, (await answer.text()).partition(":")[0] if refusal else ""


async def differing(
    site: Site, role: str, headers: dict[str, str], owner: dict[str, str], shared: str, name: str = "ann"
) -> list[str]:
    """Return what is answered otherwise than the table says to a ``role``, of jobs of an ``owner``'s."""
    wrong = []
    for (method, template), rows in TABLE.items():
        for row, alias, asked in (
            (row, alias, asked)
            for row in rows
            for alias in (("async", "uws.xml") if "/async" in template else ("async",))
            for asked in ((method, "HEAD") if method == "GET" and template not in GET_ONLY else (method,))
        ):
            ends = role in row.who and (method == "DELETE" or (template == JOB and method == "POST"))
            path = template.replace("/async", f"/{alias}").format(
                service="keep", job_id=await ended_job(site, owner) if ends else shared, example="e",
                name="stdout" if "/logs/" in template else "file", number=1, result_id="kept",
                share_id="0", job=shared,
            )  # fmt: skip
            path += "/uws.css" if template == "/static" else ""
            if (path == "/logout" and "Cookie" in headers) or ("OWNERID" in row.query and not name):
                continue  # the one would end what the rest is asked by, the other asks for no user's
            query = row.query.format(owner=name)
            status, fault = await sent(site, asked, path, row._replace(query=query), headers)
            if role in row.who:
                right = status == row.status and fault not in ("AuthorizationError", "AuthenticationError")
            elif role == LINK or not headers:
                right = status == 401
            else:
                right = status == 403 and (asked == "HEAD" or fault == "AuthorizationError")
            if not right:
                wrong.append(f"{asked} {path}{query}: {status} {fault}")
    return wrong


ROLES = [NOBODY, *USERS, READ, SUBMIT, FRIEND, LINK]


@pytest.mark.parametrize("role", ROLES)
async def test_everybody_may_do_what_the_table_says_and_nothing_else(tmp_path: Path, role: str) -> None:
    async with everybody(tmp_path) as (site, headers):
        shared = await ended_job(site, basic("ann"))
        headers[LINK] = await shared_with_eve_and_by_link(site, shared)
        assert not await differing(site, role, headers[role], basic("ann"), shared)


async def test_who_may_be_nobody_in_particular_is_the_owner_of_what_is_nobodys(tmp_path: Path) -> None:
    async with guarded(tmp_path / "data", kept(tmp_path), anonymous=True) as (site, _):
        job = await ended_job(site, {})
        assert not await differing(site, OWNER, {}, {}, job, "")
        others = await ended_job(site, basic("ann"))
        assert (await site.get(f"/keep/async/{others}")).status == 401
        assert (await site.request("DELETE", f"/keep/async/{others}")).status == 401


@pytest.mark.parametrize("way", ["a session", "a web token", "a proxy"])
async def test_an_owner_is_one_in_whatever_way_he_says_who_he_is(
    tmp_path: Path, clock: ManualClock, issuer: Issuer, way: str
) -> None:
    """What comes of each way is an `Identity`, by which alone the table goes: one role shows that."""
    proxy = ProxySettings(header="X-Remote-User", addresses=["127.0.0.1"])
    more = {"oidc": settings(issuer.url), "proxy": proxy}
    async with guarded(tmp_path / "data", kept(tmp_path), clock=clock, **more) as (site, _):
        ways = {
            "a session": ("ann", await logged_in(site, "ann")),
            "a web token": ("mallory", bearer(issuer.token())),
            "a proxy": ("mallory", {"X-Remote-User": "mallory"}),
        }
        name, headers = ways[way]
        assert not await differing(site, OWNER, headers, headers, await ended_job(site, headers), name)
        others = await ended_job(site, basic("bob"))
        assert (await site.get(f"/keep/async/{others}", headers=headers)).status == 403


# What can be asked of a job that was not run, and what its phase or the request forbids to those who may

PENDING: list[tuple[str, str, Row, str]] = [
    ("POST", "", Row(CHANGING, 303, form(PHASE="RUN")), ""),
    ("POST", "/phase", Row(CHANGING, 303, form(PHASE="RUN")), ""),
    ("POST", "/phase", Row(ENDING, 303, form(PHASE="ABORT")), ""),
    ("POST", "", Row(ENDING, 303, form(PHASE="ABORT")), ""),
    ("POST", "", Row(CHANGING, 303, form(word="other")), ""),
    ("POST", "", Row(CHANGING, 303, upload), ""),
    ("POST", "", Row(CHANGING, 303, form(ACTION="REPLACE", word="other")), ""),
    ("POST", "", Row(CHANGING, 303, form(RUNID="other")), ""),
    ("POST", "/parameters", Row(CHANGING, 303, form(word="other")), ""),
    ("POST", "/parameters", Row(CHANGING, 303, upload), ""),
    ("POST", "/parameters", Row(CHANGING, 303, form(ACTION="REPLACE", word="other")), ""),
    ("PUT", "/parameters/word", Row(CHANGING, 204, lambda: b"other"), ""),
    ("PUT", "/parameters/file", Row(CHANGING, 204, lambda: b"other"), ""),
    ("POST", "/executionduration", Row(CHANGING, 303, form(EXECUTIONDURATION="1")), ""),
    ("POST", "/phase", Row(ENDING, 400, form(PHASE="WALK")), "UsageFault"),
    ("POST", "/parameters", Row(ENDING, 400, form(nothing="x")), "UsageFault"),
    ("POST", "/parameters", Row(ENDING, 400, lambda: {"word": "a", "WORD": "b"}),
     "MultiValuedParamNotSupported"),
]  # fmt: skip
ENDED: list[tuple[str, str, Row, str]] = [
    ("POST", "", Row(CHANGING, 403, form(PHASE="RUN")), "UsageFault"),
    ("POST", "/phase", Row(CHANGING, 403, form(PHASE="RUN")), "UsageFault"),
    ("POST", "/phase", Row(ENDING, 403, form(PHASE="ABORT")), "UsageFault"),
    ("POST", "/parameters", Row(CHANGING, 403, form(word="other")), "UsageFault"),
    ("PUT", "/parameters/word", Row(CHANGING, 403, lambda: b"other"), "UsageFault"),
    ("POST", "/executionduration", Row(CHANGING, 403, form(EXECUTIONDURATION="1")), "UsageFault"),
]


@pytest.mark.parametrize("role", ROLES)
async def test_a_job_is_run_and_changed_by_those_alone_who_may(tmp_path: Path, role: str) -> None:
    async with everybody(tmp_path) as (site, headers):
        ended, wrong = await ended_job(site, basic("ann")), []
        asked = [*((True, entry) for entry in PENDING), *((False, entry) for entry in ENDED)]
        for is_new, (method, below, row, fault) in asked:
            job = job_id(await new_job(site, basic("ann"))) if is_new else ended
            by_link = await shared_with_eve_and_by_link(site, job)
            before = len(await events_of(site, f"/async/{job}"))
            sender = by_link if role == LINK else headers[role]
            answer = await sent(site, method, f"/keep/async/{job}{below}", row, sender)
            if role in row.who:
                expected = row.status, fault
            else:
                anybody = role in (NOBODY, LINK)
                expected = (401, "AuthenticationError") if anybody else (403, "AuthorizationError")
                assert len(await events_of(site, f"/async/{job}")) == before
            if answer != expected:
                wrong.append(f"{method} {below} {row.data and row.data()}: {answer}, not {expected}")
        assert not wrong


@pytest.mark.parametrize("role", [NOBODY, OWNER, OTHER, ADMIN])
async def test_methods_that_a_resource_lacks_are_refused_with_those_that_it_has(
    tmp_path: Path, role: str
) -> None:
    has: dict[str, set[str]] = {}
    for method, template in TABLE:
        has.setdefault(template, set()).add(method)
        if method == "GET" and template not in GET_ONLY:
            has[template].add("HEAD")
    # What is "/queue" might be the name of a service, and "events" that of a job.
    forms = {template: re.compile(re.sub(r"\{\w+\}", "[^/]+", template)) for template in has}
    async with everybody(tmp_path) as (site, headers):
        job = await ended_job(site, basic("ann"))
        names = {
            "example": "e",
            "name": "stdout",
            "number": 1,
            "result_id": "kept",
            "share_id": "0",
            "job": job,
        }
        for template, own in has.items():
            path = template.format(service="keep", job_id=job, **names)
            path += "/uws.css" if template == "/static" else ""
            methods = own.union(*(has[other] for other in has if forms[other].fullmatch(path)))
            for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"} - methods:
                answer = await site.request(method, path, headers=headers[role])
                assert answer.status == (401 if role == NOBODY else 405), f"{method} {path}"
                if role != NOBODY:
                    assert set(answer.headers["Allow"].split(",")) == methods, f"{method} {path}"


async def test_every_route_has_a_row(tmp_path: Path) -> None:
    async with everybody(tmp_path) as (site, _):
        routes = {
            (route.method, route.resource.canonical.replace("/uws.xml", "/async"))
            for route in site.app.router.routes()
            if route.resource
        }
        seen = {
            *TABLE,
            *(("HEAD", path) for method, path in TABLE if method == "GET" and path not in GET_ONLY),
        }
        assert routes == seen
