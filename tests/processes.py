"""The processes that tests start, and the check that they are gone when they should be."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Whatever outlives its parents becomes a child of this process, so that it is seen (prctl(2)).
PR_SET_CHILD_SUBREAPER = 36
PF_EXITING = 0x4
"""Among the flags of a process that is on its way out (proc(5), stat)."""
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

spared: set[int] = set()
"""Processes that serve many tests."""


@contextmanager
def no_process_stays_behind() -> Iterator[None]:
    """Kill what was started within the context and is still there at its end, and fail."""
    before = children().keys()
    yield
    left: list[str] = []
    while found := {pid: command for pid, command in children().items() if pid not in before}:
        left += found.values()
        for pid in found:  # what they leave becomes ours; the tests that follow have nothing to do with it
            with suppress(ProcessLookupError, ChildProcessError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    assert not left, "processes are left"


def children() -> dict[int, str]:
    """Return this process's children with their command lines; reap those that have ended."""
    found = {}
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(
            FileNotFoundError, ProcessLookupError, ChildProcessError
        ):  # a thread, or a child, that is just ending
            for pid in (task / "children").read_text().split():
                if int(pid) in spared:
                    continue
                if os.waitpid(int(pid), os.WNOHANG)[0]:
                    continue
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if _is_ending(pid):
                    os.waitpid(int(pid), 0)
                    continue
                found[int(pid)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def _is_ending(pid: str) -> bool:
    """Whether it is on its way out, or was killed and has not had a processor since."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    pending = re.findall(
        r"^(?:Sig|Shd)Pnd:\s(.*)$", Path(f"/proc/{pid}/status").read_text(errors="replace"), re.M
    )
    killed = any(int(signals, 16) >> (signal.SIGKILL - 1) & 1 for signals in pending)
    return killed or bool(int(fields[6]) & PF_EXITING)
