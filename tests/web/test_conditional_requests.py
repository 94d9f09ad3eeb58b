"""Entity tags and If-None-Match (RFC 9110 sections 8.8.3 and 13.1.2): what has not changed is not sent."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projections import JobReadModel
from tests.harness import Answer, BasicUsers, ManualClock, Site, job_id, running
from tests.web.support import ECHO, SLEEP, raw, record, until_waiting
from uws import Service, StrParameter
from uws.model import events as e

FORMS = ("", "?RESPONSEFORMAT=json")


async def asked_again(site: Site, url: str, answer: Answer, **options: Any) -> Answer:
    """Ask for what ``answer`` was the answer to, by a client that has kept it."""
    return await site.get(url, headers={"If-None-Match": answer.headers["ETag"]}, **options)


def lists_and_documents(job: str) -> list[str]:
    urls = ["/echo/async", "/echo/uws.xml", job, f"{job}/parameters", f"{job}/results"]
    return [url + form for url in urls for form in FORMS]


async def test_what_has_not_changed_is_304_without_a_body(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="1")
        for url in lists_and_documents(job):
            first = await site.get(url)
            assert first.status == 200
            again = await asked_again(site, url, first)
            assert (again.status, again.body) == (304, b"")
            for name in ("ETag", "Vary", "Cache-Control"):
                assert again.headers[name] == first.headers[name]
            assert again.headers["X-Request-ID"]


async def test_tags_are_strong_and_every_use_is_checked(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in lists_and_documents(await site.create("echo")):
            headers = (await site.get(url)).headers
            assert headers["ETag"].startswith('"')
            assert headers["Cache-Control"] == "private, no-cache"
            assert headers["Vary"] == "Accept"


async def test_with_an_authenticator_answers_vary_by_who_asks(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        for url in lists_and_documents(job):
            assert (await site.get(url, user="ann")).headers["Vary"] == "Accept, Authorization, Cookie"


async def test_every_form_of_every_resource_has_a_tag_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, Service(name="other", title="O", command=["true"])) as site:
        one, two = await site.create("echo", x="1"), await site.create("echo", x="1")
        urls = [
            *lists_and_documents(one),
            two,
            "/other/async",
            "/echo/async?LAST=1",
            "/echo/async?PHASE=ERROR",
        ]
        tags = [(await site.get(url)).headers["ETag"] for url in urls]
        assert len(set(tags)) == len(urls)


async def test_another_base_url_is_another_representation(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for path in ("/echo/async", f"/echo/async/{job_id(await site.create('echo'))}"):
            first = await raw(site, "GET", path, Host="one.localhost")
            tag = first.headers["ETag"]
            assert (await raw(site, "GET", path, Host="two.localhost", If_None_Match=tag)).status == 200
            assert (await raw(site, "GET", path, Host="one.localhost", If_None_Match=tag)).status == 304


CHANGES: tuple[tuple[e.JobEvent, ...], ...] = (
    (e.ParametersSet(parameters={"x": ("2",)}),),
    (e.RunIdSet(run_id="r"),),
    (e.ExecutionDurationSet(seconds=5),),
    (e.JobHeld(reason="later"),),
    (e.JobAborted(reason="no more"),),
    (e.JobAborted(reason="no more"), e.JobArchived(reason="old")),
)


@pytest.mark.parametrize("events", CHANGES, ids=lambda events: type(events[-1]).__name__)
async def test_a_change_of_the_job_changes_its_tag_and_that_of_its_list(
    tmp_path: Path, events: tuple[e.JobEvent, ...]
) -> None:
    """The parts of a job change only when they are other ones."""
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo", x="1")
        kept = {url: await site.get(url) for url in lists_and_documents(job)}
        await record(site, job, *events)
        for url, answer in kept.items():
            again = await asked_again(site, url, answer)
            is_a_part = url.startswith(f"{job}/")
            same = is_a_part and (await site.get(url)).body == answer.body
            assert again.status == (304 if same else 200)
            assert (again.headers["ETag"] == answer.headers["ETag"]) is same


TAMPERING = {
    "documents": """UPDATE document SET document = CAST(
        replace(CAST(document AS TEXT), '["right"]', '["wrong"]') AS BLOB)""",
    "job_list": "UPDATE job SET run_id = 'wrong'",
}


@pytest.mark.parametrize("name", TAMPERING)
async def test_what_a_wrong_read_model_showed_is_not_held_for_unchanged_once_it_is_made_anew(
    tmp_path: Path, name: str
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="right", RUNID="right")
        right = {url: await site.get(url) for url in lists_and_documents(job)}
        (file,) = tmp_path.rglob(f"{name}-*.db")
        with closing(sqlite3.connect(file)) as connection, connection:
            assert connection.execute(TAMPERING[name]).rowcount == 1
        other = {"User-Agent": "another"}  # of whom it is not known what he was answered before
        wrong = {url: await site.get(url, headers=other) for url in right}
        changed = [url for url, answer in wrong.items() if answer.body != right[url].body]
        assert changed
        await site.node.backend.projector.rebuild([name])
        for url in changed:
            again = await asked_again(site, url, wrong[url])
            assert (again.status, again.body) == (200, right[url].body)
            assert (await site.get(url, headers=other)).body == right[url].body


async def test_the_list_of_a_log_that_was_restored_is_another_one(tmp_path: Path) -> None:
    base, backup = "http://jobs.example", tmp_path / "backup"
    async with running(tmp_path, ECHO, base_url=base) as site:
        pass
    (log,) = tmp_path.rglob("events.db")
    shutil.copy(log, backup)
    async with running(tmp_path, ECHO, base_url=base) as site:
        await site.create("echo", x="1")
        kept = {form: await site.get(f"/echo/async{form}") for form in FORMS}
    shutil.copy(backup, log)
    async with running(tmp_path, ECHO, base_url=base) as site:
        await site.create("echo", x="2")
        for form, answer in kept.items():
            assert (await asked_again(site, f"/echo/async{form}", answer)).status == 200


async def test_a_declaration_that_makes_a_name_a_filter_changes_the_list(tmp_path: Path) -> None:
    base, url = "http://jobs.example", "/grow/async?x=2"
    service = Service(name="grow", title="Grow", command=["true"])
    async with running(tmp_path, service, base_url=base) as site:
        await site.create("grow")
        first = await site.get(url)
        assert len(first.xml) == 1
    service = Service(name="grow", title="Grow", command=["true"], parameters={"x": StrParameter()})
    async with running(tmp_path, service, base_url=base) as site:
        again = await asked_again(site, url, first)
        assert (again.status, len(again.xml)) == (200, 0)


async def test_creating_and_destroying_a_job_change_the_tag_of_the_list(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        tags = [(await site.get("/echo/async")).headers["ETag"]]
        for _ in range(2):
            job = await site.create("echo")
            tags.append((await site.get("/echo/async")).headers["ETag"])
            await site.request("DELETE", job)
            tags.append((await site.get("/echo/async")).headers["ETag"])
        assert len(set(tags)) == 5


async def test_what_happens_to_others_does_not_change_a_list(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, SLEEP, authenticator=BasicUsers()) as site:
        await site.create("echo", user="ann")
        for form in FORMS:
            first = await site.get(f"/echo/async{form}", user="ann")
            await site.create("echo", user="bob")
            await site.create("sleep", user="ann")
            assert (await asked_again(site, f"/echo/async{form}", first, user="ann")).status == 304


async def test_an_unchanged_list_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.create("echo")
        kept = {form: await site.get(f"/echo/async{form}") for form in FORMS}

        async def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the list is read")

        monkeypatch.setattr(JobReadModel, "page", refuse)
        monkeypatch.setattr(JobReadModel, "entries", refuse)
        for form, answer in kept.items():
            assert (await asked_again(site, f"/echo/async{form}", answer)).status == 304


async def test_any_kept_tag_counts_weak_or_strong_in_any_place(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in lists_and_documents(await site.create("echo")):
            tag = (await site.get(url)).headers["ETag"]
            for sent in ("*", " * ", tag, f"W/{tag}", f'"a", {tag}', f'W/"a",W/{tag} , "b"', f'"a,b", {tag}'):
                assert (await site.get(url, headers={"If-None-Match": sent})).status == 304, sent
            split = [("If-None-Match", '"a"'), ("If-None-Match", tag)]
            assert (await site.get(url, headers=split)).status == 304
            for sent in (
                "",
                '""',
                '"a"',
                '"*"',
                tag[:-2] + '"',
                tag.strip('"'),
                tag.upper(),
                '"a", *',
                "W/",
            ):
                assert (await site.get(url, headers={"If-None-Match": sent})).status == 200, sent


async def test_head_is_conditional_too(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in lists_and_documents(await site.create("echo")):
            first = await site.request("HEAD", url)
            assert (first.status, first.body) == (200, b"")
            assert first.headers["ETag"] == (await site.get(url)).headers["ETag"]
            headers = {"If-None-Match": first.headers["ETag"]}
            assert (await site.request("HEAD", url, headers=headers)).status == 304


async def test_wait_waits_and_then_compares(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        tag = {"If-None-Match": (await site.get(job)).headers["ETag"]}
        assert (await site.get(f"{job}?WAIT=0", headers=tag)).status == 304
        waiting = asyncio.create_task(site.get(f"{job}?WAIT=30", headers=tag))
        await until_waiting(site)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        answer = await waiting
        assert (answer.status, b"ABORTED" in answer.body) == (200, True)
        assert {"If-None-Match": answer.headers["ETag"]} != tag


async def test_a_tag_hides_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        for part in ("", "/parameters", "/results", "?RESPONSEFORMAT=json"):
            tag = (await site.get(job + part, user="ann")).headers["ETag"]
            for sent in ({"If-None-Match": tag}, {"If-None-Match": "*"}):
                assert (await site.get(job + part, headers=sent)).status == 401
                assert (await site.get(job + part, headers=sent, user="bob")).status == 403
                assert (await site.get(f"/echo/async/none{part}", headers=sent)).status == 404
        for query in ("PHASE=NONSENSE", "LAST=0", "RESPONSEFORMAT=none", "RESPONSEFORMAT=json&CURSOR=no"):
            assert (await site.get(f"/echo/async?{query}", headers={"If-None-Match": "*"})).status == 400
        assert (await site.get("/none/async", headers={"If-None-Match": "*"})).status == 404
        tag = (await site.get(job, user="ann")).headers["ETag"]
        await site.request("DELETE", job, user="ann")
        assert (await site.get(job, headers={"If-None-Match": tag}, user="ann")).status == 410


async def test_tags_are_the_same_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    base = "http://jobs.example"
    async with running(tmp_path, ECHO, clock=clock, base_url=base) as site:
        path = (await site.create("echo")).removeprefix(base)
        before = [(await site.get(url)).headers["ETag"] for url in lists_and_documents(path)]
    async with running(tmp_path, ECHO, clock=clock, base_url=base) as site:
        assert [(await site.get(url)).headers["ETag"] for url in lists_and_documents(path)] == before
