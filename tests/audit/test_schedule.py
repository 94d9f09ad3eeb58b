"""Checkpoints on a schedule."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from eventstore.checkpoint import Checkpoint, SigningKey, open_checkpoint
from tests.harness import ManualClock
from uws import Caller, Changes, Node, Service, run_node
from uws.config import AuditSettings, Settings

ECHO = Service(name="echo", title="Echo", command=["true"])
DAILY = AuditSettings(origin="log.example.org", checkpoint_every="1d")


def written(data: Path) -> list[Checkpoint]:
    key = SigningKey.load_or_create(data / "audit.key", "log.example.org").verifier
    files = sorted((data / "checkpoints").glob("*.checkpoint"))
    return [open_checkpoint(path.read_bytes(), key) for path in files]


async def create(node: Node) -> None:
    await node.services[0].create_job(Changes(), Caller())


async def test_a_checkpoint_is_written_at_start_and_then_whenever_it_is_time(
    tmp_path: Path, clock: ManualClock
) -> None:
    begin = clock.now()
    async with run_node(Settings(data=tmp_path, services=(ECHO,), audit=DAILY), clock=clock) as node:
        for day in range(3):
            await clock.until_sleeping_for(begin + timedelta(days=day + 1))
            assert [checkpoint.head.position for checkpoint in written(tmp_path)] == list(range(1, day + 2))
            assert written(tmp_path)[-1].head == await node.backend.store.head()
            assert written(tmp_path)[-1].time == clock.now()
            await create(node)
            clock.advance(days=1)
        await clock.until_sleeping_for(begin + timedelta(days=4))
        heads = [checkpoint.head for checkpoint in written(tmp_path)]
        await node.backend.store.verify(contains=heads)


async def test_no_checkpoint_repeats_the_one_before(tmp_path: Path, clock: ManualClock) -> None:
    begin = clock.now()
    async with run_node(Settings(data=tmp_path, services=(ECHO,), audit=DAILY), clock=clock):
        for day in range(3):
            await clock.until_sleeping_for(begin + timedelta(days=day + 1))
            clock.advance(days=1)
        await clock.until_sleeping_for(begin + timedelta(days=4))
        assert len(written(tmp_path)) == 1


async def test_a_checkpoint_that_cannot_be_written_is_told_and_made_up_for(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    begin = clock.now()
    (tmp_path / "checkpoints").write_text("in the way")
    async with run_node(Settings(data=tmp_path, services=(ECHO,), audit=DAILY), clock=clock) as node:
        await clock.until_sleeping_for(begin + timedelta(days=1))
        assert "no checkpoint could be written" in caplog.text
        await create(node)  # the server does its work meanwhile
        (tmp_path / "checkpoints").unlink()
        clock.advance(days=1)
        await clock.until_sleeping_for(begin + timedelta(days=2))
        assert [checkpoint.head.position for checkpoint in written(tmp_path)] == [2]


async def test_without_a_schedule_nothing_is_written(tmp_path: Path, clock: ManualClock) -> None:
    never = AuditSettings(checkpoint_every=0)
    async with run_node(Settings(data=tmp_path, services=(ECHO,), audit=never), clock=clock):
        pass
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "audit.key").exists()
