"""What programs tell of their progress, and what comes of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from tests.execution.programs import Pipe, shell
from tests.harness import NAMESPACES, ManualClock, Site, job_id, running, text
from uws import ExecutionDuration, Service
from uws.execution.progress import EVERY
from uws.model import events as e


def chatty(script: str, ready: Pipe, gate: Pipe, **fields: Any) -> Service:
    """Declare a program that can tell the test that it got somewhere (``ready``) and wait (``gate``)."""
    steps = f'ready() {{ echo > "{ready.path}"; }}; gate() {{ read line < "{gate.path}"; }}; '
    return shell((steps + script).replace("{", "{{"), **fields)


async def told(site: Site, job: str) -> list[tuple[float | None, str]]:
    """What the log has of a job's progress."""
    recorded = await site.node.backend.store.read_stream(f"job/{job_id(job)}")
    happened = [e.decode(event) for event in recorded]
    return [(each.fraction, each.text) for each in happened if isinstance(each, e.ProgressMade)]


async def looked(site: Site, job: str, clock: ManualClock, *, seconds: float = EVERY) -> None:
    """Let the server look at the program's file once, and return when it has."""
    await clock.until_sleeping_for(clock.now() + timedelta(seconds=seconds))
    clock.advance(seconds=seconds)
    now = clock.now()
    await clock.until_sleeping_for(now + timedelta(seconds=seconds))


def shown(document: etree._Element) -> tuple[str | None, str | None]:
    """What a job's document has of its progress."""
    found = document.find("uws:jobInfo", NAMESPACES)
    facts = {etree.QName(each).localname: each.text for each in ([] if found is None else found)}
    return facts.get("progress"), facts.get("doing")


async def test_what_a_program_tells_is_shown_while_it_runs(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    script = (
        'echo "0.35 reading catalogue" >> "$UWS_PROGRESS"; ready; gate; '
        'echo "80% <writing>" >> "$UWS_PROGRESS"; ready; gate; '
        'echo "- tidying up" >> "$UWS_PROGRESS"; ready; gate'
    )
    async with running(tmp_path / "data", chatty(script, ready, gate), clock=clock) as site:
        job = await site.run("run")
        for expected in (("0.35", "reading catalogue"), ("0.8", "<writing>"), (None, "tidying up")):
            await ready.line()
            await looked(site, job, clock)
            document = await site.document(job)
            assert (text(document, "phase"), shown(document)) == ("EXECUTING", expected)
            gate.send()
        assert shown(await site.ended(job)) == (None, "tidying up")
        assert await told(site, job) == [
            (0.35, "reading catalogue"),
            (0.8, "<writing>"),
            (None, "tidying up"),
        ]


async def test_progress_can_be_told_in_standard_output_behind_a_declared_prefix(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    script = (
        "echo 0.9 not this; echo 'PROGRESS: 0.5 half'; echo 0.7 nor this; ready; gate; echo 'PROGRESS: 1'"
    )
    service = chatty(script, ready, gate, progress_prefix="PROGRESS: ")
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = await site.run("run")
        await ready.line()
        await looked(site, job, clock)
        assert shown(await site.document(job)) == ("0.5", "half")
        gate.send()
        assert shown(await site.ended(job)) == ("1.0", None)


@pytest.mark.parametrize("ending", ["exit 0", "exit 3", "kill -9 $$"])
async def test_the_last_progress_is_on_record_before_the_end(tmp_path: Path, ending: str) -> None:
    service = shell(f'echo 0.5 half >> "$UWS_PROGRESS"; printf "0.99 nearly" >> "$UWS_PROGRESS"; {ending}')
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        await site.ended(job)
        assert await told(site, job) == [(0.99, "nearly")]


async def test_a_chatty_program_does_not_fill_the_log(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    script = (
        "while gate; do i=0; while [ $i -lt 999 ]; do i=$((i+1)); "
        'echo "0.$i step $i of $line" >> "$UWS_PROGRESS"; done; ready; done'
    )
    service = chatty(script, ready, gate, execution_duration=ExecutionDuration(default=0, max=0))
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = await site.run("run")
        for number in range(1, 4):
            gate.send(str(number))
            await ready.line()
            await looked(site, job, clock)
            await looked(site, job, clock)  # nothing new
        assert await told(site, job) == [(0.999, f"step 999 of {number}") for number in (1, 2, 3)]
        gate.send("4")
        await ready.line()
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        await site.ended(job)
        assert (await told(site, job))[3:] == [(0.999, "step 999 of 4")]


async def test_the_longer_a_program_runs_the_rarer_its_progress_is_looked_at(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    service = chatty("ready; gate", ready, gate, execution_duration=ExecutionDuration(default=0, max=0))
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = await site.run("run")
        await ready.line()
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=EVERY))
        clock.advance(hours=10)
        await clock.until_sleeping_for(clock.now() + timedelta(hours=0.1))
        gate.send()
        await site.ended(job)


async def test_lines_that_are_no_progress_are_ignored(tmp_path: Path) -> None:
    lines = [
        "0.25 this",
        "reading",
        "1.5 too much",
        "200% far too much",
        "12 files",
        "-0.1 less",
        "nan",
        "0.5,",
        "",
    ]
    script = "\n".join(f"echo '{line}' >> \"$UWS_PROGRESS\"" for line in lines)
    async with running(tmp_path, shell(script)) as site:
        job = await site.run("run")
        await site.ended(job)
        assert await told(site, job) == [(0.25, "this")]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('mkfifo "$UWS_PROGRESS"', []),
        ('mkdir "$UWS_PROGRESS"', []),
        ('echo 0.5 elsewhere > "$ELSEWHERE"; ln -s "$ELSEWHERE" "$UWS_PROGRESS"', []),
        ('ln -s /dev/zero "$UWS_PROGRESS"', []),
        ('head -c 3000000 /dev/zero | tr "\\0" 5 > "$UWS_PROGRESS"', []),
        ('(printf "0.5 "; head -c 50000 /dev/zero | tr "\\0" x) > "$UWS_PROGRESS"', [(0.5, "x" * 200)]),
        ('truncate -s 1T "$UWS_PROGRESS"; (echo; echo 0.5 far) >> "$UWS_PROGRESS"', [(0.5, "far")]),
        ('printf "0.5 a\\033[2Jb\\001\\377" > "$UWS_PROGRESS"', [(0.5, "a\ufffd[2Jb\ufffd\ufffd")]),
        ('rm -rf "$(dirname "$UWS_PROGRESS")"', []),
    ],
)  # fmt: skip
async def test_whatever_a_program_puts_there_does_no_harm(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe, script: str,
    expected: list[tuple[float | None, str]],
) -> None:  # fmt: skip
    service = chatty(
        script + "; ready; gate", ready, gate, environment={"ELSEWHERE": str(tmp_path / "elsewhere")}
    )
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = await site.run("run")
        await ready.line()
        await looked(site, job, clock)
        assert text(await site.document(job), "phase") == "EXECUTING"
        gate.send()
        await site.ended(job)
        assert await told(site, job) == expected
        shown(await site.document(job))


async def test_a_program_that_outlived_its_server_is_listened_to_by_the_next_one(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    script = 'ready; gate; echo "0.5 on my own" >> "$UWS_PROGRESS"; ready; gate; echo 0.9 >> "$UWS_PROGRESS"'
    service = chatty(script, ready, gate)
    async with running(tmp_path / "data", service, clock=clock, jobs_end_with_server=False) as site:
        job = await site.run("run")
        await ready.line()
    gate.send()
    await ready.line()
    async with running(tmp_path / "data", service, clock=clock, jobs_end_with_server=False) as site:
        job = f"{site.list_url('run')}/{job_id(job)}"
        await looked(site, job, clock)
        assert shown(await site.document(job)) == ("0.5", "on my own")
        gate.send()
        await site.ended(job)
        assert await told(site, job) == [(0.5, "on my own"), (0.9, "")]


async def test_what_a_program_reports_does_not_use_up_the_changes_a_job_may_take(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path / "data", chatty("ready; gate", ready, gate)) as site:
        job = await site.run("run")
        await ready.line()
        for number in range(300):
            await site.node.services[0].report_progress(job_id(job), number / 300, "")
        assert (await site.post(f"{job}/destruction", {"DESTRUCTION": "2027-01-01"})).status == 303
        gate.send()
        await site.ended(job)
        assert len(await told(site, job)) == 300


async def test_another_start_of_a_job_begins_without_progress(tmp_path: Path) -> None:
    from uws.model.job import evolve_through

    now = datetime(2026, 1, 1)
    created = e.JobCreated(service="s", declaration="d", execution_duration=0, destruction=None)
    events: list[e.JobEvent] = [
        created, e.JobQueued(), e.JobStarted(declaration="d"), e.ProgressMade(fraction=0.5, text="half"),
        e.JobRequeued(reason="lost"), e.JobStarted(declaration="d"),
    ]  # fmt: skip
    job = evolve_through(None, [(event, now) for event in events], job_id="x")
    assert (job.progress, job.doing, job.reports) == (None, "", 1)
