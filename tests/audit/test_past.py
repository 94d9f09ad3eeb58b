"""The past as it was: documents as clients saw them, the queue as it was shown, the events of the log."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale import make_up
from eventstore import RecordedEvent
from projections import Sought
from tests.audit.logs import log_in
from tests.audit.watching import ENDINGS, Made, past_of, watching
from tests.daemon import uwsd
from tests.harness import SHARED, ManualClock
from tests.projections.support import HISTORY, Player, world
from uws import JobNotFound, Phase, Service, StrParameter, UsageError
from uws.audit import NotThere, Past, entry_of
from uws.config import Settings
from uws.node import looking_back
from uws.web import document_then

TRACE = SHARED / "data" / "NASA-iPSC-1993-3.1-cln.swf.gz"

_step = st.one_of(
    st.tuples(st.just("create"), st.booleans()),
    st.tuples(st.just("set"), st.just("runid"), st.text("ab", max_size=2)),
    st.tuples(st.just("set"), st.just("executionduration"), st.sampled_from(["0", "60"])),
    st.tuples(st.just("phase"), st.sampled_from(["RUN", "RUN", "ABORT"])),
    st.tuples(st.just("delete")),
    st.tuples(st.just("start")),
    st.tuples(st.just("start")),
    st.tuples(st.just("progress"), st.sampled_from([0.25, 0.5])),
    st.tuples(st.just("end"), st.sampled_from(ENDINGS)),
    st.tuples(st.just("pause"), st.sampled_from([None, "first"])),
    st.tuples(st.just("resume"), st.sampled_from([None, "first"])),
)
made_up = st.lists(
    st.tuples(st.integers(0, 11), st.sampled_from([1, 250, 90_000, 5_000_000]), _step),
    min_size=5,
    max_size=25,
)


def test_a_job_is_replayed_byte_for_byte_as_its_owner_saw_it_and_the_queue_as_it_was_shown(
    histories: int,
) -> None:
    async def check(history: list[Any]) -> None:
        clock = ManualClock()
        with TemporaryDirectory() as directory:
            async with watching(Path(directory), clock) as watch:
                for number, milliseconds, (kind, *details) in history:
                    await watch.step(number, milliseconds, kind, *details)
                await watch.compare()

    @settings(max_examples=histories, deadline=None)
    @given(made_up)
    def replay(history: list[Any]) -> None:
        with asyncio.Runner() as runner:
            runner.run(check(history))

    replay()


class Line(NamedTuple):
    """What a line of a trace says, read without any help: seconds since 1970, UTC."""

    submitted: int
    started: int
    ended: int
    user: str
    status: int


def trace_at(directory: Path) -> Path:
    """Return the real trace, or a made-up one where it is not."""
    if TRACE.exists():
        return TRACE
    made = directory / "made-up.swf"
    make_up(made)
    return made


def lines_of(trace: Path, most: int) -> list[Line]:
    """Return the first jobs of a trace."""
    found, begin = [], 0
    with gzip.open(trace, "rt") if trace.suffix == ".gz" else trace.open() as file:
        for line in file:
            if start := re.match(r";\s*UnixStartTime:\s*(\d+)", line):
                begin = int(start[1])
            elif not line.startswith(";") and line.strip():
                said = [int(float(word)) for word in line.split()]
                submitted = begin + said[1]
                started = submitted + max(said[2], 0)
                found.append(Line(submitted, started, started + max(said[3], 0), f"user{said[11]}", said[10]))
    return found[:most]


async def test_jobs_of_a_trace_are_replayed_byte_for_byte_as_they_were_watched(
    histories: int, tmp_path: Path
) -> None:
    lines = lines_of(trace_at(tmp_path), max(40, histories))
    clock = ManualClock(datetime.fromtimestamp(lines[0].submitted, UTC))
    happens = sorted(
        [(line.submitted, 0, number) for number, line in enumerate(lines)]
        + [(line.started, 1, number) for number, line in enumerate(lines)]
        + [(line.ended, 2, number) for number, line in enumerate(lines)]
    )
    async with watching(tmp_path / "data", clock) as watch:
        jobs: dict[int, Made] = {}
        for time, what, number in happens:
            gap = (datetime.fromtimestamp(time, UTC) - clock.now()) / timedelta(milliseconds=1)
            clock.advance(milliseconds=max(1, gap))
            line = lines[number]
            if what == 0:
                jobs[number] = await watch.create(number, True, owner=line.user)
                continue
            job = jobs[number]
            if what == 1:
                await job.uws.start_job(job.id)
            else:
                await job.uws.end_job(job.id, ENDINGS[0] if line.status == 1 else ENDINGS[1])
            await watch.look(job)
        assert len(watch.documents) == 3 * len(lines)
        assert watch.waiting
        await watch.compare()


async def test_the_state_of_an_imported_history_is_what_its_trace_says(tmp_path: Path) -> None:
    trace, jobs = trace_at(tmp_path), 500
    lines = lines_of(trace, jobs)
    file = tmp_path / "uwsd.toml"
    file.write_text('data = "var"\n[services.ipsc]\ntitle = "iPSC"\ncommand = ["true"]\n')
    imported = await uwsd("import", "swf", trace, "--service", "ipsc", "--jobs", str(jobs), "--config", file)
    assert imported.status == 0, imported.err
    outcomes = {-1: "COMPLETED", 0: "ERROR", 1: "COMPLETED", 5: "ABORTED"}
    for line in lines[:: len(lines) // 4]:
        for time in (line.submitted, (line.started + line.ended) // 2):
            expected: Counter[str] = Counter()
            running = set()
            for one in lines:
                if one.submitted <= time:
                    over = one.ended <= time
                    runs = one.started <= time and not over
                    phase = outcomes[one.status] if over else "EXECUTING" if runs else "QUEUED"
                    expected[phase] += 1
                    if runs:
                        running.add((one.started, one.user))
            at = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            told = await uwsd("audit", "state", "--at", at, "--json", "--config", file)
            assert (told.status, told.err) == (0, "")
            found = [json.loads(each) for each in told.out.splitlines()]
            assert Counter(each["phase"] for each in found) == expected
            since = {
                (round(datetime.fromisoformat(each["started"]).timestamp()), each["owner"])
                for each in found
                if each["phase"] == "EXECUTING"
            }
            assert since == running
            shown = await uwsd("audit", "state", "--at", at, "--config", file)
            assert shown.out.startswith(f"{expected.total()} jobs at ")


async def test_every_filter_of_the_log_finds_what_reading_all_of_it_finds(tmp_path: Path) -> None:
    clock = ManualClock()
    async with world(tmp_path, clock) as on:
        player = Player(on, clock)
        dice = random.Random(7)
        for number in range(400):
            wish = dice.choice(HISTORY)[2]
            await player.step((dice.randrange(8), dice.choice([0, 0.25, 1000]), wish))
            if number % 90 == 89:
                await player.step((dice.randrange(8), 1, ("erase",)))
        await on.projector.caught_up()
        past = Past(on.store, on.projector.ask)
        everything = await on.store.read_all(limit=1 << 30)
        streams: dict[str, RecordedEvent] = {}
        for event in everything:
            streams.setdefault(event.stream, event)
        times = [everything[len(everything) // 3].time, everything[2 * len(everything) // 3].time]

        def facts(event: RecordedEvent) -> dict[str, Any]:
            about, first = event.about, streams[event.stream]
            said = json.loads(first.data) if first.type == "JobCreated" and not first.erased else {}
            if event.stream.startswith("service/"):
                said = {"service": event.stream.removeprefix("service/")}
            elif event.stream == "queue":
                said = json.loads(event.data)
            time = event.time if about.occurred is None else about.occurred
            return {"owner": said.get("owner"), "service": said.get("service"), "actor": about.actor,
                    "type": event.type, "time": time}  # fmt: skip

        left = [(event.position, facts(event)) for event in everything if not event.erased]
        asked = {
            "owner": [None, "ada", "bob", "nobody"], "service": [None, "keeps", "forgets"],
            "actor": [None, "ada", "uwsd"], "type": [None, "JobQueued", "JobCompleted", "$erased"],
            "since": [None, *times], "until": [None, times[1]],
        }  # fmt: skip
        found_any = 0
        for values in itertools.product(*asked.values()):
            sought = Sought(**dict(zip(asked, values, strict=True)))
            expected = [
                position
                for position, fact in left
                if all(
                    getattr(sought, name) in (None, fact[name])
                    for name in ("owner", "service", "actor", "type")
                )
                and (sought.since is None or fact["time"] >= sought.since)
                and (sought.until is None or fact["time"] < sought.until)
            ]
            assert [event.position async for event in past.events(sought)] == expected
            paged = [event.position async for event in past.events(sought, after=20, limit=3)]
            assert paged == [position for position in expected if position > 20][:3]
            new, reached = [], 0
            while reached < everything[-1].position:
                some, reached = await past.new_events(sought, after=reached)
                new += [event.position for event in some]
            assert new == expected
            found_any += bool(expected)
        assert found_any > 100, "the history has too little in it"


async def test_what_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    clock = ManualClock()
    async with watching(tmp_path, clock) as watch:
        kept = await watch.create(1, True)
        gone = await watch.create(3, False)
        clock.advance(seconds=10)
        await watch.site.request("DELETE", gone.url, user=gone.owner)
        past, before = past_of(watch.site), clock.now() - timedelta(seconds=11)
        with pytest.raises(NotThere, match="has versions 1 to 2, not 3"):
            await past.job_at_version(kept.id, 3)
        with pytest.raises(NotThere, match=r"was created at 2026-01-01T00:00:00.000Z, after 2025-12-31"):
            await past.job_at(kept.id, before)
        with pytest.raises(NotThere, match=r"was destroyed at 2026-01-01T00:00:10.000Z"):
            await past.job_at(gone.id, clock.now())
        assert (await past.job_at_version(gone.id, 1)).job.phase is Phase.PENDING
        with pytest.raises(JobNotFound):
            await past.job_at("nothing", clock.now())
        store = watch.site.node.backend.store
        await store.erase(f"job/{gone.id}", reason="on request")
        with pytest.raises(NotThere, match="was erased at"):
            await past.job_at_version(gone.id, 1)
        assert [entry_of(event).erased for event in await past.history(gone.id)][:2] == [True, True]
        with pytest.raises(UsageError, match=r"did you mean JobQueued\?"):
            await past.check(Sought(type="JobQueud"))
        with pytest.raises(UsageError, match=r"did you mean first\?.*on record are: first, second"):
            await past.check(Sought(service="frist"))


async def test_a_document_is_made_under_the_declaration_that_was_in_force_then(tmp_path: Path) -> None:
    clock = ManualClock()
    async with watching(tmp_path, clock) as watch:
        job = await watch.create(0, False)
    other = Service(
        name="first", title="Another title", command=["true"], parameters={"y": StrParameter(required=True)}
    )
    clock.advance(seconds=5)
    async with watching(tmp_path, clock, [other]) as later:
        await later.site.post(f"/first/async/{job.id}", {"RUNID": "new"}, user=job.owner)
        now = await later.site.get(f"/first/async/{job.id}", user=job.owner)
        past = past_of(later.site)
        await later.site.node.backend.projector.caught_up()
        first, base_url = await past.job_at_version(job.id, 1), watch.site.url
        assert document_then(first, base_url) == watch.documents[0][2]
        assert document_then(await past.job_at(job.id, clock.now()), later.site.url) == now.body
        assert b"Another title" in now.body


async def test_what_owners_had_used_by_then_decides_their_places(tmp_path: Path) -> None:
    clock = ManualClock()
    async with watching(tmp_path, clock) as watch:
        long = await watch.create(1, True, owner="ada")
        clock.advance(seconds=1)
        await long.uws.start_job(long.id)
        clock.advance(hours=1)
        await long.uws.end_job(long.id, ENDINGS[0])
        clock.advance(seconds=1)
        hers = await watch.create(3, True, owner="ada")
        clock.advance(seconds=1)
        await watch.look(await watch.create(5, True, owner="bob"))
        places = {one.job.owner: one.place for one in watch.states[-1][2].waiting}
        assert places == {"ada": 2, "bob": 1}
        clock.advance(days=30)  # what she had used counts no more
        await watch.look(hers)
        await watch.compare()


async def test_what_was_usual_then_is_told_of_the_jobs_that_there_were_then(tmp_path: Path) -> None:
    clock = ManualClock()
    async with watching(tmp_path, clock) as watch:
        await watch.create(0, True, owner="ada")
        await watch.step(0, 1000, "start")
        await watch.step(0, 90_000, "end", ENDINGS[0])
        for number in (1, 2):  # of which one runs, and one waits
            clock.advance(seconds=1)
            await watch.create(2 * number, True, owner="ada")
        await watch.step(1, 1000, "start")
        assert b"expectedStart" in watch.waiting[-1][2]
        await watch.step(0, 1000, "delete")
        assert b"expectedStart" not in watch.waiting[-1][2]
        await watch.compare()


async def test_jobs_that_failed_make_a_look_at_one_that_waits_no_longer(tmp_path: Path) -> None:
    async def statements(jobs: int) -> int:
        """Return how many are carried out to tell of a job that waited after so many had failed."""
        carried_out: list[str] = []
        async with log_in(tmp_path / str(jobs)) as log:
            for number in range(jobs):
                await log.fail(f"failed-{number}")
            await log.create("waits")
        async with looking_back(Settings(data=log.data)) as past:

            async def ask(question: Callable[..., Any], *asked: Any, **named: Any) -> Any:
                def traced(connection: sqlite3.Connection) -> Any:
                    connection.set_trace_callback(carried_out.append)
                    return question(connection, *asked, **named)

                return await past.ask(traced)

            then = await replace(past, ask=ask).job_at_version("waits", 2)
        assert then.standing is not None
        return len(carried_out)

    assert await statements(150) == await statements(0)
