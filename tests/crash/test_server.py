"""A server that is killed while many clients ask for much, again and again."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from eventstore import Head, RecordedEvent
from tests.crash.kills import AT_RANDOM, PLACES, Campaign, Kill
from tests.crash.traces import traces
from tests.daemon import PATIENCE, Client
from tests.harness import job_id
from tests.processes import children
from uws.model import events as e

ROOT = Path(__file__).parents[2]
CLIENTS = 64
DECLARATION = """
[server]
jobs_end_with_server = true

[services.echo]
title = "Echo"
command = ["echo", "{text}"]
results = [{ id = "text", path = "-" }]
max_running = 4
execution_duration = { default = 1000000, max = 1000000 }
parameters = { text = { type = "str", required = true } }
"""
CHOICES = ("create", "create", "change", "run", "abort", "delete")
ACKNOWLEDGED = 303
REFUSED = (403, 410)
WISHES = {"run": {"PHASE": "RUN"}, "abort": {"PHASE": "ABORT"}, "delete": {"ACTION": "DELETE"}}
LEAVES = {
    "run": {"JobQueued"},
    "abort": {"JobAborted", "StopRequested"},
    "delete": {"JobDestroyed", "StopRequested"},
}
"""Of what a wish that was granted leaves at least one in the job's stream."""
ENDS = {"JobCompleted", "JobFailed", "JobAborted"}
ONCE = ("JobCreated", "JobQueued", "JobStarted", "JobCompleted", "JobFailed", "JobAborted", "JobDestroyed")


@dataclass
class Command:
    """What a client asked for, and the status that he was told: 0 is nothing yet."""

    number: int
    wish: str
    job: str
    run: bool
    status: int = 0

    @property
    def key(self) -> str:
        return f"key {self.number}"

    @property
    def fields(self) -> dict[str, str]:
        """The form, made so that the key is found again in the log."""
        if self.wish in WISHES:
            return WISHES[self.wish]
        run = WISHES["run"] if self.run else {}
        return {"text": self.key, "RUNID": self.key, "EXECUTIONDURATION": str(self.number)} | run

    @property
    def batch(self) -> list[str]:
        """The types of the events that are appended together when a job is created or changed."""
        if self.wish in WISHES:
            return []
        first = ["JobCreated"] if self.wish == "create" else ["ParametersSet", "RunIdSet"]
        return [*first, "ExecutionDurationSet", *(["JobQueued"] if self.run else [])]


@dataclass
class Life:
    """A server that runs, and when it ends."""

    client: Client
    process: Process
    kill: Kill | None
    told: int = 0


class Directory:
    """The data of one server, what its clients have asked for, and what they were told."""

    def __init__(self, data: Path, campaign: Campaign) -> None:
        self._data, self._campaign, self._chance = data, campaign, campaign.random
        self._commands: list[Command] = []
        self._head = Head(0, bytes(32))
        data.mkdir(parents=True)
        data.with_name("uwsd.toml").write_text(DECLARATION)

    @property
    def unanswered(self) -> list[Command]:
        return [command for command in self._commands if not command.status]

    async def live(self, kill: Kill | None) -> None:
        """Let a server answer its clients until it is killed, or has answered what nobody answered before."""
        async with self._serving(kill) as (process, url), aiohttp.ClientSession() as session:
            if not url:  # it was killed before it was ready
                return
            life = Life(Client(url, session), process, kill)
            async with asyncio.TaskGroup() as group:
                for command in self.unanswered:
                    # One who is not sure repeats it, and one who is impatient repeats it again.
                    group.create_task(self._repeat(life, command))
                    group.create_task(self._repeat(life, command))
                for _ in range(CLIENTS if kill else 0):
                    group.create_task(self._ask(life))

    @asynccontextmanager
    async def _serving(self, kill: Kill | None) -> AsyncIterator[tuple[Process, str]]:
        before = children().keys()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.crash.server_child", msgspec.json.encode(kill),
            "serve", self._data.with_name("uwsd.toml"), "--port", "0", cwd=ROOT, stdout=PIPE,
        )  # fmt: skip
        try:
            assert process.stdout
            async with asyncio.timeout(PATIENCE):
                line = await process.stdout.readline()
            yield process, line.decode().removeprefix("serving on ").strip()
            if not kill:
                process.terminate()
            async with asyncio.timeout(PATIENCE):
                await process.communicate()
            assert process.returncode == (-signal.SIGKILL if kill else 0)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
            # Its programs have become ours, and end by themselves.
            while left := children().keys() - before:
                with suppress(ChildProcessError):
                    os.waitpid(left.pop(), 0)

    async def _repeat(self, life: Life, command: Command) -> None:
        """Send a command that may have been carried out before."""
        with suppress(aiohttp.ClientError):
            await self._send(life, command)

    async def _ask(self, life: Life) -> None:
        """Send one command after the other, until nobody answers any more."""
        with suppress(aiohttp.ClientError):
            while True:
                command = self._wish()
                self._commands.append(command)
                await self._send(life, command)

    def _wish(self) -> Command:
        jobs = [c.job for c in self._commands[-200:] if c.wish == "create" and c.job]
        wish = self._chance.choice(CHOICES) if jobs else "create"
        job = "" if wish == "create" else self._chance.choice(jobs)
        return Command(len(self._commands) + 1, wish, job, self._chance.random() < 0.3)

    async def _send(self, life: Life, command: Command) -> None:
        url = life.client.list_url("echo")
        if command.wish != "create":
            url += f"/{command.job}"
        answer = await life.client.post(url, command.fields, headers={"Idempotency-Key": command.key})
        assert answer.status in (ACKNOWLEDGED, *REFUSED), answer.text
        if command.batch:
            # A refusal records nothing and is found anew: 403 becomes 410 when somebody has deleted the job.
            deleted = any(other.wish == "delete" and other.job == command.job for other in self._commands)
            gone = deleted and {command.status, answer.status} == {403, 410}
            assert gone or command.status in (0, answer.status), "two answers to one command"
        if command.status != ACKNOWLEDGED:
            command.status = answer.status
        if answer.status == ACKNOWLEDGED:
            if command.wish == "create":
                assert command.job in ("", job_id(answer.location)), "two jobs for one command"
                command.job = job_id(answer.location)
            self._campaign.acknowledged += 1
            life.told += 1
            if life.kill:
                life.kill.strike(AT_RANDOM, life.told, life.process.pid)

    async def check(self, *, at_rest: bool = False) -> None:
        """Find everything as it must be; ``at_rest`` is after a server that was not killed."""
        events = await traces(self._data, self._head)
        self._head = Head(events[-1].position, events[-1].hash) if events else self._head
        types: defaultdict[str, Counter[str]] = defaultdict(Counter)
        marked: defaultdict[str, list[int]] = defaultdict(list)
        for index, event in enumerate(events):
            types[event.stream][event.type] += 1
            if event.type in ("JobCreated", "ParametersSet"):
                payload = e.decode(event)
                assert isinstance(payload, e.JobCreated | e.ParametersSet)
                marked[str(*payload.parameters["text"])].append(index)
        for command in self._commands:
            found = [events[index : index + len(command.batch)] for index in marked[command.key]]
            _check_command(command, found, types[e.job_stream(command.job)])
        for happened in types.values():
            assert all(happened[kind] <= 1 for kind in ONCE), "carried out twice"
            assert not at_rest or not happened["JobStarted"] or happened.keys() & ENDS, (
                "started, and never ended"
            )


def _check_command(
    command: Command, found: Sequence[Sequence[RecordedEvent]], happened: Counter[str]
) -> None:
    """Hold one command against the batches that its key was found in, and the types of its job's events."""
    if not command.batch:
        assert command.status != ACKNOWLEDGED or happened.keys() & LEAVES[command.wish]
        return
    assert len(found) <= 1, "carried out twice"
    assert not command.status or bool(found) == (command.status == ACKNOWLEDGED)
    for batch in found:
        assert [event.type for event in batch] == command.batch, "half a command"
        streams = {event.stream for event in batch}
        assert streams == {e.job_stream(command.job)} if command.job else len(streams) == 1


async def test_what_clients_were_told_survives_their_server_and_what_they_repeat_is_done_once(
    tmp_path: Path, campaign: Campaign
) -> None:
    places = itertools.cycle(PLACES)
    for lives in campaign.directories(share=1 / 3):
        directory = Directory(tmp_path / str(lives.start) / "var", campaign)
        for life in lives:
            place = next(places)
            with campaign.killing(life, place, 200 if place == AT_RANDOM else 60, 0.02) as kill:
                await directory.live(kill)
                await directory.check()
        await directory.live(None)
        await directory.check(at_rest=True)
        assert not directory.unanswered
