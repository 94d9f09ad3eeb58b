"""The processes in which functions run: one to look at a function, and the command of its jobs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from uws.environment import base_environment
from uws.model.service import CALL

from .finding import NoFunction, check_reference
from .signature import Description

LONGEST_IMPORT = 60.0
"""Seconds that importing a function may take before it is given up."""


class Answer(msgspec.Struct, omit_defaults=True):
    """What the process tells that has looked at a function: how it is, or why that cannot be said."""

    description: Description | None = None
    failure: str = ""


def command_of(reference: str) -> list[str]:
    """Return the command of a function's jobs. It names no place on this machine: it goes on record."""
    return [Path(sys.executable).name, *CALL, reference]


def described(
    reference: str, environment: Mapping[str, str], *, timeout: float = LONGEST_IMPORT
) -> Description:
    """Import a function in a process of its own, and derive its declaration there.

    ``environment`` is what its jobs get, too. Blocks for ``timeout`` seconds at most; what the module started
    ends with the process. Raises `NoFunction`.
    """
    check_reference(reference)
    module = reference.partition(":")[0]
    with (
        tempfile.TemporaryDirectory() as nowhere,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "uws.functions", "describe", reference],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            cwd=nowhere, env=base_environment(environment), start_new_session=True,
        )  # fmt: skip
        try:
            in_time = _ends_within(timeout, process.pid)
        finally:
            # It has not been waited for: the number is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if not in_time:
            raise NoFunction(f"importing {module} takes longer than {timeout:g} s")
        return _read(module, status, out, err)


def _read(module: str, status: int, out: IO[bytes], err: IO[bytes]) -> Description:
    out.seek(0)
    try:
        answer = msgspec.json.decode(out.read(), type=Answer)
    except msgspec.MsgspecError:
        err.seek(0)
        said = err.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        last = f": {said[-1]}" if said else ""
        raise NoFunction(f"importing {module} ended the process, with {how}{last}") from None
    if answer.description is None:
        raise NoFunction(answer.failure)
    return answer.description


def _ends_within(seconds: float, pid: int) -> bool:
    """Wait until a child has ended, without taking its status; False when it takes longer."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)
