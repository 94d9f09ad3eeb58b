"""A machine of its own for a server: a network that can be cut, and nothing seen of what runs elsewhere.

It is a network namespace, joined to this machine by a pair of virtual Ethernet devices, and a mount namespace
in which the system is of another start. Its server finds no program of a server on this machine, and no
server on this machine finds one of its.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

IP = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
_MOUNTS = """
mount --bind "$1" "$2" && mount --bind "$3" /proc/sys/kernel/random/boot_id && shift 3 && exec "$@"
"""


def _can_be_made() -> bool:
    """Whether this user may."""
    if IP is None or os.geteuid() != 0:
        return False
    name = f"uwsd-try-{os.getpid()}"
    made = subprocess.run([IP, "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        _ip("netns", "delete", name)
    return made


def _ip(*words: str) -> None:
    assert IP
    subprocess.run([IP, *words], check=True, capture_output=True)


class Apart:
    """Where a server finds no program of another, and has the directory ``jobs`` in a place of its own."""

    def __init__(self, directory: Path, jobs: Path, *within: str | Path) -> None:
        """What is needed for it is in ``directory``; ``within`` runs what follows in a mount namespace."""
        self.jobs = directory / "jobs"
        boot = directory / "boot"
        directory.mkdir()
        self.jobs.mkdir()
        boot.write_text(f"{uuid.uuid4()}\n")
        within = within or ("unshare", "--mount")
        self.command: tuple[str | Path, ...] = (*within, "sh", "-c", _MOUNTS, "sh", jobs, self.jobs, boot)
        """Runs there what follows."""


class Machine(Apart):
    """Make one with `machine`."""

    def __init__(self, name: str, device: str, here: str, there: str, directory: Path, jobs: Path) -> None:
        assert IP
        super().__init__(directory, jobs, IP, "netns", "exec", name)
        self._device = device
        self.here, self.there = here, there
        """The addresses of this machine and of that one, as they find each other."""

    def cut(self) -> None:
        """Pull the cable: nothing comes through from now on, and nobody is told."""
        _ip("link", "set", self._device, "down")

    def mend(self) -> None:
        _ip("link", "set", self._device, "up")


@contextmanager
def machine(directory: Path, jobs: Path) -> Iterator[Machine]:
    """Give a machine that has what it needs in ``directory``."""
    number = os.getpid()
    name, device = f"uwsd-{number}", f"uw{number}"
    net = f"10.{200 + number // 250 % 50}.{number % 250}"
    with ExitStack() as stack:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "delete", name)
        _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
        stack.callback(_ip, "link", "delete", device)
        _ip("address", "add", f"{net}.1/24", "dev", device)
        _ip("-n", name, "address", "add", f"{net}.2/24", "dev", "eth0")
        for where in (("link", "set", device, "up"), ("-n", name, "link", "set", "eth0", "up")):
            _ip(*where)
        _ip("-n", name, "link", "set", "lo", "up")
        yield Machine(name, device, f"{net}.1", f"{net}.2", directory, jobs)


CAN_BE_MADE = _can_be_made()
needs_machine = pytest.mark.skipif(
    not CAN_BE_MADE,
    reason="network namespaces can be made by root alone: no node is cut off by its network here",
)
