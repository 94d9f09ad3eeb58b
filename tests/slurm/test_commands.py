"""How Slurm's commands are called: by path, a few at one time, one for all jobs; what they say may be odd."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.harness import ManualClock
from uws.config import SlurmSettings
from uws.execution.slurm.cluster import Cluster
from uws.execution.slurm.commands import Commands

AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the server's PATH in which tests put commands."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin"


def put(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


async def test_however_many_jobs_are_cancelled_a_few_commands_run_at_one_time(
    tmp_path: Path, commands: Path
) -> None:
    running = tmp_path / "running"
    running.mkdir()
    put(
        commands,
        "scancel",
        f"mkdir {running}/$$; ls {running} | wc -l >> {tmp_path}/seen; rmdir {running}/$$",
    )
    slurm = Commands()
    await asyncio.gather(*(slurm.cancel(f"run-{number}", str(number)) for number in range(50)))
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    assert len(seen) == 50
    assert 1 < max(seen) <= 8


async def test_accounting_is_asked_once_for_all_jobs_that_slurm_has_forgotten(
    tmp_path: Path, commands: Path, clock: ManualClock
) -> None:
    line = "3\x1fCANCELLED by 0\x1f0:15\x1f1767225600\x1f1767225660\x1fNone assigned\x1frun-3\n"
    put(commands, "sacct", f'echo "$@" >> {tmp_path}/asked; printf "{line}"')
    cluster = Cluster(clock, SlurmSettings(every=5))
    cluster.start()
    try:
        asked = (cluster.accounted(f"run-{number}", AGO + timedelta(hours=number)) for number in range(20))
        answers = await asyncio.gather(*asked)
    finally:
        await cluster.close()
    (words,) = (tmp_path / "asked").read_text().splitlines()
    (names,) = (word for word in words.split() if word.startswith("--name="))
    assert {*names.removeprefix("--name=").split(",")} == {f"run-{number}" for number in range(20)}
    assert "--starttime=2026-01-01T00:00:00" in words
    assert [len(rows) for rows in answers] == [int(number == 3) for number in range(20)]
    (row,) = answers[3]
    assert (row.id, row.state, row.status, row.nodes) == ("3", "CANCELLED", -15, "")
    assert row.ended == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


async def test_accounting_that_does_not_answer_keeps_nobody_from_what_the_queue_tells(
    tmp_path: Path, commands: Path, clock: ManualClock
) -> None:
    put(commands, "sacct", "exec sleep 600")
    put(commands, "squeue", "")
    cluster = Cluster(clock, SlurmSettings(every=5))
    cluster.start()
    try:
        waits = asyncio.ensure_future(cluster.accounted("run-1", AGO))
        assert await cluster.look() == {}
        clock.advance(seconds=5)
        assert await cluster.look() == {}
        assert not waits.done()
        waits.cancel()
    finally:
        await cluster.close()


ODD = [
    "",
    "slurm_load_jobs: odd",
    "4\x1fFAILED",
    "4\x1fFAILED\x1fx:y\x1f1\x1f2\x1fn1\x1frun-4",
    "\x1f" * 6,
    "\x1f" * 9,
]


@pytest.mark.parametrize("odd", ODD)
async def test_a_line_that_makes_no_sense_is_no_line(commands: Path, odd: str) -> None:
    accounted = "3\x1fFAILED\x1f3:0\x1f1767225600\x1f1767225660\x1fn1\x1frun-3"
    queued = "3\x1fFAILED\x1f768\x1f1767225600\x1f1767225660\x1f0\x1fn1\x1fNonZeroExitCode\x1frun-3\x1f"
    put(commands, "sacct", f"printf '{odd}\n{accounted}\n{odd}\n'")
    put(commands, "squeue", f"printf '{odd}\n{queued}\n{odd}\n'")
    slurm = Commands()
    for answer in (await slurm.accounted(["run-3", "run-4"], AGO), await slurm.queue()):
        assert [*answer] == ["run-3"]
        assert [(row.id, row.state, row.status, row.nodes) for row in answer["run-3"]] == [
            ("3", "FAILED", 3, "n1")
        ]


async def test_where_there_is_no_accounting_nothing_is_known_of_what_slurm_has_forgotten(
    commands: Path,
) -> None:
    assert await Commands().accounted(["run-3"], AGO) == {}
    put(commands, "sacct", "echo Slurm accounting storage is disabled >&2; exit 1")
    assert await Commands().accounted(["run-3"], AGO) == {}


async def test_commands_are_those_of_the_servers_path_whatever_that_of_a_job_is(
    tmp_path: Path, commands: Path
) -> None:
    put(commands, "sbatch", "echo 7")
    other = tmp_path / "other"
    other.mkdir()
    put(other, "sbatch", "echo 8")
    assert await Commands().submit(["job"], [], {"PATH": str(other)}) == "7"
