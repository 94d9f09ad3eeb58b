"""Files that appear as a whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO


@contextmanager
def published(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Give a file to write that stands at ``path`` once the context is left, complete and on disk.

    It can be read back meanwhile. When that fails, there is none. Blocks on the disk. Raises
    `FileExistsError` when there is a file already; that one is on disk, too.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(draft, "x+b", opener=partial(os.open, mode=0o600)) as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except OSError as error:
        if error.errno and str(error.filename) in ("None", str(draft)):
            error.filename, error.filename2 = str(path), None  # nobody asked for the draft
        raise
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
            _sync(path.parent)


def replace_durably(draft: Path, path: Path) -> None:
    """Put a file that is on disk in the place of another, which is on disk when this returns."""
    draft.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
