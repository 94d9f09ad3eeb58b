"""`uwsd` without the time that it takes to start: a process has imported it, and runs it in copies of itself.

What is run is what `uwsd` runs, in a process and a session of its own.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO

import msgspec

LONGEST = 200_000
"""Bytes of a call."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A command's words, its environment, its directory, and the bits that new files shall not have."""

    command: list[bytes]
    environment: dict[bytes, bytes]
    cwd: bytes
    umask: int


@contextmanager
def preloaded() -> Iterator[socket.socket]:
    """Start the process; give what takes calls (`begin`) until the context is left."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
            )
        yield ours
    process.wait()


def begin(preloaded: socket.socket, call: Call, files: Sequence[int]) -> socket.socket:
    """Have a command run with ``files`` as its standard input, output and error.

    Returns where there comes its process id, and then, when it has ended, its exit status: minus the signal
    that ended it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(preloaded, [msgspec.json.encode(call)], [*files, theirs.fileno()])
    return ours


def main() -> None:
    import uws.admin.client
    import uws.admin.door
    import uws.cli

    calls = socket.socket(fileno=int(sys.argv[1]))
    sys.argv = ["uwsd", "check", os.curdir]
    with suppress(SystemExit), redirect_stderr(StringIO()):
        uws.cli.main()  # what it says of that is of no interest: it imports the rest, and makes the parser
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who wait for a command need nobody to wait for them
    while True:
        message, given, _, _ = socket.recv_fds(calls, LONGEST, 4)
        if not message:
            return
        if not os.fork():
            break
        for fd in given:
            os.close(fd)
    calls.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *files, told = given
    answers = socket.socket(fileno=told)
    if pid := os.fork():
        answers.send(str(pid).encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answers.send(str(status).encode())
        os._exit(0)
    answers.close()
    call = msgspec.json.decode(message, type=Call)
    os.setsid()
    os.environb.clear()
    os.environb.update(call.environment)
    time.tzset()
    os.chdir(call.cwd)
    os.umask(call.umask)
    for number, fd in enumerate(files):
        os.dup2(fd, number)
        os.close(fd)
    sys.argv = [os.fsdecode(word) for word in call.command]
    try:
        uws.cli.main()
    except SystemExit as ended:
        _end(int(ended.code or 0))


def _end(status: int) -> None:
    """End as the interpreter does, but leave what is loaded as it is: taking that apart takes the longest."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
