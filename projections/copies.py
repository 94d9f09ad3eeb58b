"""Copies of read models: for another node of the same log, which need not fold all of it then."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Protocol, cast

import msgspec

from eventstore.connection import connect_for_reading
from uws.model import UsageError

from ._shelf import Shelf, open_registry, serving_places
from ._tables import checkpoint_of
from .readmodel import ReadModel

_MANIFEST = "manifest.json"
_NAME = re.compile("[a-z_]{1,40}")


class Copied(msgspec.Struct, frozen=True):
    """A read model that was copied: its version, and up to where events are in it."""

    name: str
    version: int
    position: int


class Writable(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> object: ...


def pack(path: Path, file: Writable) -> list[Copied]:
    """Write copies of the read models that are registered at ``path`` into ``file``, as a tar archive.

    Each is of one moment, whoever writes it meanwhile. Raises `sqlite3.Error`, `OSError`.
    """
    with TemporaryDirectory(dir=path.parent) as scratch:
        copied = []
        for place, source in serving_places(path):
            target = Path(scratch, f"{place.name}.db")
            with closing(connect_for_reading(source)) as connection:
                connection.execute("VACUUM INTO ?", (str(target),))
            with closing(connect_for_reading(target)) as connection:
                copied.append(Copied(place.name, place.version, checkpoint_of(connection)[0]))
        Path(scratch, _MANIFEST).write_bytes(msgspec.json.encode(copied))
        with tarfile.open(mode="w|", fileobj=cast(IO[bytes], file)) as archive:
            for name in (_MANIFEST, *(f"{each.name}.db" for each in copied)):
                archive.add(Path(scratch, name), name)
    return copied


def unpack(file: IO[bytes], path: Path, models: Iterable[ReadModel[Any]]) -> list[Copied]:
    """Have the read models at ``path`` replaced by those that `pack` wrote; return which were.

    Those of another version than ``models`` are left out. Nobody may have them open. That they are of the
    log is seen when they are opened the next time. Raises `UsageError` for another file, `sqlite3.Error`,
    `OSError`.
    """
    by_name = {model.name: model for model in models}
    with TemporaryDirectory(dir=path.parent) as scratch:
        copied = _extracted(file, Path(scratch))
        wanted = [
            each for each in copied if each.name in by_name and by_name[each.name].version == each.version
        ]
        with closing(open_registry(path)) as registry:
            shelf = Shelf(registry, path)
            for each in wanted:
                shelf.adopt(by_name[each.name], Path(scratch, f"{each.name}.db"))
    return wanted


def _extracted(file: IO[bytes], directory: Path) -> list[Copied]:
    try:
        with tarfile.open(mode="r|", fileobj=file) as archive:
            copied: list[Copied] | None = None
            left: set[str] = set()
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    continue
                if copied is None and member.name == _MANIFEST:
                    copied = msgspec.json.decode(content.read(), type=list[Copied])
                    left = {each.name for each in copied if _NAME.fullmatch(each.name)}
                elif (name := member.name.removesuffix(".db")) in left:
                    left.remove(name)
                    with Path(directory, f"{name}.db").open("xb") as target:
                        shutil.copyfileobj(content, target)
    except (tarfile.TarError, msgspec.MsgspecError, EOFError) as error:
        raise UsageError(f"these are no copies of read models: {error}") from error
    if copied is None or left:
        raise UsageError("these are no copies of read models, or not all of them")
    return copied
