"""Parts of this program in processes of their own: where there is more to compute than one core can."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

# What is asked of the server now goes before, also before the third of a second that loading the rest takes.
# Connections to SQLite belong to one thread each: without locks of its own it is faster by a tenth. It has to
# be told before anything imports sqlite3; where its library cannot be found, it keeps its locks.
_PROGRAM = """
import ctypes, importlib.util, json, os, sys
os.nice(15)
try:
    ctypes.CDLL(importlib.util.find_spec("_sqlite3").origin).sqlite3_config(2)  # SQLITE_CONFIG_MULTITHREAD
except (AttributeError, OSError):
    pass
from eventstore.processes import end_with
end_with(int(sys.argv[1]))
from {} import main
main(*json.loads(os.environ.pop("UWSD_ARGUMENTS")))
"""
_PR_SET_PDEATHSIG = 1


@cache
def boot_id() -> str:
    """Return what this run of the machine has and no other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@asynccontextmanager
async def running(module: str, *arguments: str, stdin: int = DEVNULL) -> AsyncIterator[Process]:
    """Run ``main`` of a module with ``arguments``, and give the process, whose standard output is a pipe.

    No other user sees the arguments, which may have the password of a database among them. It has a low
    priority. When the context is left, the process has ended, and is killed if it has not; so it is when this
    process ends, however it ends.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", _PROGRAM.format(module), str(os.getpid()),
        stdin=stdin, stdout=PIPE, limit=1 << 30,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
            "UWSD_ARGUMENTS": json.dumps(arguments),
        },
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.shield(process.wait())


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends (prctl(2)), as it may have by now."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
