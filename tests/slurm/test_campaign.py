"""Many jobs of mixed fate, while servers and Slurm's daemons are killed: each comes to its end, once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from eventstore import RecordedEvent, read_log
from tests.daemon import Daemon, serving
from tests.harness import job_id
from tests.slurm.cluster import Slurm
from tests.slurm.conftest import JOBS
from uws.model import events as e

DECLARATION = """
[slurm]
every = 0.2
unknown_after = 5
lost_after = {lost_after}
"""
SERVICE = """
[services.{name}]
title = "Toil"
executor = "slurm"
command = ["sh", "-c", '''
    echo "$UWS_JOB_ID" >> "$LEDGER"
    sleep "$1"
    case "$2" in well) exit 0;; badly) exit 3;; killed) kill -9 $$;;
    greedy) exec python3 -c "b = b'x' * (200 << 20); import time; time.sleep(60)";; *) sleep 600;; esac
    ''', "sh", "{{seconds}}", "{{ends}}"]
max_running = 12
{lost}
environment = {{ LEDGER = "{ledger}" }}
limits = {{ memory = "64MB" }}

[services.{name}.parameters]
seconds = {{ type = "float", required = true }}
ends = {{ type = "str", required = true }}
"""
LOST = {"once": 'on_lost = "error"', "again": 'on_lost = "requeue"\nrequeues = 9'}
"""The services, and what becomes of jobs of theirs that are lost."""
EARNED = {
    "well": ("COMPLETED", None),
    "badly": ("ERROR", "the program ended with exit status 3"),
    "killed": ("ERROR", "the program was ended by signal SIGKILL"),
    "greedy": ("ERROR", "the program exceeded the limit memory = 64MB"),
    "late": ("ABORTED", None),
    "aborted": ("ABORTED", None),
}
"""The phase and the message of a job by how its program ends."""
STATUS = {"well": 0, "badly": 3, "killed": 128 + 9}
"""The status that a record has of a program that has come to its own end."""
CONFUSED = (
    ("ERROR", "Slurm could not start"), ("ABORTED", "cancelled in Slurm"),
    ("ERROR", "the program was ended by signal SIGKILL"),
)  # fmt: skip
"""What else may become of a job that Slurm takes for another: it says so."""
HIT = {"once": (*CONFUSED, ("ERROR", "Slurm has lost"), ("ERROR", "the node ")), "again": CONFUSED}
"""What else may become of a job of a service when Slurm has lost it, or takes it for another."""
LONG = 200
"""Jobs of a campaign in which Slurm is away for half a minute, too."""
KILLS = "server", "slurmctld at once", "server", "slurmctld", "a slurmd", "slurmctld for a while"


async def test_no_job_runs_twice_and_none_is_lost_whoever_is_killed(
    tmp_path: Path, cluster: Slurm, jobs: int, chance: random.Random
) -> None:
    file, ledger = tmp_path / "uwsd.toml", tmp_path / "ledger"
    lost_after = 10 if jobs >= LONG else 4
    services = (SERVICE.format(name=name, lost=lost, ledger=ledger) for name, lost in LOST.items())
    file.write_text(DECLARATION.format(lost_after=lost_after) + "".join(services))
    ends: dict[Ordered, str] = {}
    hit, losses = set[str](), list[Loss]()
    for kill in KILLS:
        async with serving(file) as server:
            await _submit(server, jobs // len(KILLS), ends, chance)
            if kill != "slurmctld at once":
                await asyncio.sleep(chance.uniform(0, 3))
            if kill.startswith("slurmctld"):
                known = {job.id for job in ends}
                goes_on = known - await _ended(server)
                hit |= goes_on
                losses.append(Loss(cluster.next_id() + len(goes_on), frozenset(known)))
            await asyncio.to_thread(_kill, kill, server, cluster, chance, 30 if jobs >= LONG else 3)
            if kill == "server":
                await server.process.wait()
    async with serving(file) as server:
        until = time.monotonic() + 20 + 2 * jobs
        while goes_on := {job.id for job in ends} - await _ended(server):
            late = {job: (ends[job], await _told(server, job)) for job in ends if job.id in goes_on}
            assert time.monotonic() < until, late
            await asyncio.sleep(0.3)
        told = {job: await _told(server, job) for job in ends}
    events = await _events(tmp_path)
    hit |= _namesakes(events, losses)
    runs = Counter(ledger.read_text().split())
    for job, end in ends.items():
        phase, said = told[job]
        record = _record(tmp_path, job, events[job.id])
        is_hit = job.id in hit and (record is None or record != STATUS.get(end))
        about = (job, end, phase, said, record, is_hit)
        assert _is_right(phase, said, end, HIT[job.service] if is_hit else ()), about
        requeued = sum(event.type == "JobRequeued" for event in events[job.id])
        assert job.service == "again" or not requeued, about
        assert runs[job.id] <= 1 + requeued, about
        assert runs[job.id] or end == "aborted" or job.id in hit, about


class Ordered(NamedTuple):
    """A job, and the service that it is of."""

    service: str
    id: str


async def _submit(server: Daemon, count: int, ends: dict[Ordered, str], chance: random.Random) -> None:
    async def one(service: str, end: str) -> None:
        seconds = 0.1 if end in ("late", "aborted") else chance.uniform(0, 2)
        form = {"seconds": f"{seconds:.3f}", "ends": end, "PHASE": "RUN"}
        answer = await server.post(
            f"/{service}/async", {**form, **({"EXECUTIONDURATION": "2"} if end == "late" else {})}
        )
        assert answer.status == 303, answer.text
        ends[Ordered(service, job_id(answer.location))] = end
        if end == "aborted":
            await asyncio.sleep(chance.uniform(0, 1))
            await server.post(f"{answer.location}/phase", {"PHASE": "ABORT"})

    kinds = [(service, end) for end in EARNED for service in LOST]
    numbers = range(len(ends), len(ends) + count)
    await asyncio.gather(*(one(*kinds[number % len(kinds)]) for number in numbers))


def _kill(what: str, server: Daemon, cluster: Slurm, chance: random.Random, away: float) -> None:
    if what == "server":
        os.kill(server.process.pid, signal.SIGKILL)
        return
    cluster.kill("slurmctld" if what.startswith("slurmctld") else chance.choice(["n1", "n2", "n3"]))
    if what == "slurmctld for a while":
        time.sleep(away)
    cluster.start()


async def _ended(server: Daemon) -> set[str]:
    asked = "PHASE=COMPLETED&PHASE=ERROR&PHASE=ABORTED"
    lists = [(await server.get(f"/{service}/async?{asked}")).xml for service in LOST]
    return {str(entry.get("id")) for found in lists for entry in found}


class Loss(NamedTuple):
    """Slurm has lost what it knew: ids below ``ids`` it may give again, to jobs that were not ``known``."""

    ids: int
    known: frozenset[str]


Events = dict[str, list[RecordedEvent]]


async def _events(directory: Path) -> Events:
    """Return what is on record of each job."""
    found: Events = {}
    log = await read_log(directory / "var/events.db")
    position = 0
    while batch := await log.read_all(after=position):
        position = batch[-1].position
        for recorded in batch:
            found.setdefault(recorded.stream.removeprefix("job/"), []).append(recorded)
    await log.close()
    return found


def _namesakes(events: Events, losses: list[Loss]) -> set[str]:
    """Return the jobs that may have an id which a program from before has: Slurm confuses them."""
    found = set[str]()
    for job, recorded in events.items():
        told = [e.decode(event) for event in recorded if event.type == "JobAccepted"]
        ids = [int(event.batch_job or 0) for event in told if isinstance(event, e.JobAccepted)]
        if any(ids and job not in loss.known and min(ids) < loss.ids for loss in losses):
            found.add(job)
    return found


def _record(directory: Path, job: Ordered, events: list[RecordedEvent]) -> int | None:
    """Return the status that the record of a job's last start has; None where it has none of its own."""
    submitted = [event.version for event in events if event.type == "JobSubmitted"]
    for path in (directory / "var/jobs" / job.id / "starts").glob(f"{max(submitted, default=0)}-*"):
        if path.suffix == "" and path.stat().st_size:
            told = json.loads(path.read_text())
            if told.get("ended") and not told["told"]:
                return int(told["status"])
    return None


async def _told(server: Daemon, job: Ordered) -> tuple[str, str]:
    told = await server.get(f"/{job.service}/async/{job.id}", headers={"Accept": "application/json"})
    document = json.loads(told.body)
    said = document["error"]["message"] if document["error"] else document["jobInfo"].get("reason")
    return document["phase"], str(said)


def _is_right(phase: str, said: str, end: str, others: tuple[tuple[str, str], ...]) -> bool:
    earned, message = EARNED[end]
    if phase == earned and (message is None or said == message):
        return True
    return any(phase == other and said.startswith(words) for other, words in others)


@pytest.fixture
def jobs(request: pytest.FixtureRequest) -> int:
    """How many jobs the campaign has."""
    return int(request.config.getoption("--jobs", JOBS))


@pytest.fixture
def chance() -> random.Random:
    return random.Random()
