"""The files of jobs: below the data directory, ``jobs`` with one directory for each job, and ``spool``.

A job's directory holds ``work``, where its program runs; ``results``, its ``UWS_RESULTS``; ``uploads``, the
received files under names of ours; ``logs``, standard output and error; ``starts``, what its supervisors put
on record; ``parameters.json``; and ``progress``, its ``UWS_PROGRESS``. The spool holds uploads that are
coming in.

Nobody but the server's user may look into any of them. Files of jobs are opened by `JobDirectory.open` alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC, EPERM
from functools import partial
from io import BufferedReader, FileIO
from pathlib import Path, PurePath
from threading import Lock
from weakref import WeakValueDictionary

import msgspec

from eventstore.tasks import to_the_end
from uws import beneath
from uws.model import (
    Altered,
    Example,
    FileParameter,
    NotFound,
    OnOtherNode,
    OutOfSpace,
    Result,
    Service,
    TooLarge,
    Unavailable,
    Upload,
)
from uws.model.quotas import Allowance
from uws.model.units import format_size

_log = logging.getLogger(__name__)

RESERVE = 16_000_000
"""Bytes kept free on the disk for what must still be recorded and shown when nothing new is taken."""
_CHUNK = 1 << 20
_SPOOL = ".spool-"
_removals: WeakValueDictionary[Path, Lock] = WeakValueDictionary()
_SUFFIXES = re.compile(r"(\.[A-Za-z0-9]{1,8}){1,2}\Z")


class Spooled:
    """A file that has been received and belongs to no job yet."""

    def __init__(self, path: Path, filename: str, media_type: str) -> None:
        self.path = path
        self.filename = filename
        self.media_type = media_type
        self.size = 0
        self.sha256 = ""
        self.url: str | None = None
        """The URL that a client named it by, None for one that came with the request."""
        self.source: str | msgspec.UnsetType = msgspec.UNSET
        """The same without what may be secret in it."""

    def as_upload(self, parameter: str, node: str | None = None) -> Upload:
        """Describe the file under a name of ours, which keeps harmless suffixes such as ``.fits.gz``.

        ``node`` is the one that has it, where each keeps its own.
        """
        suffixes = _SUFFIXES.search(self.filename)
        return Upload(
            file=f"{parameter}-{secrets.token_hex(4)}{suffixes[0] if suffixes else ''}",
            filename=self.filename,
            size=self.size,
            sha256=self.sha256,
            media_type=self.media_type,
            source=self.source,
            node=msgspec.UNSET if node is None else node,
        )


class Spool:
    """The uploads of one request; what no job has taken when it is left is deleted.

    Without ``keep`` they are only looked at and need no room: size and digest tell whether they came before.
    All together they are no more than any of the ``allowances``.
    """

    def __init__(
        self,
        directory: Path,
        check_room: Callable[[], None],
        *,
        keep: bool,
        allowances: Sequence[Allowance],
    ) -> None:
        self.keep = keep
        self._directory, self._check_room = directory, check_room
        self._allowances, self._received = allowances, 0
        self._files: list[Spooled] = []

    async def receive(
        self, chunks: AsyncIterator[bytes], *, name: str, filename: str, media_type: str, max_size: int
    ) -> Spooled:
        """Write ``chunks`` to disk as they come, in constant memory.

        Raises `TooLarge` as soon as there are more than ``max_size`` bytes, and what the allowance says
        as soon as there are more than it; `OutOfSpace` and `Unavailable` when the disk does not take them;
        what the source raises, when it breaks off.
        """
        spooled = Spooled(self._directory / secrets.token_hex(16), filename, media_type)
        digest = hashlib.sha256()
        with self._opened(spooled) as file:
            buffer = bytearray()
            async for chunk in chunks:
                buffer += chunk
                spooled.size += len(chunk)
                if spooled.size > max_size:
                    raise TooLarge(f"{name}: the file is larger than the maximum {format_size(max_size)}")
                self._count(len(chunk))
                if len(buffer) >= _CHUNK:
                    if self.keep:
                        self._check_room()
                    await asyncio.to_thread(_write, file, digest, bytes(buffer))
                    buffer.clear()
            await asyncio.to_thread(_write, file, digest, bytes(buffer))
            if self.keep:
                await asyncio.to_thread(_sync, file)
        spooled.sha256 = digest.hexdigest()
        return spooled

    async def copy(self, chunks: AsyncIterator[bytes], name: str, upload: Upload) -> Spooled:
        """Write what should be the bytes of ``upload`` to disk. Raises what `receive` does, and `Altered`."""
        copy = await self.receive(
            chunks,
            name=name,
            filename=upload.filename,
            media_type=upload.media_type,
            max_size=upload.size,
        )
        if (copy.size, copy.sha256) != (upload.size, upload.sha256):
            raise Altered("its contents were changed")
        return copy

    def _count(self, more: int) -> None:
        self._received += more
        for coming in (allowance.coming for allowance in self._allowances if allowance.coming):
            coming.bytes += more
        for allowance in self._allowances:
            if (allowance.coming.bytes if allowance.coming else self._received) > allowance.bytes:
                raise allowance.refusal

    def _opened(self, spooled: Spooled) -> FileIO:
        with _storing():
            if not self.keep:
                return Path(os.devnull).open("wb", buffering=0)
            self._check_room()
            file = spooled.path.open("xb", buffering=0)
        self._files.append(spooled)
        return file

    def clear(self) -> None:
        for coming in (allowance.coming for allowance in self._allowances if allowance.coming):
            coming.bytes -= self._received
        for spooled in self._files:
            spooled.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class OwnFile:
    """A file of a job, or of an example; a client that keeps it is told ``name``."""

    find: Callable[[], BufferedReader | None]
    """Opens it, as `JobDirectory.open` does."""
    name: str
    media_type: str
    size: int | None = None
    """Bytes that are on record; None for what may be of any size."""

    def open(self) -> BufferedReader:
        """Open it to be read.

        Raises `NotFound` when it is no longer there or is no file of the job's own, `Altered`, `Unavailable`,
        `OnOtherNode`.
        """
        try:
            file = self.find()
        except OSError as error:
            raise Unavailable(f"the file {self.name} cannot be read now: {error.strerror}") from error
        if file is None:
            raise NotFound(f"the file {self.name} is missing")
        try:
            self._check(os.fstat(file.fileno()).st_size)
        except Altered:
            file.close()
            raise
        return file

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield its bytes. Raises what `open` does, and `OSError`."""
        with await asyncio.to_thread(self.open) as file:
            size = 0
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                size += len(chunk)
                yield chunk
        self._check(size)

    def _check(self, size: int) -> None:
        if self.size not in (None, size):
            told = f"the file {self.name} was changed: {self.size} bytes are on record, and it has {size}"
            _log.error(told)
            raise Altered(told)


class JobDirectory:
    """The directory of one job. One that is ``elsewhere`` has nothing that could be opened."""

    def __init__(self, root: Path, elsewhere: OnOtherNode | None = None) -> None:
        self.root = root
        self._elsewhere = elsewhere
        self.work: Path = root / "work"
        self.results: Path = root / "results"
        self.uploads: Path = root / "uploads"
        self.logs: Path = root / "logs"
        self.starts: Path = root / "starts"
        self.parameters: Path = root / "parameters.json"
        self.progress: Path = root / "progress"

    def make(self) -> None:
        """Make the directories that a program finds. Raises `OSError`, also for a link in place of one."""
        for directory in (self.root, self.work, self.results, self.logs, self.starts):
            beneath.make_private(directory)
        if os.path.lexists(self.uploads):
            beneath.make_private(self.uploads)

    def unmake(self) -> None:
        """Take back what `make` has made, as far as there is nothing in it."""
        for directory in (self.work, self.results, self.logs, self.starts, self.uploads, self.root):
            with suppress(OSError):
                directory.rmdir()

    def has(self, upload: Upload) -> bool:
        """Whether a file that a client has sent is here."""
        return os.path.lexists(self.uploads / upload.file)

    def take(self, spooled: Spooled, upload: Upload) -> None:
        """Move a received file to its place. Raises `Unavailable`, `OutOfSpace`."""
        with _storing():
            beneath.make_private(self.root)
            beneath.make_private(self.uploads)
            with beneath.directory(self.root.parent, PurePath(self.root.name, "uploads")) as uploads:
                os.rename(spooled.path, upload.file, dst_dir_fd=uploads)

    def drop(self, uploads: Iterable[Upload]) -> None:
        """Delete received files, and the directory when it held nothing else.

        What cannot be deleted now stays until the whole directory goes.
        """
        names = [upload.file for upload in uploads]
        if not names:
            return
        for name in names:
            try:
                with beneath.directory(self.root.parent, PurePath(self.root.name, "uploads")) as directory:
                    os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                pass
            except OSError as error:
                _log.warning("upload %s cannot be deleted now: %s", name, error)
        with suppress(OSError), beneath.directory(self.root.parent, PurePath(self.root.name)) as directory:
            os.rmdir("uploads", dir_fd=directory)
            self.root.rmdir()  # which goes if it is empty, and is no link

    def open(self, path: PurePath, *, sole: bool = True) -> BufferedReader | None:
        """Open a file in here; None when there is none that is its own: no link, no device, no pipe.

        With other names it may be somebody else's, and counts only where this need not be the ``sole`` one.
        Raises `OSError` for what may pass, and `OnOtherNode`.
        """
        if self._elsewhere:
            raise OnOtherNode(self._elsewhere.node)
        try:
            below = path.relative_to(self.root)
        except ValueError:
            return None
        return beneath.open_file(self.root.parent, self.root.name / below, sole=sole)

    def move(self, path: PurePath, to: Path) -> Path:
        """Give what is in here another place in here, which is returned. Raises `OSError`."""
        base = self.root.parent
        with (
            beneath.directory(base, path.relative_to(base).parent) as source,
            beneath.directory(base, to.relative_to(base).parent) as target,
        ):
            os.rename(path.name, to.name, src_dir_fd=source, dst_dir_fd=target)
        return to

    def result(self, result: Result) -> OwnFile:
        """Return the file of a result."""
        path = self.root / result.path
        return OwnFile(partial(self.open, path), path.name, result.media_type, result.size)

    def upload(self, upload: Upload) -> OwnFile:
        """Return a file that a client has sent."""
        find = partial(self.open, self.uploads / upload.file)
        return OwnFile(find, upload.filename or upload.file, upload.media_type, upload.size)

    def log(self, name: str) -> OwnFile:
        """Return what the program has written so far to ``stdout`` or ``stderr``."""
        return OwnFile(partial(self.open, self.logs / name), name, "text/plain")

    async def remove(self) -> None:
        """Delete the directory and all in it; deleting it again is no error. Cancelled, it is done first."""
        lock = _removals.setdefault(self.root, Lock())
        await to_the_end(asyncio.to_thread(_remove, self.root, lock))


def files_of_example(service: Service, example: Example) -> dict[str, list[OwnFile]]:
    """Return the files that an example gives to parameters, by name."""
    return {
        name: [
            # The operator's: it may lie anywhere, and have other names.
            OwnFile(
                partial(beneath.open_file, path.parent, PurePath(path.name)),
                path.name,
                "application/octet-stream",
            )
            for path in map(Path, paths)
        ]
        for name, paths in example.values.items()
        if isinstance(service.parameters[name], FileParameter)
    }


_LEASE_WIDTH = 24


class Files:
    """All job directories of a server."""

    def __init__(self, data: Path, reserve: int = RESERVE, *, jobs: Path | None = None) -> None:
        """``jobs`` is where the directories of jobs are, if not in the data directory.

        Several nodes may have it in common: each has a spool of its own there, named for its data directory.
        """
        self._reserve = reserve
        self.data: Path = data.resolve()
        """The data directory, where there are other things, too."""
        self._jobs, self._spool = self.data / "jobs", self.data / "spool"
        if jobs is not None:
            self._jobs = jobs.resolve()
            self._spool = self._jobs / f"{_SPOOL}{identity_of(self.data)}"
        self.boot: Path = self.data / "boot"
        """Tells in which run of the machine these files were last worked with."""
        self.lease: Path = self.data / "lease"
        """Tells how long programs may run that another node starts when this one is gone."""

    def prepare(self) -> None:
        """Make the directories, and throw away uploads that never were completed.

        Directories of jobs are made the server's alone. Raises `OSError`, also when one is somebody else's.
        """
        self._jobs.mkdir(mode=beneath.PRIVATE, parents=True, exist_ok=True)
        self._make_private()
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir(mode=beneath.PRIVATE)

    def _make_private(self) -> None:
        top = self._jobs.resolve()
        opened = [top] if _made_private(top, top.stat()) else []
        with os.scandir(top) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # programs go on while no server runs
                    if _made_private(path := top / entry.name, entry.stat(follow_symlinks=False)):
                        opened.append(path)
        if opened:
            _log.warning(
                "%s directories were not the server's alone, and are now: %s", len(opened), opened[0]
            )

    def of(self, job_id: str, elsewhere: OnOtherNode | None = None) -> JobDirectory:
        return JobDirectory(self._jobs / job_id, elsewhere)

    def check_room(self) -> None:
        """Raise `OutOfSpace` when less than the reserve is free: nothing new should be begun then.

        Raises `Unavailable` when that cannot be found out.
        """
        try:
            disk = os.statvfs(self._jobs)
        except OSError as error:
            raise Unavailable(f"the files of jobs cannot be reached now: {error.strerror}") from error
        if disk.f_bavail * disk.f_frsize < self._reserve:
            raise OutOfSpace(f"the disk is nearly full: less than {format_size(self._reserve)} are free")

    def existing(self) -> list[str]:
        """Return the ids of all jobs that have a directory."""
        return [entry.name for entry in os.scandir(self._jobs) if not entry.name.startswith(_SPOOL)]

    @property
    def root(self) -> Path:
        """Where the directories of jobs are."""
        return self._jobs

    def extend_lease(self, until: float) -> None:
        """Let programs run until this time of CLOCK_BOOTTIME that another node may start then.

        Written over what stood there, at the same width, it needs no room on the disk. Raises `OSError`.
        """
        file = os.open(self.lease, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, f"{until:0{_LEASE_WIDTH}.6f}\n".encode(), 0)
        finally:
            os.close(file)

    @asynccontextmanager
    async def spool(self, *, keep: bool = True, allowances: Sequence[Allowance] = ()) -> AsyncIterator[Spool]:
        """Give room for the uploads of one request; see `Spool` for ``keep`` and ``allowances``."""
        spool = Spool(self._spool, self.check_room, keep=keep, allowances=allowances)
        try:
            yield spool
        finally:
            spool.clear()


def identity_of(data: Path) -> str:
    """Return what a data directory has and no other: it is made when it is asked for first."""
    path = data / "node"
    if not path.exists():
        draft = path.with_name(f"node.{secrets.token_hex(4)}")
        draft.write_text(f"{secrets.token_hex(8)}\n")
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


def whereabouts(data: Path) -> str:
    """Return what tells a data directory from a copy of it, wherever that is, until the machine restarts."""
    status = (data / "node").stat()
    boot = Path("/proc/sys/kernel/random/boot_id")
    run = boot.read_text().strip() if boot.exists() else ""
    return f"{status.st_dev}:{status.st_ino} {run}"


def _write(file: FileIO, digest: hashlib._Hash, data: bytes) -> None:
    # By the file, not by its number: when the request is cancelled, the number soon belongs to another file.
    digest.update(data)
    view = memoryview(data)
    with _storing():
        while view:
            view = view[file.write(view) :]


def _sync(file: FileIO) -> None:
    # The log will say that it is there, and the log survives a power cut.
    with _storing():
        os.fsync(file)


@contextmanager
def _storing() -> Iterator[None]:
    """Turn what the system says into `OutOfSpace` and `Unavailable`."""
    try:
        yield
    except OSError as error:
        kind = OutOfSpace if error.errno in (ENOSPC, EDQUOT) else Unavailable
        raise kind(f"uploads cannot be stored now: {error.strerror}") from error


def _made_private(path: Path, found: os.stat_result) -> bool:
    """Whether others could look into a directory up to now. Raises `OSError`, also when it is another's."""
    if not stat.S_ISDIR(found.st_mode):
        _log.warning("%s is no directory: nothing is read through it", path)
        return False
    if found.st_uid != (user := os.geteuid()):
        reason = f"it belongs to user {found.st_uid}, and the server is user {user}"
        raise PermissionError(EPERM, f"{reason}: run it as that one, or chown -R {user} this", str(path))
    if stat.S_IMODE(found.st_mode) & 0o777 == beneath.PRIVATE:
        return False
    beneath.make_private(path)
    return True


def _remove(root: Path, lock: Lock) -> None:
    """Delete a directory and all in it, one at a time. Raises `OSError`."""
    with lock:
        beneath.remove(root)
