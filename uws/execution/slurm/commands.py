"""Slurm's commands as asyncio subprocesses: sbatch, squeue, scancel, and sacct where there is one."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

_AT_ONCE = 8
"""Submissions at one time; more make slurmctld slower, not faster."""
_LONGEST_ANSWER = 60.0
"""Seconds until a command is given up; without slurmctld, each ends by itself after nine."""
_SEPARATOR = "\x1f"
_FIELDS = ("JobID", "State", "exit_code", "StartTime", "EndTime", "RestartCnt", "NodeList", "Reason", "Name")
_FORMAT = ",".join(f"{field}:{_SEPARATOR}" for field in _FIELDS)  # without a width, nothing is cut off
_PASSED = ("PATH", "HOME", "SLURM_CONF")
_SUSPENDED = frozenset({"SUSPENDED", "STOPPED"})
_PENDING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}) | _SUSPENDED
_SAID = re.compile(r"Batch job submission failed: *(.*)")
_UNCLEAR = re.compile(r"contact|connect|communicat|timed out|timeout|socket|bytes|message|protocol", re.I)
"""What sbatch says when it does not know whether slurmctld has taken a job."""
_NEVER = re.compile(
    r"invalid (partition|account|qos|feature|generic resource|wckey|gres)|not available$|cannot be satisfied|"
    r"can not be satisfied|time limit is invalid|not permitted to use|permission denied|access denied|"
    r"more processors requested|memory specification|node count specification",
    re.I,
)
"""What slurmctld says of a job that it will not take later, either."""


class Unknown(Exception):
    """Slurm could not be asked, or did not answer. This says nothing about any job."""


class NotTaken(Exception):
    """Slurm did not take a job; it may later."""


class Refused(Exception):
    """Slurm did not take a job, and never will."""


class Row(msgspec.Struct, frozen=True):
    """What Slurm says of one job; ``status`` is as of `os.waitstatus_to_exitcode`, once it has ended.

    ``restarts`` counts how often Slurm has started it again.
    """

    id: str
    state: str
    status: int
    started: datetime | None
    ended: datetime | None
    restarts: int
    nodes: str
    reason: str

    @property
    def waits(self) -> bool:
        return self.state in _PENDING

    @property
    def is_suspended(self) -> bool:
        return self.state in _SUSPENDED

    @property
    def has_ended(self) -> bool:
        return self.state not in _PENDING | _RUNNING


class Commands:
    """Slurm's commands. All raise `Unknown`."""

    def __init__(self) -> None:
        self._gate = asyncio.Semaphore(_AT_ONCE)
        kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
        self._environment = {**kept, "SLURM_TIME_FORMAT": "%s", "TZ": "UTC0", "LC_ALL": "C.UTF-8"}

    async def submit(self, command: Sequence[str], options: Sequence[str], env: Mapping[str, str]) -> str:
        """Hand a job to Slurm, which sees ``env`` and nothing else of the server's; return Slurm's id.

        Raises `NotTaken`, `Refused`; after `Unknown` there may be such a job or not.
        """
        conf = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        async with self._gate:
            try:
                status, out, err = await _run(
                    ["sbatch", "--parsable", "--no-requeue", *options, *command], {**env, **conf}
                )
            except OSError as error:
                raise NotTaken(f"sbatch cannot be run: {error.strerror}") from error
        if status == 0:
            return out.strip().partition(";")[0]
        said = _SAID.search(err)
        reason = said[1].strip() if said else _last_line(err)
        if status < 0 or _UNCLEAR.search(reason):
            raise Unknown(f"sbatch: {reason or f'ended by signal {-status}'}")
        raise (Refused if said and _NEVER.search(reason) else NotTaken)(
            reason or f"sbatch ended with {status}"
        )

    async def queue(self) -> dict[str, list[Row]]:
        """Return what Slurm knows of all jobs of this user, by their names; ended ones for some minutes."""
        out = await self._ask("squeue", "--noheader", "--me", "--states=all", "-O", _FORMAT)
        found = defaultdict[str, list[Row]](list)
        for line in out.splitlines():
            told = dict(zip(_FIELDS, line.split(_SEPARATOR), strict=False))
            if len(told) == len(_FIELDS):
                name = told.pop("Name").strip()
                found[name].append(_row(*(told[field].strip() for field in _FIELDS[:-1])))
        return dict(found)

    async def accounted(self, name: str, since: datetime) -> Row | None:
        """Return what Slurm's accounting has of a job; None when that is nothing, or there is none."""
        try:
            out = await self._ask(
                "sacct", "--allocations", "--noheader", "--parsable2", f"--delimiter={_SEPARATOR}",
                f"--name={name}", f"--starttime={since:%Y-%m-%dT%H:%M:%S}",
                "--format=JobIDRaw,State,ExitCode,Start,End,NodeList",
            )  # fmt: skip
        except Unknown:  # most have no accounting, and it may be away for days
            return None
        if not (lines := out.splitlines()):
            return None
        number, state, code, start, end, nodes = lines[-1].split(_SEPARATOR)
        status, _, signal = code.partition(":")
        return _row(number, state, str(int(status) << 8 | int(signal or 0)), start, end, "0", nodes, "")

    async def cancel(self, name: str, number: str) -> None:
        """Ask Slurm to end a job, by its id if that is known. It has ended when Slurm says so."""
        await self._ask("scancel", "--me", f"--name={name}", *filter(None, [number]))

    async def _ask(self, *command: str) -> str:
        try:
            status, out, err = await _run(command, self._environment)
        except OSError as error:
            raise Unknown(f"{command[0]} cannot be run: {error.strerror}") from error
        if status:
            raise Unknown(f"{command[0]}: {_last_line(err) or f'ended with {status}'}")
        return out


async def _run(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str, str]:
    """Run a command to its end, which comes soon in any case. Raises `OSError`, `Unknown`."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=env)
    try:
        async with asyncio.timeout(_LONGEST_ANSWER):
            out, err = await process.communicate()
    except TimeoutError:
        raise Unknown(f"{command[0]} does not answer") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def _row(
    number: str, state: str, code: str, start: str, end: str, restarts: str, nodes: str, reason: str
) -> Row:
    try:
        status = os.waitstatus_to_exitcode(int(code))
    except ValueError:
        status = 0
    return Row(
        id=number,
        state=state.split(maxsplit=1)[0] if state else "",  # sacct: CANCELLED by 0
        status=status,
        started=_time(start),
        ended=_time(end),
        restarts=int(restarts) if restarts.isdigit() else 0,
        nodes="" if nodes == "(null)" else nodes,
        reason="" if reason == "None" else reason,
    )


def _time(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() and text != "0" else None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return re.sub(r"^\w+: (error|fatal): ", "", lines[-1].strip()) if lines else ""
