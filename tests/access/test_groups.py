"""A service that is limited to groups is for these; who was in one keeps the jobs that he has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from tests.access.support import basic, bearer, guarded
from tests.access.test_logging_in import token_for
from tests.harness import Site, job_id, text
from tests.web.support import ECHO, keeping
from uws import Example
from uws.commands import Caller, Changes
from uws.model import NotAuthenticated, NotAuthorized, Scope
from uws.web import Authentication

STAFF = msgspec.structs.replace(
    ECHO, name="staff", groups=["staff", "friends"], examples=[Example(title="One", parameters={"x": "1"})]
)
RESOURCES = (
    "/staff", "/staff/parameters.json", "/staff/descriptor", "/staff/examples", "/staff/async",
    "/staff/uws.xml", "/staff/async/events",
)  # fmt: skip
MAKES = ("/staff/async", "/staff/uws.xml", "/staff/sync")


@asynccontextmanager
async def limited(data: Path, *, anonymous: bool = False) -> AsyncIterator[tuple[Site, Authentication]]:
    """Serve one service for staff and friends, of whom ann is one, and another for everybody."""
    async with guarded(data, ECHO, STAFF, keeping("text/plain"), anonymous=anonymous) as (site, auth):
        assert auth.users
        auth.users.set_groups("ann", ("friends", "others"))
        auth.users.set_groups("bob", ("others",))
        yield site, auth


async def statuses(site: Site, headers: dict[str, str]) -> tuple[set[int], set[int]]:
    """Return how the service's resources answer, and how making a job is answered."""
    looks = set()
    for path in RESOURCES:
        async with site.session.get(site.url + path, headers=headers) as answer:  # a stream has no end
            looks.add(answer.status)
    return looks, {(await site.post(path, headers=headers)).status for path in MAKES}


@pytest.mark.parametrize(
    ("user", "looks", "makes"),
    [("ann", 200, 303), ("bob", 403, 403), (None, 401, 401), ("ops", 200, 403), ("aud", 200, 403),
     ("adm", 200, 303)],
)  # fmt: skip
async def test_a_service_for_groups_is_for_them_and_for_what_roles_let_one_do(
    tmp_path: Path, user: str | None, looks: int, makes: int
) -> None:
    async with limited(tmp_path) as (site, _):
        assert await statuses(site, basic(user) if user else {}) == ({looks}, {makes})


async def test_nobody_in_particular_is_in_no_group(tmp_path: Path) -> None:
    async with limited(tmp_path, anonymous=True) as (site, _):
        assert await statuses(site, {}) == ({401}, {401})
        assert (await site.post("/echo/async")).status == 303


async def test_a_refusal_names_no_group(tmp_path: Path) -> None:
    async with limited(tmp_path) as (site, _):
        answer = await site.get("/staff/async", headers=basic("bob"))
        says = "AuthorizationError: staff is not for everybody: you are in none of its groups\n"
        assert answer.text == says


@pytest.mark.parametrize(("user", "sees"), [("ann", True), ("bob", False), ("ops", True), ("adm", True)])
async def test_the_list_of_services_has_those_that_one_may_use(tmp_path: Path, user: str, sees: bool) -> None:
    async with limited(tmp_path) as (site, _):
        description = (await site.get("/openapi.json", headers=basic(user))).text
        assert ("staff" in description) is sees
        for form in ("xml", "json", "html"):
            services = (await site.get(f"/?RESPONSEFORMAT={form}", headers=basic(user))).text
            assert "echo" in services
            assert ("staff" in services) is sees
        hint = (await site.get("/staf/async", headers=basic(user))).text
        assert ("did you mean staff?" in hint) is sees


async def test_what_vosi_tells_of_a_service_is_for_everybody(tmp_path: Path) -> None:
    async with limited(tmp_path) as (site, _):
        for name in ("capabilities", "availability"):
            assert (await site.get(f"/staff/{name}")).status == 200


async def test_who_has_left_the_group_reads_and_deletes_his_jobs_and_makes_nothing_of_them(
    tmp_path: Path,
) -> None:
    async with limited(tmp_path) as (site, auth):
        ann = basic("ann")
        ran = (await site.post("/staff/async", {"PHASE": "RUN"}, headers=ann)).location
        waits = (await site.post("/staff/async", {"x": "2"}, headers=ann)).location
        await site.ended(ran, headers=ann)
        assert auth.users
        auth.users.set_groups("ann", ())
        for below in ("", "/phase", "/results/out", "/history", "/events", "/logs/stdout/preview"):
            assert (await site.get(ran + below, headers=ann)).status == 200
        for path, sent in (
            (waits, {"PHASE": "RUN"}),
            (f"{waits}/phase", {"PHASE": "RUN"}),
            (f"{waits}/parameters", {"x": "3"}),
            (f"{waits}/destruction", {"DESTRUCTION": "2040-01-01"}),
        ):
            answer = await site.post(path, sent, headers=ann)
            assert (answer.status, "in none of its groups" in answer.text) == (403, True)
        assert (await site.request("PUT", f"{waits}/parameters/x", data="3", headers=ann)).status == 403
        assert text(await site.document(waits, headers=ann), "parameter") == "2"
        page = await site.get(waits, headers={**ann, "Accept": "text/html"})
        assert ("Run</button>" in page.text, "Abort</button>" in page.text) == (False, True)
        assert (await site.post(f"{waits}/phase", {"PHASE": "ABORT"}, headers=ann)).status == 303
        assert (await site.request("DELETE", ran, headers=ann)).status == 303
        assert (await site.get(ran, headers=ann)).status == 410


async def test_files_of_its_examples_reach_nobody_through_another_service(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("for staff only")
    sample = keeping("text/plain", "sample")
    closed = msgspec.structs.replace(
        sample, groups=["staff"], examples=[Example(title="It", parameters={"file": str(secret)})]
    )
    async with guarded(tmp_path / "var", closed, keeping("text/plain")) as (site, auth):
        assert auth.users
        auth.users.set_groups("ann", ("staff",))
        sent = {"UPLOAD": f"file,{site.url}/sample/examples/it/file"}
        assert (await site.post("/keep/async", sent, headers=basic("ann"))).status == 303
        answer = await site.post("/keep/async", sent, headers=basic("bob"))
        assert answer.status == 400
        assert "sample is not for everybody" in answer.text


async def test_the_python_api_submits_for_those_in_the_group_only(tmp_path: Path) -> None:
    async with limited(tmp_path) as (site, _):
        uws = next(uws for uws in site.node.services if uws.service.name == "staff")
        with pytest.raises(NotAuthorized, match="in none of its groups"):
            await uws.create_job(Changes(), Caller("bob", frozenset({"others"})))
        with pytest.raises(NotAuthenticated):
            await uws.create_job(Changes(), Caller())
        job = await uws.create_job(Changes(), Caller("eve", frozenset({"staff"})))
        with pytest.raises(NotAuthorized, match="in none of its groups"):
            await uws.queue_job(job.id, Caller("eve"))


async def test_a_group_gives_a_token_no_wider_scope(tmp_path: Path) -> None:
    async with limited(tmp_path) as (site, _):
        _, token = await token_for(site, "ann", listed=True, scopes=frozenset({Scope.READ}))
        assert await statuses(site, bearer(token)) == ({200}, {403})


async def test_a_job_under_the_list_of_a_service_for_others_is_shown_the_way(tmp_path: Path) -> None:
    async with limited(tmp_path) as (site, _):
        job = (await site.post("/echo/async", headers=basic("bob"))).location
        answer = await site.get(f"/staff/async/{job_id(job)}", headers=basic("bob"))
        assert (answer.status, answer.location) == (303, job)
