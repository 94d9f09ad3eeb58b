"""A server that is killed while its jobs run: each program runs once, and its job ends as it has earned."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.crash.kills import Campaign
from tests.daemon import PATIENCE, Daemon, serving
from tests.harness import job_id, text
from uws.model.units import parse_time

DECLARATION = """
[services.toil]
title = "Toil"
command = ["sh", "-c", '''
    echo "$UWS_JOB_ID" >> "$LEDGER"
    sleep "$1"
    date +%s.%N > "$UWS_RESULTS/ended"
    case "$2" in well) exit 0;; badly) exit 3;; killed) kill -9 $$;; esac
    ''', "sh", "{{seconds}}", "{{ends}}"]
max_running = {slots}
environment = {{ LEDGER = "{ledger}" }}
results = [{{ id = "ended", path = "ended", optional = true }}]

[services.toil.parameters]
seconds = {{ type = "float", required = true }}
ends = {{ type = "str", required = true, values = ["well", "badly", "killed", "too late"] }}
"""
JOBS, SLOTS, KILLS = 40, 10, 5
EARNED = {
    "well": ("COMPLETED", "0", None),
    "badly": ("ERROR", "3", None),
    "killed": ("ERROR", None, "SIGKILL"),
    "too late": ("ABORTED", None, "SIGTERM"),
}
"""The phase, the exit code and the signal of a job by how its program ends."""


async def test_jobs_outlive_their_server_and_each_program_runs_once(
    tmp_path: Path, campaign: Campaign
) -> None:
    chance, file, ledger = campaign.random, tmp_path / "uwsd.toml", tmp_path / "ledger"
    file.write_text(DECLARATION.format(slots=SLOTS, ledger=ledger))
    longest = 20 if campaign.kills >= 300 else 4
    ends: dict[str, str] = {}
    for kills in range(KILLS + 1):
        async with serving(file) as server:
            if not ends:
                for number in range(JOBS):
                    end = [*EARNED][number % len(EARNED)]
                    ends[await _submitted(server, end, chance.uniform(longest / 20, longest))] = end
            await _slots_are_right(server, ledger)
            if kills == KILLS:
                await _all_ended(server, ends, ledger)
                _each_ran_once(ledger, ends)
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0, longest / 3)):
                    await server.process.wait()
            await _slots_are_right(server, ledger)
            os.kill(server.process.pid, signal.SIGKILL)
            campaign.places["while jobs run"] += 1


async def _submitted(server: Daemon, end: str, seconds: float) -> str:
    late = end == "too late"
    form = {"seconds": "1000" if late else f"{seconds:.3f}", "ends": end, "PHASE": "RUN"}
    answer = await server.post("/toil/async", {**form, **({"EXECUTIONDURATION": "2"} if late else {})})
    assert answer.status == 303, answer.text
    return job_id(answer.location)


async def _slots_are_right(server: Daemon, ledger: Path) -> None:
    executing = (await server.get("/toil/async?PHASE=EXECUTING")).body.count(b"<uws:jobref ")
    assert executing <= SLOTS
    assert len(_programs(ledger)) <= SLOTS


def _programs(ledger: Path) -> Counter[str]:
    """Count the shells that run a program with this ledger, by the job's id.

    A program leads its session. What a shell has just forked looks like it until it becomes another program.
    """
    found = Counter[str]()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if os.getsid(pid) != pid:
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command[:2] == [b"sh", b"-c"] and b"LEDGER" in command[2]:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if f"LEDGER={ledger}".encode() in variables:
                    found.update(v[11:].decode() for v in variables if v.startswith(b"UWS_JOB_ID="))
        except OSError:
            continue
    assert set(found.values()) <= {1}, "a job has two programs"
    return found


async def _all_ended(server: Daemon, ends: dict[str, str], ledger: Path) -> None:
    for job, end in ends.items():
        async with asyncio.timeout(PATIENCE * 3):
            while True:
                document = (await server.get(f"/toil/async/{job}?WAIT=60")).xml
                if text(document, "phase") not in ("QUEUED", "EXECUTING"):
                    break
        told = {str(fact.tag).rpartition("}")[2]: fact.text for fact in document.iterfind("{*}jobInfo/*")}
        found = text(document, "phase"), told.get("exitCode"), told.get("signal")
        assert found == EARNED[end], (end, job)
        ended = await server.get(f"/toil/async/{job}/results/ended")
        if end != "too late":
            when = parse_time(text(document, "endTime") or "").timestamp()
            assert abs(when - float(ended.text)) < 1, (end, job)
    await _slots_are_right(server, ledger)


def _each_ran_once(ledger: Path, ends: dict[str, str]) -> None:
    assert Counter(ledger.read_text().split()) == Counter(ends.keys())
    assert not _programs(ledger)
