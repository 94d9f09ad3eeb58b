"""A launcher that has the module of a function loaded: its jobs are forked, and need not import anything.

``python -m uws.execution.warm MODULE:NAME`` is asked for programs as the launcher of all others is. What it
starts instead is a copy of itself that calls the function: a process of its own, under a supervisor, within
limits, as any program. A module that cannot be imported is tried again by each job, which tells why.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import NoReturn

from uws.execution.supervisor import Ends, Request, launch, leave_the_server
from uws.functions.calling import call
from uws.functions.finding import extend_path, find


def main(reference: str) -> None:
    """Load a function and launch its jobs until standard input ends."""
    leave_the_server()
    _load(reference)
    launch(partial(_fork, reference))


def _load(reference: str) -> None:
    """Import a function; what its module reads and writes has nothing to do with the server."""
    extend_path()
    server = [os.dup(number) for number in (0, 1)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    with suppress(Exception, SystemExit):
        find(reference)
    sys.stdout.flush()
    for number, end in enumerate(server):
        os.dup2(end, number)
        os.close(end)
    os.close(nowhere)


def _fork(reference: str, request: Request, ends: Ends, private: int) -> int:
    """Start a process that calls the function, and return its id. Raises `OSError`."""
    pid = os.fork()
    if pid == 0:
        _call(reference, request["environment"], ends, private)
    return pid


def _call(reference: str, environment: dict[str, str], ends: Ends, private: int) -> NoReturn:
    """Be the program of one job."""
    status = 1
    try:
        os.setsid()
        for number, end in enumerate(ends):
            os.dup2(end, number)
        for number in {*ends, private}:
            os.close(number)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.environ.clear()
        os.environ.update(environment)
        _begin_another_sequence()
        status = call(reference)
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)


def _begin_another_sequence() -> None:
    """Let no two jobs draw the same random numbers; of Python's own generator the system sees to that."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _status_of(end: SystemExit) -> int:
    """Return the status with which Python ends for it."""
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


if __name__ == "__main__":
    main(sys.argv[1])
