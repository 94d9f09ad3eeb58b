"""Who may see and do what, where clients say who they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstore import Metadata
from tests.harness import NAMESPACES, BasicUsers, job_id, running, text
from tests.web.support import ACTIONS, BELOW, ECHO, FAIL
from uws.model import events as e


@pytest.mark.parametrize("path", BELOW)
async def test_a_job_is_its_owners_alone_to_see(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.run("echo", x="1", user="ann")
        await site.ended(job, user="ann")
        assert (await site.get(job + path, user="ann")).status == 200
        answer = await site.get(job + path, user="bob")
        assert (answer.status, answer.text) == (403, f"AuthorizationError: job {job_id(job)} is not yours\n")


@pytest.mark.parametrize("path", BELOW)
async def test_who_is_nobody_yet_gets_401_with_a_challenge(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        answer = await site.get(job + path)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="uws"'
        assert answer.text.startswith("AuthenticationError: ")


@pytest.mark.parametrize("user", [None, "bob"])
@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_nobody_else_can_do_anything_to_a_job(
    tmp_path: Path, method: str, path: str, body: object, user: str | None
) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        before = (await site.get(job, user="ann")).body
        answer = await site.request(method, job + path, data=body, user=user)
        assert answer.status == (403 if user else 401)
        assert (await site.get(job, user="ann")).body == before


@pytest.mark.parametrize("credentials", ["Basic Ym9iOndyb25n", "Basic !", "Basic /w=="])
async def test_wrong_credentials_are_401_everywhere(tmp_path: Path, credentials: str) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo")
        for url in ("/", "/echo/async", "/echo/parameters.json", job, f"{job}/phase", "/nowhere"):
            answer = await site.get(url, headers={"Authorization": credentials})
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="uws"'
            assert answer.text.startswith("AuthenticationError: ")


async def test_a_list_holds_the_callers_jobs(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        made = {user: job_id(await site.create("echo", user=user)) for user in ("ann", "bob", None)}
        for user, job in made.items():
            for query in ("", "?LAST=5", "?PHASE=PENDING", "?AFTER=2000"):
                document = (await site.get(f"/echo/async{query}", user=user)).xml
                assert [entry.get("id") for entry in document.findall("uws:jobref", NAMESPACES)] == [job]


async def test_the_owner_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        assert (await site.get(f"{job}/owner", user="ann")).text == "ann"
        assert text(await site.document(job, user="ann"), "ownerId") == "ann"


async def test_a_job_of_nobody_in_particular_is_open_to_all(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo")
        assert text(await site.document(job, user="ann"), "ownerId") is None
        assert (await site.post(job, {"x": "1"}, user="bob")).status == 303


async def test_the_owner_of_a_destroyed_job_gets_410_and_others_learn_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        await site.request("DELETE", job, user="ann")
        assert (await site.get(job, user="ann")).status == 410
        assert (await site.get(job, user="bob")).status == 403
        assert (await site.get(job)).status == 401


async def test_another_services_list_does_not_betray_whose_job_it_is(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        elsewhere = job.replace("/echo/", "/fail/")
        assert (await site.get(elsewhere, user="ann")).status == 303
        assert (await site.get(elsewhere, user="bob")).status == 403
        assert (await site.get(elsewhere)).status == 401


async def test_events_tell_who_asked_and_by_which_request(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        answer = await site.post("/echo/async", {}, user="ann", headers={"User-Agent": "telescope/1"})
        (recorded,) = await site.node.backend.store.read_stream(e.job_stream(job_id(answer.location)))
        assert recorded.about == Metadata(
            actor="ann",
            request_id=answer.headers["X-Request-ID"],
            client="telescope/1",
            correlation_id=answer.headers["X-Request-ID"],
            schema=recorded.about.schema,
        )
        assert b"secret" not in recorded.data + recorded.metadata
