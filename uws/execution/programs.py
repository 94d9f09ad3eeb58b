"""Which programs are run: the SHA-256 of their files, for the record."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from uws.environment import base_environment
from uws.functions import PATH
from uws.model import ProgramFile, Service
from uws.model.text import made_fit

LARGEST = 1_000_000_000
"""Bytes of an executable beyond which it is not read."""
LARGEST_ARGUMENT = 16_000_000
"""Bytes of a file that an argument names beyond which it is data, not part of the program."""
_REMEMBERED = 1000


class _Found(NamedTuple):
    path: Path
    key: tuple[int, ...]
    """Device, inode, size and times: another one as soon as somebody writes to it or replaces it."""


class Programs:
    """Knows the digest of a file as long as it is the same file."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}
        self._reading = asyncio.Lock()

    async def of(self, service: Service) -> tuple[ProgramFile, ...]:
        """Return the files that a program of ``service`` consists of now; none where they cannot be read.

        They are read when they are new, in a thread, and else only looked at.
        """
        files = [*_files_of(service)]
        if any(file.key not in self._known for file in files):
            async with self._reading:  # jobs that start together need the same
                if len(self._known) > _REMEMBERED:
                    self._known = {key: self._known[key] for _, key in files if key in self._known}
                new = [file for file in files if file.key not in self._known]
                self._known |= await asyncio.to_thread(lambda: {file.key: _digest(file) for file in new})
        return tuple(
            ProgramFile(name=made_fit(file.path.name), sha256=digest)
            for file in files
            if (digest := self._known[file.key])
        )


def _files_of(service: Service) -> Iterator[_Found]:
    """Yield the executable, and what else of the program the command names: no value of a parameter."""
    environment = base_environment(service.environment)
    name, *rest = service.command
    if executable := shutil.which(str(name), path=environment.get("PATH")):
        yield from _found(Path(executable), LARGEST)
    if service.function:
        if module := _module(service.function.partition(":")[0], environment):
            yield from _found(Path(module), LARGEST_ARGUMENT)
        return
    for part in rest:
        for argument in [part] if isinstance(part, str) else part:
            if argument.startswith("/") and "{" not in argument:
                yield from _found(Path(argument), LARGEST_ARGUMENT)


def _found(path: Path, largest: int) -> Iterator[_Found]:
    """Yield what is at an absolute path, if it is a file of a size that can be read."""
    if not path.is_absolute():
        return
    with suppress(OSError):
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= largest:
            yield _Found(path, _key(found))


def _key(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(file: _Found) -> str:
    """Return the SHA-256 of a file, nothing when it is another one by now or cannot be read."""
    try:
        with file.path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return digest if _key(os.fstat(opened.fileno())) == file.key else ""
    except OSError:
        return ""


def _module(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the file of a module as a job's process finds it, without importing anything."""
    extra = environment.get(PATH, "").split(os.pathsep)
    places = [entry for entry in (*sys.path, *extra) if entry.startswith("/")]
    found = None
    for end in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(".".join(name.split(".")[:end]), places)
        if spec is None:
            return None
        places, found = [*(spec.submodule_search_locations or ())], spec.origin
    return found
