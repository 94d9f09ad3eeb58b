"""Disks for tests to fill: small file systems in memory, where mounting is permitted."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

BLOCK = 4096


class Disk:
    """A file system of its own, which tests fill and empty."""

    def __init__(self, path: Path) -> None:
        self.path, self._ballast = path, path / "ballast"

    @property
    def free(self) -> int:
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Have ``leave`` bytes left on the disk, or less than a block more."""
        with self._ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), (self.free - leave) // BLOCK * BLOCK)
        assert leave <= self.free < leave + BLOCK

    def empty(self) -> None:
        """Take away what `fill` has put there."""
        self._ballast.unlink()


@contextmanager
def mounted(path: Path, size: int) -> Iterator[Disk]:
    """Mount a disk of ``size`` bytes at ``path``, or skip the test."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    mounting = subprocess.run(command, capture_output=True, check=False)
    if mounting.returncode != 0:
        pytest.skip(f"no disk can be mounted: {mounting.stderr.decode().strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # whatever is still open


_LOOKUP, _GETATTR, _STATFS, _INIT = 1, 3, 17, 26
_SILENT = (2, 36, 42)
"""What nobody answers: FORGET, INTERRUPT, BATCH_FORGET."""


@contextmanager
def remote(path: Path, kind: str, *, dead: str = "") -> Iterator[Path]:
    """Mount what the system takes for a file system of another machine, or skip the test (fuse(4)).

    It is an empty directory; but when a file called ``dead`` is looked for, that is there, and nothing
    is answered any more.
    """
    path.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tests", os.fsencode(path), kind.encode(), 0, options.encode()):
        os.close(device)
        pytest.skip(f"no file system can be mounted: {os.strerror(ctypes.get_errno())}")
    answering = Thread(target=_answer, args=(device, dead.encode()))
    answering.start()
    try:
        yield path
    finally:
        subprocess.run(["umount", "--force", "--lazy", path], check=True)
        answering.join()
        os.close(device)


def _answer(device: int, dead: bytes) -> None:
    """Answer the kernel until what it has mounted is gone."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            continue
        _, asks, unique = struct.unpack_from("IIQ", request)
        if asks in _SILENT:
            continue
        known = {
            _INIT: struct.pack("IIIIHHIIHHI28x", 7, 31, 4096, 0, 1, 1, 4096, 1, 1, 0, 0),
            _GETATTR: struct.pack("Q8x", 1) + _attributes(1, stat.S_IFDIR | 0o700),
            _STATFS: struct.pack("5Q4I24x", *[1 << 30] * 5, 4096, 255, 4096, 0),
        }
        is_dead = asks == _LOOKUP and request[40:] == dead + b"\0"
        if is_dead:
            known[_LOOKUP] = struct.pack("QQQQ8x", 2, 0, 0, 0) + _attributes(2, stat.S_IFREG | 0o600)
        said = known.get(asks)
        missing = -(errno.ENOENT if asks == _LOOKUP else errno.ENOSYS)
        head = struct.pack("IiQ", 16 + len(said or b""), 0 if said else missing, unique)
        os.write(device, head + (said or b""))
        if is_dead:  # what is asked now nobody reads: who waits for an answer to that may be killed
            return


def _attributes(inode: int, mode: int) -> bytes:
    return struct.pack("6Q10I", inode, *[4096, 8, 0, 0, 0], *[0, 0, 0], mode, 1, *[0] * 5)
