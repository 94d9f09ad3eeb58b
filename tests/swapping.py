"""A program that swaps one thing for another at the worst moment: just before the system is asked for it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

MINE, SECRET = b"0.1 mine!!", b"0.5 secret"
"""What a job's files hold, and somebody else's of the same size; each would tell of progress, too."""
_MOMENTS = frozenset(
    {"open", "os.scandir", "os.chmod", "os.remove", "os.rename", "os.rmdir", "subprocess.Popen"}
)
_armed: list[Callable[[], None]] = []


def _on_event(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _MOMENTS and _armed:
        _armed[0]()


sys.addaudithook(_on_event)  # PEP 578; for good: there is no way to take one back


class _Swap:
    def __init__(self, number: int, do: Callable[[], None]) -> None:
        self._number, self._do = number, do
        self.moments = 0
        self._doing: int | None = None

    def __call__(self) -> None:
        if self._doing != get_ident():
            self.moments += 1
            if self.moments == self._number:
                self._doing = get_ident()
                self._do()
                self._doing = None


@contextmanager
def swapped(number: int, do: Callable[[], None]) -> Iterator[_Swap]:
    """Have ``do`` done at the ``number``-th moment, from 1, whoever asks the system and by what call.

    What is given counts the ``moments`` there were.
    """
    swap = _Swap(number, do)
    _armed.append(swap)
    try:
        yield swap
    finally:
        _armed.clear()


def moments_of(do: Callable[[], Any]) -> range:
    """Return the numbers of the moments there are while ``do`` is left in peace."""
    with swapped(0, lambda: None) as swap:
        do()
    assert swap.moments > 2, "the system is asked by calls that are not seen here"
    return range(1, swap.moments + 1)


class Foreign:
    """Somebody else's copy of a job's directory, in which all files are secret."""

    def __init__(self, root: Path, place: Path) -> None:
        self._root, self._kept, self.root = root, place / "kept", place / "foreign"
        shutil.copytree(root, self._kept)
        shutil.copytree(root, self.root)
        for path in self.files():
            path.write_bytes(SECRET)

    def files(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file()]

    def of(self, path: Path) -> Path:
        """Return what is in the place of ``path``."""
        return self.root / path.relative_to(self._root)

    def take_back(self) -> None:
        """Make the job's directory again what it was."""
        if self._root.is_symlink():
            self._root.unlink()
        shutil.rmtree(self._root, ignore_errors=True)
        shutil.copytree(self._kept, self._root)

    def swap(self, path: Path, kind: str) -> None:
        """Put something of the ``kind`` in the place of a file of the job, or of a directory above it."""
        match kind:
            case "a link":
                path.unlink()
                path.symlink_to(self.of(path))
            case "its directory a link":
                path.parent.rename(path.parent.with_name("aside"))
                path.parent.symlink_to(self.of(path.parent))
            case "the job's directory a link":
                shutil.rmtree(self._root)
                self._root.symlink_to(self.root)
            case "another name of a foreign file":
                path.unlink()
                path.hardlink_to(self.of(path))
            case "a pipe":
                path.unlink()
                os.mkfifo(path)


KINDS = (
    "a link",
    "its directory a link",
    "the job's directory a link",
    "another name of a foreign file",
    "a pipe",
)
