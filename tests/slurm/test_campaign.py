"""Many jobs of mixed fate, while servers and Slurm's daemons are killed: none runs twice, none is lost."""

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

from eventstore import read_log
from tests.daemon import Daemon, serving
from tests.harness import job_id
from tests.slurm.cluster import Slurm
from tests.slurm.conftest import JOBS
from uws.model import events as e

DECLARATION = """
[slurm]
every = 0.2
unknown_after = 5
lost_after = 10

[services.toil]
title = "Toil"
executor = "slurm"
command = ["sh", "-c", '''
    echo "$UWS_JOB_ID" >> "$LEDGER"
    sleep "$1"
    case "$2" in well) exit 0;; badly) exit 3;; killed) kill -9 $$;;
    greedy) exec python3 -c "b = b'x' * (200 << 20); import time; time.sleep(60)";; *) sleep 600;; esac
    ''', "sh", "{{seconds}}", "{{ends}}"]
max_running = 24
environment = {{ LEDGER = "{ledger}" }}
limits = {{ memory = "64MB" }}

[services.toil.parameters]
seconds = {{ type = "float", required = true }}
ends = {{ type = "str", required = true }}
"""
EARNED = {
    "well": ("COMPLETED", None),
    "badly": ("ERROR", "the program ended with exit status 3"),
    "killed": ("ERROR", "the program was ended by signal SIGKILL"),
    "greedy": ("ERROR", "the program exceeded the limit memory = 64MB"),
    "late": ("ABORTED", None),
    "aborted": ("ABORTED", None),
}
"""The phase and the message of a job by how its program ends."""
HIT = (
    ("ERROR", "Slurm has lost"), ("ERROR", "Slurm could not start"), ("ABORTED", "cancelled in Slurm"),
    ("ERROR", "the node "), ("ERROR", "the program was ended by signal SIGKILL"),
)  # fmt: skip
"""What else may become of a job that Slurm has lost, or takes for another: it says so."""
LONG = 200
"""Jobs of a campaign in which Slurm is away for half a minute, too."""
KILLS = "server", "slurmctld at once", "server", "slurmctld", "a slurmd", "slurmctld for a while"


async def test_no_job_runs_twice_and_none_is_lost_whoever_is_killed(
    tmp_path: Path, cluster: Slurm, jobs: int, chance: random.Random
) -> None:
    file, ledger = tmp_path / "uwsd.toml", tmp_path / "ledger"
    file.write_text(DECLARATION.format(ledger=ledger))
    ends: dict[str, str] = {}
    hit, losses = set[str](), list[Loss]()
    for kill in KILLS:
        async with serving(file) as server:
            await _submit(server, jobs // len(KILLS), ends, chance)
            if kill != "slurmctld at once":
                await asyncio.sleep(chance.uniform(0, 3))
            if kill.startswith("slurmctld"):
                goes_on = ends.keys() - await _ended(server)
                hit |= goes_on
                losses.append(Loss(cluster.next_id() + len(goes_on), frozenset(ends)))
            await asyncio.to_thread(_kill, kill, server, cluster, chance, 30 if jobs >= LONG else 3)
            if kill == "server":
                await server.process.wait()
    async with serving(file) as server:
        async with asyncio.timeout(20 + 2 * jobs):
            while ends.keys() - await _ended(server):
                await asyncio.sleep(0.3)
        hit |= await _namesakes(tmp_path, losses)
        wrong = [
            (end, job in hit, told)
            for job, end in ends.items()
            if not _is_right(told := await _told(server, job), end, hit=job in hit)
        ]
        assert not wrong, wrong
    runs = Counter(ledger.read_text().split())
    assert [job for job, times in runs.items() if times > 1] == []
    assert [job for job, end in ends.items() if end != "aborted" and job not in hit and not runs[job]] == []


async def _submit(server: Daemon, count: int, ends: dict[str, str], chance: random.Random) -> None:
    async def one(end: str) -> None:
        seconds = 0.1 if end in ("late", "aborted") else chance.uniform(0, 2)
        form = {"seconds": f"{seconds:.3f}", "ends": end, "PHASE": "RUN"}
        answer = await server.post(
            "/toil/async", {**form, **({"EXECUTIONDURATION": "2"} if end == "late" else {})}
        )
        assert answer.status == 303, answer.text
        ends[job_id(answer.location)] = end
        if end == "aborted":
            await asyncio.sleep(chance.uniform(0, 1))
            await server.post(f"{answer.location}/phase", {"PHASE": "ABORT"})

    await asyncio.gather(*(one([*EARNED][number % len(EARNED)]) for number in range(count)))


def _kill(what: str, server: Daemon, cluster: Slurm, chance: random.Random, away: float) -> None:
    if what == "server":
        os.kill(server.process.pid, signal.SIGKILL)
        return
    cluster.kill("slurmctld" if what.startswith("slurmctld") else chance.choice(["n1", "n2", "n3"]))
    if what == "slurmctld for a while":
        time.sleep(away)
    cluster.start()


async def _ended(server: Daemon) -> set[str]:
    found = (await server.get("/toil/async?PHASE=COMPLETED&PHASE=ERROR&PHASE=ABORTED")).xml
    return {str(entry.get("id")) for entry in found}


class Loss(NamedTuple):
    """Slurm has lost what it knew: ids below ``ids`` it may give again, to jobs that were not ``known``."""

    ids: int
    known: frozenset[str]


async def _namesakes(directory: Path, losses: list[Loss]) -> set[str]:
    """Return the jobs that may have an id which a program from before has: Slurm confuses them."""
    ids: dict[str, int] = {}
    log = await read_log(directory / "var/events.db")
    for recorded in await log.read_all():
        if recorded.type == "JobAccepted" and isinstance(event := e.decode(recorded), e.JobAccepted):
            job, given = recorded.stream.removeprefix("job/"), int(event.batch_job or 0)
            ids[job] = min(ids.get(job, given), given)
    await log.close()
    return {job for loss in losses for job in ids.keys() - loss.known if ids[job] < loss.ids}


async def _told(server: Daemon, job: str) -> tuple[str, str, str | None]:
    told = await server.get(f"/toil/async/{job}", headers={"Accept": "application/json"})
    document = json.loads(told.body)
    said = document["error"]["message"] if document["error"] else document["jobInfo"].get("reason")
    return job, document["phase"], said


def _is_right(told: tuple[str, str, str | None], end: str, *, hit: bool) -> bool:
    _, phase, said = told
    earned, message = EARNED[end]
    if phase == earned and (message is None or said == message):
        return True
    return hit and any(phase == other and str(said).startswith(words) for other, words in HIT)


@pytest.fixture
def jobs(request: pytest.FixtureRequest) -> int:
    """How many jobs the campaign has."""
    return int(request.config.getoption("--jobs", JOBS))


@pytest.fixture
def chance() -> random.Random:
    return random.Random()
