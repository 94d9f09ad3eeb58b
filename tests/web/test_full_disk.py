"""A disk that is full, or fails: commands are refused, reading goes on, and what was acknowledged stays.

The disk is a real one.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.disks import BLOCK, Disk, mounted
from tests.harness import Answer, ManualClock, Site, job_id, running, text
from tests.web.support import (
    ECHO,
    FIELD,
    FILES,
    GATE,
    MULTIPART,
    PATIENCE,
    gate,
    multipart,
    no_directory,
    no_room,
    raw,
    until_started,
)
from tests.web.test_availability import checked
from uws.files import RESERVE

ROOM = RESERVE + 8_000_000
NEARLY_FULL = "the disk is nearly full: less than 16.0 MB are free"
FULL = "the log cannot be written: database or disk is full"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", ROOM) as disk:
        yield disk


def refused(answer: Answer, status: int, why: str) -> None:
    """Hold a refusal against its form: why, and when to come back, and nothing of the machine's paths."""
    assert answer.status == status, answer.text
    assert answer.text == f"ServiceUnavailable: {why}\n"
    assert int(answer.headers["Retry-After"]) > 0


async def listed(site: Site, service: str) -> set[str]:
    return set((await site.get(site.list_url(service))).xml.xpath("//@id"))


async def shown(site: Site, job: str) -> None:
    """See to it that all there is to see of a job can be seen."""
    assert text(await site.document(job), "phase") == "PENDING"
    assert (await site.get(f"{job}/parameters/x")).text == "before"
    assert job_id(job) in await listed(site, "echo")


async def test_a_full_disk_refuses_commands_and_nothing_else_until_there_is_room(disk: Disk) -> None:
    async with running(disk.path / "data", ECHO) as site:
        before = await site.create("echo", x="before")
        await shown(site, before)
        disk.fill()
        refused(await site.post(site.list_url("echo")), 507, NEARLY_FULL)
        refused(await site.post(f"{before}/phase", {"PHASE": "RUN"}), 507, NEARLY_FULL)
        refused(await site.post(f"{before}/phase", {"PHASE": "ABORT"}), 507, FULL)
        refused(await site.request("DELETE", before), 507, FULL)
        await shown(site, before)
        notes = checked(await site.get("/availability"), available=False)
        assert {FULL, NEARLY_FULL} < set(notes)
        await shown(site, before)
        disk.empty()
        checked(await site.get("/availability"), available=True)
        after = await site.run("echo", x="after")
        assert text(await site.ended(after), "phase") == "COMPLETED"
        acknowledged = {job_id(before), job_id(after)}
        assert await listed(site, "echo") == acknowledged
        await site.node.backend.store.verify()
    async with running(disk.path / "data", ECHO) as site:
        assert await listed(site, "echo") == acknowledged
        await shown(site, f"{site.list_url('echo')}/{job_id(before)}")


async def test_while_there_is_little_room_jobs_end_and_go_and_none_begin(disk: Disk, tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as door:
        async with running(disk.path / "data", ECHO, GATE, FILES) as site:
            before, unwanted = await site.create("echo", x="before"), await site.create("echo")
            runs = await site.run("gate", gate=door.path)
            await site.executing(runs)
            await site.node.backend.projector.caught_up()
            disk.fill(leave=RESERVE // 2)
            why, _ = checked(await site.get("/availability"), available=False)
            assert why == NEARLY_FULL
            refused(await site.post(site.list_url("echo")), 507, NEARLY_FULL)
            refused(await site.post(f"{before}/parameters", {"x": "new"}), 507, NEARLY_FULL)
            refused(await upload(site, b"content"), 507, NEARLY_FULL)
            assert disk.free > RESERVE // 4
            assert (await site.request("DELETE", unwanted)).status == 303
            assert (await site.get(unwanted)).status == 410
            door.let_through()
            assert text(await site.ended(runs), "phase") == "COMPLETED"
            await shown(site, before)


async def test_the_server_itself_cannot_fill_the_disk_so_far_that_jobs_are_not_shown(disk: Disk) -> None:
    async with running(disk.path / "data", ECHO) as site:
        disk.fill(leave=RESERVE + 1_000_000)
        acknowledged = set()
        while (answer := await site.post(site.list_url("echo"), {"x": "y" * 50_000})).status == 303:
            acknowledged.add(job_id(answer.location))
        refused(answer, 507, NEARLY_FULL)
        assert acknowledged
        assert await listed(site, "echo") == acknowledged


async def test_a_program_that_ends_while_the_disk_is_full_is_recorded_when_there_is_room(
    disk: Disk, tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    with gate(tmp_path / "gate") as door:
        async with running(disk.path / "data", GATE, clock=clock) as site:
            job = await site.run("gate", gate=door.path)
            await until_started(site, job)
            await site.node.backend.projector.caught_up()
            disk.fill()
            door.let_through(3)
            await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
            assert FULL in caplog.text
            assert await site.phase(job) == "EXECUTING"
            disk.empty()
            clock.advance(seconds=1)
            ended = await site.ended(job)
            assert (text(ended, "phase"), text(ended, "message")) == (
                "ERROR", "the program ended with exit status 3",
            )  # fmt: skip


async def test_a_server_that_is_stopped_while_the_disk_is_full_loses_nothing(disk: Disk) -> None:
    async with running(disk.path / "data", ECHO) as site:
        job = await site.run("echo", x="kept")
        await site.ended(job)
        await site.node.backend.projector.caught_up()
        disk.fill()
        refused(await site.request("DELETE", job), 507, FULL)
    disk.empty()
    async with running(disk.path / "data", ECHO) as site:
        assert (await site.get(f"{site.list_url('echo')}/{job_id(job)}/results/out")).text == "kept"
        await site.node.backend.store.verify()


async def upload(site: Site, content: bytes, *, name: str = "image", late: int = 0) -> Answer:
    """Send a file; its ``late`` last bytes only after the answer has come."""
    body = multipart(FIELD + f'"{name}"; filename="x"\r\n\r\n'.encode() + content)
    early = len(body) - late
    return await raw(site, "POST", "/files/async", body[:early], body[early:], Content_Type=MULTIPART)


async def test_an_upload_stops_at_the_reserve_and_leaves_nothing_behind(disk: Disk) -> None:
    """It is larger than the disk."""
    async with running(disk.path / "data", FILES) as site:
        disk.fill(leave=RESERVE + 2_000_000)
        refused(await upload(site, bytes(ROOM), name="more", late=ROOM - 6_000_000), 507, NEARLY_FULL)
        assert disk.free >= RESERVE + 2_000_000
        assert await listed(site, "files") == set()


async def test_an_upload_that_meets_a_full_disk_is_507_and_goes_through_later(disk: Disk) -> None:
    async with running(disk.path / "data", FILES) as site:
        site.node.backend.files._reserve = 0  # as when programs have eaten it up at this moment
        for leave in (0, 2 * BLOCK):
            disk.fill(leave=leave)
            answer = await upload(site, b"x" * 900_000)
            refused(answer, 507, "uploads cannot be stored now: No space left on device")
            disk.empty()
        assert await listed(site, "files") == set()
        assert (await upload(site, b"x" * 900_000)).status == 303


# Where nothing can be mounted


@pytest.mark.parametrize("lacking", [no_room, no_directory])
async def test_a_queued_job_waits_while_no_job_may_begin_and_then_starts_by_itself(
    tmp_path: Path,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    lacking: Callable[[Site], AbstractContextManager[None]],
) -> None:
    with gate(tmp_path / "gate") as door:
        async with running(tmp_path / "data", GATE, clock=clock) as site:
            first, second = [await site.run("gate", gate=door.path) for _ in range(2)]
            await until_started(site, first)
            async with asyncio.timeout(PATIENCE):
                with lacking(site):
                    door.let_through()
                    assert text(await site.ended(first), "phase") == "COMPLETED"
                    for _ in range(2):
                        await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
                        assert await site.phase(second) == "QUEUED"
                        clock.advance(seconds=1)
                    await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
            assert "trying again" in caplog.text
            clock.advance(seconds=1)
            door.let_through()
            assert text(await site.ended(second), "phase") == "COMPLETED"


async def test_a_directory_of_jobs_that_is_gone_is_told_in_words_until_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        before = await site.create("echo", x="before")
        with no_directory(site):
            why, hint = checked(await site.get("/availability"), available=False)
            assert why == "the files of jobs cannot be reached now: No such file or directory"
            assert hint.startswith("no job is created")
            refused(await site.post(site.list_url("echo")), 503, why)
            refused(await site.post(f"{before}/parameters", {"x": "new"}), 503, why)
            await shown(site, before)
        checked(await site.get("/availability"), available=True)
        assert (await site.post(site.list_url("echo"))).status == 303


async def test_a_log_that_may_not_grow_is_507_and_goes_on_when_it_may(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        before = await site.create("echo", x="before")
        await shown(site, before)
        writer = site.node.backend.store._writer  # type: ignore[attr-defined]
        ((pages,),) = await writer.execute_fetchall("PRAGMA page_count")
        await writer.execute(f"PRAGMA max_page_count = {pages}")
        refused(await site.post(site.list_url("echo"), {"x": "y" * 50_000}), 507, FULL)
        await shown(site, before)
        await writer.execute("PRAGMA max_page_count = 1000000")
        await site.create("echo", x="y" * 50_000)
        await site.node.backend.store.verify()


@contextmanager
def files_that_cannot_grow(beyond: int) -> Iterator[None]:
    """Have the system refuse whatever this process writes behind so many bytes of a file (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (beyond, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_an_error_of_the_disk_is_503_and_the_server_goes_on_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FILES) as site:
        before = await site.create("echo", x="before")
        await shown(site, before)
        with files_that_cannot_grow(4096):
            why = "the log cannot be written: disk I/O error"
            refused(await site.post(site.list_url("echo")), 503, why)
            refused(await site.request("DELETE", before), 503, why)
            refused(await upload(site, b"x" * 5000), 503, "uploads cannot be stored now: File too large")
            await shown(site, before)
            assert why in checked(await site.get("/availability"), available=False)
        checked(await site.get("/availability"), available=True)
        assert (await site.request("DELETE", before)).status == 303
        assert await listed(site, "echo") == set()
        await site.node.backend.store.verify()


async def test_a_log_that_is_read_only_is_503_until_it_is_no_longer(tmp_path: Path) -> None:
    """As when the system has remounted a disk with errors: nothing is written, all can be read."""
    async with running(tmp_path, ECHO) as site:
        before = await site.create("echo", x="before")
        await shown(site, before)
        writer = site.node.backend.store._writer  # type: ignore[attr-defined]
        await writer.execute("PRAGMA query_only = ON")
        why = "the log cannot be written: attempt to write a readonly database"
        refused(await site.post(f"{before}/phase", {"PHASE": "ABORT"}), 503, why)
        await shown(site, before)
        await writer.execute("PRAGMA query_only = OFF")
        assert (await site.post(f"{before}/phase", {"PHASE": "ABORT"})).status == 303
