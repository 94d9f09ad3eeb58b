"""Commands that are sent again under the same Idempotency-Key: done once, answered every time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import RecordedEvent
from tests.execution.programs import directory_of, until_gone
from tests.execution.test_properties import one_server_for_all_examples
from tests.harness import NAMESPACES, Answer, BasicUsers, ManualClock, Site, job_id, running
from tests.web.support import ACTIONS, ECHO, FAIL, FILES, NEEDY, SLEEP, exchange, no_room, raw
from uws.model import Service, StrParameter

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
KEPT = Service(name="kept", title="Kept", command=["true"], archive=True)


async def keyed(
    site: Site, method: str, url: str, body: Any = None, *, key: str = KEY, **more: Any
) -> Answer:
    return await site.request(method, url, data=body, headers={"Idempotency-Key": key}, **more)


def told(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.headers.get("Location")


async def position(site: Site) -> int:
    return (await site.node.backend.store.head()).position


async def types(site: Site, job: str) -> list[str]:
    return [event.type for event in await site.node.backend.store.read_stream(f"job/{job_id(job)}")]


def upload(content: bytes = b"an image") -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("image", content, filename="m31.fits")
    return form


def files_of(site: Site, job: str) -> list[Path]:
    return [path for path in directory_of(site, job).rglob("*") if path.is_file()]


async def test_a_job_that_is_asked_for_again_is_the_one_that_was_made(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        form = {"RUNID": "mine", "PHASE": "RUN", "DESTRUCTION": "2030-01-01"}
        first = await keyed(site, "POST", "/sleep/async", form)
        await site.executing(first.location)
        before = await position(site)
        again = await keyed(site, "POST", "/sleep/uws.xml", form)
        assert told(again) == told(first) == (303, first.location)
        assert await position(site) == before
        assert len((await site.get("/sleep/async")).xml.findall("uws:jobref", NAMESPACES)) == 1


async def test_twins_that_come_at_the_same_time_make_one_job_and_leave_no_files(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        answers = await asyncio.gather(
            *(keyed(site, "POST", site.list_url("files"), upload()) for _ in range(12))
        )
        assert {told(answer) for answer in answers} == {(303, answers[0].location)}
        assert [path.name for path in site.data.iterdir()] == [job_id(answers[0].location)]
        assert len(files_of(site, answers[0].location)) == 1
        assert list((tmp_path / "spool").iterdir()) == []
        assert (await site.get(f"{answers[0].location}/parameters/image")).body == b"an image"


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_a_command_that_comes_again_is_answered_as_the_first_time_and_does_nothing(
    tmp_path: Path, method: str, path: str, body: object
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="0")
        first = await keyed(site, method, job + path, body)
        assert first.status in (303, 204)
        if path == "/phase":
            await site.ended(job)
        before = await position(site)
        assert told(await keyed(site, method, job + path, body)) == told(first)
        assert await position(site) == before


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_twins_of_a_command_are_answered_alike_and_done_once(
    tmp_path: Path, method: str, path: str, body: object
) -> None:
    async with running(tmp_path, ECHO, SLEEP) as site:
        job, other = await site.create("echo", x="0"), await site.create("echo", x="0")
        once = told(await site.request(method, other + path, data=body))
        answers = await asyncio.gather(*(keyed(site, method, job + path, body) for _ in range(8)))
        location = once[1] and once[1].replace(job_id(other), job_id(job))
        assert {told(answer) for answer in answers} == {(once[0], location)}
        recorded = [type_ for type_ in await types(site, job) if type_ not in ("JobStarted", "JobCompleted")]
        assert recorded == [t for t in await types(site, other) if t not in ("JobStarted", "JobCompleted")]


async def test_twins_of_a_command_of_several_events_are_done_once(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        form = {"x": "1", "RUNID": "mine", "PHASE": "ABORT"}
        answers = await asyncio.gather(*(keyed(site, "POST", job, form) for _ in range(8)))
        assert {told(answer) for answer in answers} == {(303, job)}
        assert await types(site, job) == ["JobCreated", "ParametersSet", "RunIdSet", "JobAborted"]


@pytest.mark.parametrize("destroyed", [False, True])
@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_a_command_is_answered_again_after_a_restart_and_whatever_has_become_of_the_job(
    tmp_path: Path, method: str, path: str, body: object, destroyed: bool
) -> None:
    async with running(tmp_path, ECHO, base_url="http://uws.example") as site:
        job = f"{site.url}/echo/async/{job_id(await site.create('echo', x='0'))}"
        first = await keyed(site, method, job + path, body)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        if destroyed:
            await site.request("DELETE", job)
    async with running(tmp_path, ECHO, base_url="http://uws.example") as site:
        before = await position(site)
        job = f"{site.url}/echo/async/{job_id(job)}"
        assert told(await keyed(site, method, job + path, body)) == told(first)
        assert await position(site) == before


async def test_a_job_is_not_made_again_by_another_server_on_the_same_data(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, base_url="http://uws.example") as site:
        first = await keyed(site, "POST", f"{site.url}/files/async", upload())
    async with running(tmp_path, FILES, base_url="http://uws.example") as site:
        again = await keyed(site, "POST", f"{site.url}/files/async", upload())
        assert told(again) == told(first)
        assert [path.name for path in site.data.iterdir()] == [job_id(first.location)]


async def test_a_job_that_executes_is_run_again_in_name_only(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        job = await site.create("sleep")
        for _ in range(2):
            assert told(await keyed(site, "POST", f"{job}/phase", {"PHASE": "RUN"})) == (303, job)
            await site.executing(job)
        assert (await keyed(site, "POST", f"{job}/phase", {"PHASE": "RUN"}, key="another")).status == 403
        assert await types(site, job) == ["JobCreated", "JobQueued", "JobStarted"]


async def test_a_deletion_that_waits_for_a_program_is_repeated_by_waiting_too(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        job = await site.run("sleep")
        await site.executing(job)
        answers = await asyncio.gather(*(keyed(site, "DELETE", job) for _ in range(3)))
        assert {told(answer) for answer in answers} == {(303, f"{site.list_url('sleep')}?LAST=100")}
        assert not directory_of(site, job).exists()
        assert told(await keyed(site, "DELETE", job)) == (303, f"{site.list_url('sleep')}?LAST=100")
        assert (await site.request("DELETE", job)).status == 410


async def test_a_job_that_is_kept_is_not_deleted_a_second_time_by_a_repetition(tmp_path: Path) -> None:
    async with running(tmp_path, KEPT) as site:
        job = await site.create("kept")
        for _ in range(2):
            assert told(await keyed(site, "DELETE", job)) == (303, f"{site.list_url('kept')}?LAST=100")
        assert await site.phase(job) == "ARCHIVED"


async def test_a_repetition_leaves_nothing_of_the_files_that_came_with_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, FILES, clock=clock) as site:
        job = await site.create("files")
        for _ in range(2):
            assert (await keyed(site, "PUT", f"{job}/parameters/image", b"an image", key="put")).status == 204
            assert told(await keyed(site, "POST", job, upload(), key="post")) == (303, job)
        assert len(files_of(site, job)) == 1
        await asyncio.gather(*(keyed(site, "POST", job, upload(b"new"), key="twins") for _ in range(8)))
        assert [path.read_bytes() for path in files_of(site, job)] == [b"new"]
        await site.request("DELETE", job)
        await until_gone(site, job)
        assert told(await keyed(site, "POST", job, upload(), key="post")) == (303, job)
        assert not directory_of(site, job).exists()


async def test_a_repetition_does_not_undo_what_came_after_the_first_time(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        await keyed(site, "PUT", f"{job}/parameters/x", "1")
        await site.request("PUT", f"{job}/parameters/x", data="2")
        await keyed(site, "PUT", f"{job}/parameters/x", "1")
        assert (await site.get(f"{job}/parameters/x")).text == "2"


@pytest.mark.parametrize("declared", [{"x": StrParameter(values=["other"])}, {}], ids=["values", "names"])
async def test_a_repetition_is_known_where_the_declaration_would_refuse_it_by_now(
    tmp_path: Path, declared: dict[str, StrParameter]
) -> None:
    async with running(tmp_path, ECHO, base_url="http://uws.example") as site:
        made = await keyed(site, "POST", f"{site.url}/echo/async", {"x": "1"})
        job = f"/echo/async/{job_id(made.location)}"
        changed = await keyed(site, "POST", f"{site.url}{job}", {"x": "2"})
        put = await keyed(site, "PUT", f"{site.url}{job}/parameters/x", "3", key="put")
    tighter = Service(name="echo", title="Echo", command=["true"], parameters=declared)
    async with running(tmp_path, tighter, base_url="http://uws.example") as site:
        assert (await site.post(f"{site.url}/echo/async", {"x": "1"})).status == 400
        assert (await site.request("PUT", f"{site.url}{job}/parameters/x", data="3")).status == 400
        before = await position(site)
        assert told(await keyed(site, "POST", f"{site.url}/echo/async", {"x": "1"})) == told(made)
        assert told(await keyed(site, "POST", f"{site.url}{job}", {"x": "2"})) == told(changed)
        again = await keyed(site, "PUT", f"{site.url}{job}/parameters/x", "3", key="put")
        assert told(again) == told(put) == (204, None)
        assert (await keyed(site, "POST", f"{site.url}/echo/async", {"x": "2"})).status == 422
        assert await position(site) == before


async def test_a_repetition_is_known_though_there_is_no_room_for_anything_new_and_takes_none(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, FILES) as site:
        made = await keyed(site, "POST", "/files/async", upload(bytes(900_000)))
        job = made.location
        changed = await keyed(site, "POST", job, {"n": "1", "PHASE": "ABORT"})
        other = await site.create("files")
        put = await keyed(site, "PUT", f"{other}/parameters/image", b"an image")
        with no_room(site), nothing_spooled(tmp_path / "spool"):
            assert (await site.post("/files/async", upload())).status == 507
            assert (await site.post(other, {"n": "1"})).status == 507
            assert told(await keyed(site, "POST", "/files/async", upload(bytes(900_000)))) == told(made)
            assert told(await keyed(site, "POST", job, {"n": "1", "PHASE": "ABORT"})) == told(changed)
            assert told(await keyed(site, "PUT", f"{other}/parameters/image", b"an image")) == told(put)
            assert (await keyed(site, "POST", "/files/async", upload())).status == 422
        assert len(files_of(site, job)) == len(files_of(site, other)) == 1


@contextmanager
def nothing_spooled(spool: Path) -> Iterator[None]:
    """See to it that no file comes into the directory, not even for a moment."""
    before = spool.stat().st_mtime_ns
    yield
    assert spool.stat().st_mtime_ns == before


async def test_an_erased_job_still_answers_the_commands_that_it_was_given(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        made = await keyed(site, "POST", "/echo/async", {"x": "1"}, user="ann")
        job = made.location
        await keyed(site, "POST", job, {"x": "2"}, user="ann")
        await keyed(site, "DELETE", job, user="ann", key="delete")
        await site.node.backend.store.erase(f"job/{job_id(job)}", reason="asked for")
        assert told(await keyed(site, "POST", "/echo/async", {"x": "1"}, user="ann")) == (303, job)
        assert told(await keyed(site, "POST", job, {"x": "2"}, user="ann")) == (303, job)
        deleted = await keyed(site, "DELETE", job, user="ann", key="delete")
        assert told(deleted) == (303, f"{site.list_url('echo')}?LAST=100")
        assert (await site.get(job, user="ann")).status == 410


# What a key is good for


@pytest.mark.parametrize(
    "form",
    [
        {"x": "2"},
        {"X": "1"},
        {"x": "1", "RUNID": "r"},
        {"x": "1", "PHASE": "RUN"},
        {"x": "1", "EXECUTIONDURATION": "5"},
        {"x": "1", "DESTRUCTION": "2030-01-01"},
        {},
    ],
)
async def test_another_job_under_the_same_key_is_422_and_not_made(
    tmp_path: Path, form: dict[str, str]
) -> None:
    async with running(tmp_path, ECHO) as site:
        await keyed(site, "POST", "/echo/async", {"x": "1"})
        before = await position(site)
        answer = await keyed(site, "POST", "/echo/async", form)
        assert answer.status == 422
        assert answer.text == (
            f"UsageFault: the key '{KEY}' was used for another command; each needs its own\n"
        )
        assert await position(site) == before


@pytest.mark.parametrize("content", [b"another image", b""])
async def test_another_file_under_the_same_key_is_422_and_not_kept(tmp_path: Path, content: bytes) -> None:
    async with running(tmp_path, FILES) as site:
        made = await keyed(site, "POST", "/files/async", upload())
        assert (await keyed(site, "POST", "/files/async", upload(content))).status == 422
        assert [path.name for path in site.data.iterdir()] == [job_id(made.location)]
        assert (await keyed(site, "POST", made.location, upload(), key="2")).status == 303
        assert (await keyed(site, "POST", made.location, upload(content), key="2")).status == 422
        assert [path.read_bytes() for path in files_of(site, made.location)] == [b"an image"]


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_another_command_to_a_job_under_the_same_key_is_422_and_not_carried_out(
    tmp_path: Path, method: str, path: str, body: object
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        await keyed(site, "POST", job, {"RUNID": "mine"})
        before = await position(site)
        assert (await keyed(site, method, job + path, body)).status == 422
        assert await position(site) == before


async def test_of_different_commands_that_come_together_under_one_key_one_is_done(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="0")
        for url in (job, site.list_url("echo")):
            answers = await asyncio.gather(
                *(keyed(site, "POST", url, {"x": str(n)}, key="one of") for n in range(1, 9))
            )
            assert sorted(answer.status for answer in answers) == [303] + [422] * 7
        assert await types(site, job) == ["JobCreated", "ParametersSet"]
        assert len((await site.get("/echo/async")).xml.findall("uws:jobref", NAMESPACES)) == 2


@pytest.mark.parametrize(("second", "status"), [(b"1", 204), (b"2", 422)])
async def test_two_that_have_both_seen_the_job_before_either_changed_it_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bytes, status: int
) -> None:
    async with running(tmp_path, FILES) as site:
        job, store = await site.create("files"), site.node.backend.store
        read, both = store.read_stream, asyncio.Barrier(2)
        reads = iter(range(4))  # each looks when it is let in, and when it decides

        async def read_together(stream: str) -> tuple[RecordedEvent, ...]:
            seen = await read(stream)
            if next(reads, None) is not None:
                await both.wait()
            return seen

        monkeypatch.setattr(store, "read_stream", read_together)
        url = f"{job}/parameters/image"
        answers = await asyncio.gather(*(keyed(site, "PUT", url, content) for content in (b"1", second)))
        assert sorted(answer.status for answer in answers) == [204, status]
        assert await types(site, job) == ["JobCreated", "ParametersSet"]
        assert [path.read_bytes() for path in files_of(site, job)] == [(await site.get(url)).body]


async def test_the_keys_of_users_jobs_and_lists_are_their_own(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, NEEDY, authenticator=BasicUsers()) as site:
        made = {}
        for user in ("ann", "bob", None):
            for url in ("/echo/async", "/needy/async"):
                made[(await keyed(site, "POST", url, user=user)).location] = user
        assert len(made) == 6
        for job, user in made.items():
            assert told(await keyed(site, "POST", job, {"RUNID": "r"}, user=user)) == (303, job)
            assert await types(site, job) == ["JobCreated", "RunIdSet"]


async def test_a_job_of_nobody_takes_the_same_key_from_each_of_its_users(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo")
        for user in ("ann", None, "bob"):
            assert (await keyed(site, "POST", job, {"x": f"of {user}"}, user=user)).status == 303
        assert await types(site, job) == ["JobCreated"] + ["ParametersSet"] * 3


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_a_key_opens_no_job_to_others(tmp_path: Path, method: str, path: str, body: object) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        await keyed(site, method, job + path, body, user="ann")
        assert (await keyed(site, method, job + path, body, user="bob")).status == 403
        assert (await keyed(site, method, job + path, body)).status == 401


async def test_a_command_at_another_services_list_is_still_sent_to_the_jobs_own(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        job = await site.create("echo")
        for _ in range(2):
            answer = await keyed(site, "POST", job.replace("/echo/", "/fail/"), {"x": "1"})
            assert told(answer) == (303, job)
            await keyed(site, "POST", job, {"x": "1"})
        assert await types(site, job) == ["JobCreated", "ParametersSet"]


async def test_a_refused_command_leaves_its_key_free(tmp_path: Path) -> None:
    async with running(tmp_path, NEEDY) as site:
        refused = [
            await keyed(site, "POST", "/needy/async", {"a": "many"}),
            await keyed(site, "POST", "/needy/async", {"PHASE": "RUN"}),
        ]
        made = await keyed(site, "POST", "/needy/async", {"a": "1"})
        refused.append(await keyed(site, "POST", f"{made.location}/phase", {"PHASE": "RUN"}))
        assert [answer.status for answer in refused] == [400] * 3
        assert (await keyed(site, "POST", made.location, {"b": "2"})).status == made.status == 303


# What a key is

PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@pytest.mark.parametrize("key", ["k", "x" * 255, PRINTABLE, "two words", '"quoted"'])
async def test_up_to_255_printable_characters_are_a_key(tmp_path: Path, key: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answers = [await keyed(site, "POST", "/echo/async", key=key) for _ in range(2)]
        assert told(answers[0]) == told(answers[1]) == (303, answers[0].location)


@pytest.mark.parametrize("key", [b"", b" ", b"x" * 256, "clé".encode(), b"\xff", b"a\tb"])
@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/parameters/x"), ("DELETE", "")])
async def test_anything_else_is_400_and_names_the_header(
    tmp_path: Path, key: bytes, method: str, path: str
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = (await site.create("echo")).removeprefix(site.url)
        before = await position(site)
        answer = await raw(site, method, job + path, Idempotency_Key=key)
        assert answer.status == 400
        assert answer.text.startswith("UsageFault: Idempotency-Key: expected one key of 1 to 255 printable")
        assert await position(site) == before


async def test_two_keys_are_400(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        sent = b"POST /echo/async HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n"
        answer = await exchange(site, sent + b"Idempotency-Key: a\r\nidempotency-key: a\r\n\r\n")
        assert answer.status == 400
        assert answer.text.startswith("UsageFault: Idempotency-Key: ")


async def test_those_who_only_look_need_no_right_key(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        assert (await raw(site, "GET", "/echo/async", Idempotency_Key=b"x" * 256)).status == 200


async def test_keys_are_not_in_the_log(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = (await keyed(site, "POST", "/echo/async", {"x": "1"})).location
        await keyed(site, "DELETE", job)
        recorded = await site.node.backend.store.read_all()
    assert KEY not in "".join(f"{event.id} {event.data!r} {event.metadata!r}" for event in recorded)


# Any commands, repeated anywhen

COMMANDS: list[tuple[str, str, object]] = [
    ("POST", "", {"x": "1"}),
    ("PUT", "/parameters/x", "2"),
    ("POST", "", {"x": "3", "RUNID": "r"}),
    ("POST", "/executionduration", {"EXECUTIONDURATION": "5"}),
    ("POST", "/destruction", {"DESTRUCTION": "2100-01-01"}),
    ("POST", "/phase", {"PHASE": "ABORT"}),
    ("DELETE", "", None),
]


def test_commands_repeated_at_any_time_come_to_what_they_come_to_once(tmp_path: Path) -> None:
    async def check(site: Site, order: list[int]) -> None:
        once, often = await site.create("kept2", x="0"), await site.create("kept2", x="0")
        first: dict[int, tuple[int, str | None]] = {}
        for number in order:
            method, path, body = COMMANDS[number]
            answer = told(await keyed(site, method, often + path, body, key=str(number)))
            if number in first:
                assert answer == first[number]
            elif answer[0] in (303, 204):
                first[number] = answer
                await site.request(method, once + path, data=body)
        assert await types(site, often) == await types(site, once)

    with one_server_for_all_examples(
        Service(name="kept2", title="Kept", command=["true"], parameters=ECHO.parameters), data=tmp_path
    ) as run:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(st.integers(0, len(COMMANDS) - 1), max_size=15))
        def example(order: list[int]) -> None:
            run(check, order)

        example()
