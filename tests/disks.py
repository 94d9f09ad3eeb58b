"""Disks for tests to fill: small file systems in memory, where mounting is permitted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
