"""An owner lets others look at a job, by name or by a link, and ends that again; nobody does more by it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.access.support import ROLES, basic, bearer, guarded
from tests.access.test_logging_in import logged_in, token_for
from tests.harness import Answer, ManualClock, Site, job_id, running
from tests.web.support import ECHO, PATIENCE, events_of, keeping, record, until_waiting
from tests.web.test_events import listening, types
from uws.commands import Caller
from uws.config import AuthSettings, RoleSettings
from uws.model import NotAuthorized, Scope
from uws.model import events as e
from uws.web import Authentication
from uws.web.shares import COOKIE

ANN, BOB = basic("ann"), basic("bob")
PAGE = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
LOOKS = (
    "", "?WAIT=0", "/phase", "/parameters", "/parameters/x", "/results", "/results/out",
    "/results/out/preview", "/logs/stdout", "/logs/stdout/preview", "/history", "/events", "/owner",
)  # fmt: skip
"""What others may look at, below a job."""
CHANGES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "", {"x": "2"}),
    ("POST", "/phase", {"PHASE": "RUN"}),
    ("POST", "/phase", {"PHASE": "ABORT"}),
    ("POST", "/destruction", {"DESTRUCTION": "2040-01-01"}),
    ("PUT", "/parameters/x", "2"),
    ("POST", "", {"ACTION": "DELETE"}),
    ("DELETE", "", None),
    ("GET", "/shares", None),
    ("POST", "/shares", {"WITH": "eve"}),
    ("POST", "/shares", {"WITH": "LINK", "EXPIRES": "1d"}),
    ("DELETE", "/shares/0", None),
)


async def ran(site: Site) -> str:
    """Let a job of ann's run to its end."""
    job = (await site.post("/echo/async", {"x": "1", "PHASE": "RUN"}, headers=ANN)).location
    await site.ended(job, headers=ANN)
    return job


async def share(site: Site, job: str, headers: Mapping[str, str] = ANN, **sent: str) -> Answer:
    return await site.post(f"{job}/shares", sent, headers=headers)


async def link_to(site: Site, job: str, expires: str = "7d") -> str:
    """Make a link, and return its query."""
    answer = await share(site, job, WITH="LINK", EXPIRES=expires)
    assert answer.status == 201, answer.text
    assert answer.text.startswith(f"{job}?SHARE=")
    return urlsplit(answer.text.strip()).query


async def shares_of(site: Site, job: str) -> list[dict[str, str | None]]:
    answer = await site.get(f"{job}/shares?RESPONSEFORMAT=json", headers=ANN)
    assert answer.status == 200, answer.text
    shares: list[dict[str, str | None]] = json.loads(answer.text)["shares"]
    return shares


async def looks(site: Site, job: str, headers: Mapping[str, str], query: str = "") -> set[int]:
    """Return how all that may be looked at is answered."""
    found = set()
    for below in LOOKS:
        url = job + below + (("&" if "?" in below else "?") + query if query else "")
        found.add((await site.get(url, headers=headers)).status)
    return found


async def changes(site: Site, job: str, headers: Mapping[str, str], query: str = "") -> set[int]:
    """Return how all that may not be done is answered."""
    return {
        (
            await site.request(
                method, job + below + (f"?{query}" if query else ""), data=data, headers=headers
            )
        ).status
        for method, below, data in CHANGES
    }


# Users and groups


@pytest.mark.parametrize("to", ["bob", "@operators"])
async def test_those_with_whom_a_job_is_shared_look_at_it_and_do_nothing_to_it(
    tmp_path: Path, to: str
) -> None:
    async with guarded(tmp_path, roles=RoleSettings(auditor=["aud"])) as (site, auth):
        assert auth.users
        auth.users.set_groups("bob", ("operators",) if to != "bob" else ())
        job = await ran(site)
        assert await looks(site, job, BOB) == {403}
        answer = await share(site, job, WITH=to)
        assert (answer.status, answer.location) == (303, f"{job}/shares")
        assert await looks(site, job, BOB) == {200}
        assert await changes(site, job, BOB) == {403}
        assert await looks(site, job, basic("aud")) == {200, 403}, "others are as they were"
        assert await looks(site, job, {}) == {401}
        assert "ann" not in (await site.get("/echo/async", headers=BOB)).text
        (shared,) = await shares_of(site, job)
        assert (shared["with"], shared["expires"]) == (to, None)
        answer = await site.request("DELETE", f"{job}/shares/{shared['id']}", headers=ANN)
        assert (answer.status, answer.location) == (303, f"{job}/shares")
        assert await looks(site, job, BOB) == {403}
        assert await shares_of(site, job) == []


async def test_a_name_is_no_group_and_a_group_no_name(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, auth):
        assert auth.users
        auth.users.set_groups("bob", ("eve",))
        job = await ran(site)
        await share(site, job, WITH="eve")
        await share(site, job, WITH="@bob")
        assert await looks(site, job, BOB) == {403}


async def test_a_share_ends_when_it_expires(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = await ran(site)
        await share(site, job, WITH="bob", EXPIRES="12h")
        clock.advance(hours=12, seconds=-1)
        assert await looks(site, job, BOB) == {200}
        clock.advance(seconds=1)
        assert await looks(site, job, BOB) == {403}
        assert await shares_of(site, job) == []


async def test_who_is_named_again_has_the_new_time_only(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = await ran(site)
        await share(site, job, WITH="bob")
        await share(site, job, WITH="bob", EXPIRES="3600")
        (shared,) = await shares_of(site, job)
        assert shared["expires"] == "2026-01-01T01:00:00.000Z"
        clock.advance(hours=1)
        assert await looks(site, job, BOB) == {403}


async def test_sharing_and_its_end_are_events_that_say_who_and_for_how_long(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = await ran(site)
        await share(site, job, WITH="bob")
        query = await link_to(site, job)
        one, other = await shares_of(site, job)
        for shared in (one, other):
            await site.request("DELETE", f"{job}/shares/{shared['id']}", headers=ANN)
        happened = [event for event in await events_of(site, job) if "hared" in type(event).__name__]
        by_name, by_link = [event.share for event in happened[:2] if isinstance(event, e.JobShared)]
        assert happened[2:] == [e.JobUnshared(share=by_name), e.JobUnshared(share=by_link)]
        assert (by_name.to, by_link.to) == ("bob", None)
        assert by_link.digest == hashlib.sha256(query.removeprefix("SHARE=").encode()).hexdigest()
        told = json.loads((await site.get(f"{job}/history?RESPONSEFORMAT=json", headers=ANN)).body)[-4:]
        assert {step["actor"] for step in told} == {"ann"}
        assert [step["says"] for step in told] == [
            "shared with bob",
            f"shared by the link {by_link.id} until {other['expires']}",
            "no longer shared with bob",
            f"no longer shared by the link {by_link.id}",
        ]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({}, "WITH is missing: a user, a group as @name, or LINK"),
        ({"WITH": "@"}, "WITH: '@' is no name; expected a user, a group as @name, or LINK"),
        ({"WITH": "@@x"}, "WITH: '@@x' is no name; expected"),
        ({"WITH": " bob"}, "WITH: ' bob' is no name; expected"),
        ({"WITH": "b\u0007b"}, "is not 1 to 255 printable characters"),
        ({"WITH": "b" * 256}, "is not 1 to 255 printable characters"),
        ({"WITH": "LINK"}, "EXPIRES: a link needs a time for which it is good, such as 7d"),
        ({"WITH": "LINK", "EXPIRES": "91d"}, "EXPIRES: expected more than 0 and at most 90d"),
        ({"WITH": "bob", "EXPIRES": "0"}, "EXPIRES: expected more than 0 and at most 90d"),
        ({"WITH": "bob", "EXPIRES": "soon"}, "EXPIRES: expected a duration such as 12h or 7d, got 'soon'"),
        ({"WITH": "bob", "EXPIRES": "9" * 400}, "EXPIRES: expected a duration"),
        ({"WITH": "bob", "EXPIRES": "-1d"}, "EXPIRES: expected a duration"),
    ],
)
async def test_what_is_no_share_is_refused_in_words(tmp_path: Path, sent: dict[str, str], says: str) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        answer = await share(site, job, **sent)
        assert answer.status == 400
        assert says in answer.text
        assert await shares_of(site, job) == []


async def test_a_share_that_there_is_not_cannot_be_ended(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        answer = await site.request("DELETE", f"{job}/shares/0", headers=ANN)
        assert (answer.status, answer.text) == (404, f"UsageFault: job {job_id(job)} has no share 0\n")
        answer = await site.post(f"{job}/shares/0", {"ACTION": "KEEP"}, headers=ANN)
        assert (answer.status, answer.text) == (400, "UsageFault: ACTION: expected DELETE\n")


@pytest.mark.parametrize(("user", "status"), [("ops", 403), ("aud", 403), ("adm", 303)])
async def test_besides_the_owner_an_admin_shares_a_job_and_no_other(
    tmp_path: Path, user: str, status: int
) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        answer = await share(site, job, basic(user), WITH="bob")
        assert answer.status == status
        assert (await site.get(job, headers=BOB)).status == (200 if status == 303 else 403)


@pytest.mark.parametrize(
    ("scopes", "shares", "looks"),
    [(["read"], 403, 200), (["submit"], 403, 403), (["read", "submit"], 303, 200)],
)
async def test_a_token_shares_what_it_may_look_at_and_change(
    tmp_path: Path, scopes: list[str], shares: int, looks: int
) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        _, token = await token_for(site, "ann", listed=True, scopes=frozenset(map(Scope, scopes)))
        for whom in ("bob", "LINK"):
            made = await share(site, job, bearer(token), WITH=whom, EXPIRES="1d")
            assert made.status == (201 if (shares, whom) == (303, "LINK") else shares)
        await share(site, job, WITH="bob")
        _, token = await token_for(site, "bob", listed=True, scopes=frozenset(map(Scope, scopes)))
        assert (await site.get(job, headers=bearer(token))).status == looks


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"ACTION": "DELETE", "WITH": "bob"}, "UsageFault: ACTION: expected WITH, EXPIRES"),
        (
            {"WITH": "bob", "EXPIRE": "1d"},
            "UsageFault: EXPIRE: expected WITH, EXPIRES (did you mean EXPIRES?)",
        ),
    ],
)
async def test_what_is_not_understood_shares_nothing(
    tmp_path: Path, form: dict[str, str], reason: str
) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        answer = await share(site, job, **form)
        assert (answer.status, answer.text.strip()) == (400, reason)
        assert (await site.get(job, headers=BOB)).status == 403


@pytest.mark.parametrize("archive", [False, True])
async def test_nothing_of_a_deleted_job_is_shared(tmp_path: Path, archive: bool) -> None:
    service = type(ECHO)(name="echo", title="E", command=["true"], archive=archive)
    async with guarded(tmp_path, service) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        await share(site, job, WITH="bob")
        query = await link_to(site, job)
        assert (await site.request("DELETE", job, headers=ANN)).status == 303
        assert (await site.get(job, headers=ANN)).status == (200 if archive else 410)
        assert (await site.get(job, headers=BOB)).status == 403
        assert (await site.get(f"{job}?{query}")).status == 401
        assert (await share(site, job, WITH="bob")).status == (403 if archive else 410)


async def test_files_of_a_job_are_given_to_another_while_it_is_shared(tmp_path: Path) -> None:
    async with guarded(tmp_path, ECHO, keeping("text/plain")) as (site, _):
        job = await ran(site)
        sent = {"UPLOAD": f"file,{job}/results/out"}
        assert (await site.post("/keep/async", sent, headers=BOB)).status == 400
        await share(site, job, WITH="bob")
        assert (await site.post("/keep/async", sent, headers=BOB)).status == 303
        (shared,) = await shares_of(site, job)
        await site.request("DELETE", f"{job}/shares/{shared['id']}", headers=ANN)
        assert (await site.post("/keep/async", sent, headers=BOB)).status == 400


async def test_the_python_api_shares_for_the_owner_only(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        await share(site, job, WITH="bob")
        (shared,) = await shares_of(site, job)
        (uws,), bob = site.node.services, Caller("bob")
        with pytest.raises(NotAuthorized, match="you may not share it"):
            await uws.share_job(job_id(job), bob, to="eve", lasts=None)
        with pytest.raises(NotAuthorized, match="you may not share it"):
            await uws.unshare_job(job_id(job), str(shared["id"]), bob)
        assert await shares_of(site, job) == [shared]


# Links


async def test_whoever_has_a_link_looks_at_the_job_and_does_nothing_to_it(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = await ran(site)
        query = await link_to(site, job)
        assert await looks(site, job, {}, query) == {200}
        assert await changes(site, job, {}, query) == {401}
        assert await looks(site, job, BOB, query) == {200}
        assert await changes(site, job, BOB, query) == {403}
        assert await looks(site, job, {}) == {401}


@pytest.mark.parametrize("secret", ["", "x", "good-", "GOOD", "\u00e9", "digest"])
async def test_what_is_not_quite_the_secret_opens_nothing(tmp_path: Path, secret: str) -> None:
    async with guarded(tmp_path) as (site, _):
        job = await ran(site)
        good = (await link_to(site, job)).removeprefix("SHARE=")
        digest = hashlib.sha256(good.encode()).hexdigest()
        wrong = {"good-": good[:-1], "GOOD": good.swapcase(), "digest": digest}.get(secret, secret)
        assert await looks(site, job, {}, f"SHARE={wrong}") == {401}
        assert await looks(site, job, BOB, f"SHARE={wrong}") == {403}


async def test_a_link_is_for_its_job_alone(tmp_path: Path) -> None:
    async with guarded(tmp_path, ECHO) as (site, _):
        job, other = await ran(site), await ran(site)
        query = await link_to(site, job)
        await record(site, "/echo/async/nobodys", e.JobCreated(
            service="echo", declaration="", execution_duration=1, destruction=None
        ))  # fmt: skip
        elsewhere = (other, "/echo/async/nobodys", "/echo/async/no-such", "/nothing/async/x")
        refusals = {(await site.get(f"{path}?{query}")).text for path in elsewhere}
        # One answer, whether there is such a job or not, and whosever it is.
        assert refusals == {"AuthenticationError: this link is not good, or not any more: say who you are\n"}
        for path in ("/", "/echo", "/echo/async", "/echo/descriptor", f"/echo?from-job={job_id(job)}&"):
            assert (await site.get(f"{path}{'' if '?' in path else '?'}{query}")).status == 401
        for path in ("/echo/async", "/echo/sync"):
            assert (await site.post(f"{path}?{query}")).status == 401


async def test_a_link_ends_with_its_time_and_when_it_is_ended(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = await ran(site)
        short, long = await link_to(site, job, "1d"), await link_to(site, job, "90d")
        clock.advance(days=1)
        assert await looks(site, job, {}, short) == {401}
        assert await looks(site, job, {}, long) == {200}
        (shared,) = await shares_of(site, job)
        assert shared["with"] == "LINK"
        answer = await site.post(f"{job}/shares/{shared['id']}", {"ACTION": "DELETE"}, headers=ANN)
        assert answer.status == 303
        assert await looks(site, job, {}, long) == {401}


async def test_a_link_makes_wrong_credentials_no_better(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = await ran(site)
        query = await link_to(site, job)
        assert await looks(site, job, basic("ann", "wrong"), query) <= {401, 429}


async def test_a_browser_keeps_a_link_for_the_job_and_goes_on_without_it_in_the_url(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = await ran(site)
        query = await link_to(site, job, "2d")
        path = urlsplit(job).path
        for below in ("", "/results/out", "/history"):
            answer = await site.get(f"{job}{below}?a=b%26c&{query}", headers=PAGE)
            assert (answer.status, answer.location) == (303, f"{job}{below}?a=b%26c")
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
            assert {*attributes} == {"HttpOnly", "Max-Age=172800", f"Path={path}", "SameSite=Lax"}
        site.session.cookie_jar.clear()
        kept = {"Cookie": cookie}
        assert await looks(site, job, kept) == {200}
        assert await looks(site, job, kept | PAGE) == {200}
        assert await changes(site, job, kept | PAGE) == {401}
        page = (await site.get(job, headers=kept | PAGE)).text
        assert not [word for word in ("Delete", "Abort", "Settings", "Sharing") if word in page]
        clock.advance(days=2)
        assert await looks(site, job, kept) == {401}


async def test_a_link_under_any_name_of_the_list_leads_to_the_job_itself(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = await ran(site)
        query = await link_to(site, job)
        answer = await site.get(f"/echo/uws.xml/{job_id(job)}/results?{query}", headers=PAGE)
        assert answer.location == f"{job}/results"


async def test_a_cookie_is_for_tls_only_where_the_server_is_reached_so_and_for_its_prefix(
    tmp_path: Path,
) -> None:
    auth = Authentication(AuthSettings(tokens=True, roles=ROLES), tmp_path, anonymous=False)
    async with running(tmp_path, ECHO, authenticator=auth, base_url="https://jobs.example.org/vo") as site:
        _, token = await token_for(site, "ann")
        made = (await site.post("/echo/async", headers=bearer(token))).location
        job = made.removeprefix("https://jobs.example.org/vo")
        link = (await share(site, job, bearer(token), WITH="LINK", EXPIRES="1d")).text.strip()
        assert link.startswith(f"{made}?SHARE=")
        answer = await site.get(f"{job}?{urlsplit(link).query}", headers=PAGE)
        assert {"Secure", f"Path=/vo{job}"} <= {*answer.headers["Set-Cookie"].split("; ")}


async def test_a_wrong_link_is_not_kept(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = await ran(site)
        await link_to(site, job)
        assert "Set-Cookie" not in (await site.get(f"{job}?SHARE=x", headers=PAGE)).headers
        answer = await site.get(f"{job}?SHARE=x", headers={**ANN, **PAGE})
        assert (answer.status, answer.location) == (303, job)
        assert "Set-Cookie" not in answer.headers


async def test_the_secret_of_a_link_is_in_no_file_and_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with guarded(tmp_path) as (site, _):
        job = await ran(site)
        secret = (await link_to(site, job)).removeprefix("SHARE=")
        await looks(site, job, {}, f"SHARE={secret}")
        await looks(site, job, {"Cookie": f"{COOKIE}={secret}"}, "")
        await site.get(f"{job}/nothing?SHARE={secret}")
        await site.request("DELETE", f"{job}?SHARE={secret}", headers=BOB)
        (shared,) = await shares_of(site, job)
        await site.request("DELETE", f"{job}/shares/{shared['id']}", headers=ANN)
        answer = await site.get(f"{job}?SHARE={secret}")
        assert secret not in answer.text
        refused = await refusal(site, "this link is not good, or not any more: say who you are")
        assert (refused.method, refused.path) == ("GET", f"/echo/async/{job_id(job)}")
    assert secret not in caplog.text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


async def refusal(site: Site, reason: str) -> e.AccessRefused:
    """Return the refusal on record that has this reason, once it is there."""
    async with asyncio.timeout(PATIENCE):
        async for batch in site.node.backend.store.subscribe(after=0):
            for event in batch:
                if event.type == "AccessRefused":
                    refused = e.decode_security(event)
                    if isinstance(refused, e.AccessRefused) and refused.reason == reason:
                        return refused
    raise AssertionError("the log has no end")


async def test_a_stream_of_events_ends_with_the_share_that_opened_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        query = await link_to(site, job)
        async with listening(site, f"{job}/events?{query}") as stream:
            assert types(await stream.some(1)) == ["JobShared"]
            await share(site, job, WITH="bob")
            assert types(await stream.some(1)) == ["JobShared"]
            link, named = await shares_of(site, job)
            await site.request("DELETE", f"{job}/shares/{link['id']}", headers=ANN)
            assert await stream.rest() == []
        async with site.session.get(f"{job}/events", headers=BOB) as answer:
            await site.request("DELETE", f"{job}/shares/{named['id']}", headers=ANN)
            await site.post(f"{job}/phase", {"PHASE": "ABORT"}, headers=ANN)
            assert b"JobAborted" not in await answer.read()
        job = (await site.post("/echo/async", headers=ANN)).location
        short = await link_to(site, job, "1d")
        async with listening(site, f"{job}/events?{short}") as stream:
            assert types(await stream.some(1)) == ["JobShared"]
            clock.advance(days=1)
            assert await stream.rest() == []


async def test_who_waits_by_a_share_is_told_nothing_after_its_end(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        query = await link_to(site, job)
        (shared,) = await shares_of(site, job)
        async with asyncio.TaskGroup() as group:
            waits = group.create_task(site.get(f"{job}?WAIT=30&{query}"))
            await until_waiting(site)
            await site.request("DELETE", f"{job}/shares/{shared['id']}", headers=ANN)
        assert waits.result().status == 401


async def test_a_link_is_told_once_however_often_its_command_comes(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        keyed = {**ANN, "Idempotency-Key": "k"}
        first = await share(site, job, keyed, WITH="LINK", EXPIRES="1d")
        again = await share(site, job, keyed, WITH="LINK", EXPIRES="1d")
        assert (first.status, again.status, again.location) == (201, 303, f"{job}/shares")
        assert len(await shares_of(site, job)) == 1
        assert (await share(site, job, keyed, WITH="LINK", EXPIRES="2d")).status == 422


# Pages


async def test_an_owner_shares_by_the_forms_of_pages(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        ann = {**PAGE, **await logged_in(site, "ann")}
        job = (await site.post("/echo/async", headers=ann)).location
        page = await site.get(job, headers=ann)
        assert f'action="./{job_id(job)}/shares"' in page.text
        answer = await share(site, job, ann, WITH="bob", EXPIRES="")
        assert answer.status == 303
        made = await share(site, job, ann, WITH="LINK", EXPIRES="7d")
        assert (made.status, made.headers["Cache-Control"]) == (201, "no-store")
        assert f"{job}?SHARE=" in made.text
        listed = await site.get(f"{job}/shares", headers=ann)
        assert "SHARE=" not in listed.text
        for shared in await shares_of(site, job):
            assert f'action="../{job_id(job)}/shares/{shared["id"]}"' in listed.text


@pytest.mark.parametrize(
    ("user", "offers"),
    [("ann", {"Run", "Abort", "Delete it", "Share"}), ("adm", {"Run", "Abort", "Delete it", "Share"}),
     ("ops", {"Abort", "Delete it"}), ("aud", set()), ("bob", set())],
)  # fmt: skip
async def test_a_page_offers_what_its_reader_may_do(tmp_path: Path, user: str, offers: set[str]) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        await share(site, job, WITH="bob")
        page = (await site.get(job, headers={**PAGE, **basic(user)})).text
        words = {"Run": ">Run<", "Abort": ">Abort<", "Delete it": ">Delete it", "Share": ">Share<"}
        assert {word for word, seen in words.items() if seen in page} == offers


async def test_a_page_of_another_site_shares_nothing(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=ANN)).location
        answer = await share(site, job, {**ANN, "Sec-Fetch-Site": "cross-site"}, WITH="bob")
        assert answer.status == 403
        assert await shares_of(site, job) == []
