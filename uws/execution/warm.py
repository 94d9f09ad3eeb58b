"""A launcher that has the module of a function loaded: its jobs are forked, and need not import anything.

``python -m uws.execution.warm MODULE:NAME`` is asked for programs as the launcher of all others is. What it
starts instead is a copy of itself that calls the function: a process of its own, under a supervisor, within
limits, as any program. A module that cannot be imported is tried again by each job, which tells why.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from uws.execution.supervisor import Ends, Request, launch, leave_the_server
from uws.functions.calling import call
from uws.functions.finding import extend_path, find


def main(reference: str) -> None:
    """Load a function and launch its jobs until there is nobody to ask."""
    leave_the_server()
    # A module reads and writes what it likes, now and in threads of its own.
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    os.close(nowhere)
    extend_path()
    with suppress(Exception, SystemExit):
        find(reference)
    with suppress(Exception):
        sys.stdout.flush()  # else each job says it again
    launch(partial(_fork, reference), requests, answers)
    os._exit(0)  # whatever the module has started


def _fork(reference: str, request: Request, ends: Ends, private: int) -> int:
    """Start a process that calls the function, and return its id. Raises `OSError`."""
    pid = os.fork()
    if pid == 0:
        _call(reference, request["environment"], ends, {*ends, private, request["answers"]})
    return pid


def _call(reference: str, environment: dict[str, str], ends: Ends, private: set[int]) -> NoReturn:
    """Be the program of one job."""
    status = 1
    try:
        os.setsid()
        for number, end in enumerate(ends):
            os.dup2(end, number)
        for number in private:
            os.close(number)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.environ.clear()
        os.environ.update(environment)
        _show(b"UWS_RESULTS=" + os.fsencode(environment["UWS_RESULTS"]) + b"\0")
        _begin_another_sequence()
        status = call(reference)
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:
        traceback.print_exc()
    finally:
        # As Python ends.
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # which has no public name
        with suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):
                stream.flush()
        os._exit(status)


def _show(variable: bytes) -> None:
    """Let the system tell a variable of this process (proc(5), ``environ``), by which it is found when lost.

    What the system tells is what stood where the launcher's own variables were, which are not used any more.
    """
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(stat[47]), int(stat[48])
    if begin and len(variable) < end - begin:
        ctypes.memmove(begin, variable.ljust(end - begin, b"\0"), end - begin)


def _begin_another_sequence() -> None:
    """Let no two jobs draw the same random numbers; of Python's own generator the system sees to that."""
    if numbers := sys.modules.get("numpy.random"):
        numbers.seed()


def _status_of(end: SystemExit) -> int:
    """Return the status with which Python ends for it."""
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


if __name__ == "__main__":
    main(sys.argv[1])
