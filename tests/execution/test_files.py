"""Files on their way in, and what may go out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from io import FileIO
from pathlib import Path

import pytest

from uws import TooLarge
from uws.files import Files, JobDirectory, Spooled


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    files = Files(tmp_path)
    files.prepare()
    yield files
    assert list((tmp_path / "spool").iterdir()) == [], "an upload is left"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


ABOUT = {"name": "image", "filename": "my.fits.gz", "media_type": "application/fits"}


async def test_an_upload_is_kept_byte_for_byte_with_size_and_digest(files: Files) -> None:
    parts = [os.urandom(700_000) for _ in range(4)]
    async with files.spool() as spool:
        spooled = await spool.receive(chunks(*parts), max_size=2_800_000, **ABOUT)
        assert spooled.path.read_bytes() == b"".join(parts)
        upload = spooled.as_upload("image")
        assert (upload.size, upload.sha256) == (2_800_000, hashlib.sha256(b"".join(parts)).hexdigest())
        assert upload.file.startswith("image-")
        assert upload.file.endswith(".fits.gz")
        directory = files.of("j")
        directory.take(spooled, upload)
        assert (directory.uploads / upload.file).read_bytes() == b"".join(parts)


async def test_an_upload_is_on_disk_before_anybody_can_name_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves, from the system calls."""
    on_disk: list[tuple[int, int]] = []
    fsync = os.fsync

    def noting(file: int | FileIO) -> None:
        fsync(file)
        found = os.fstat(file if isinstance(file, int) else file.fileno())
        on_disk.append((found.st_ino, found.st_size))

    monkeypatch.setattr(os, "fsync", noting)
    async with files.spool() as spool:
        spooled = await spool.receive(chunks(bytes(1_500_000), b"end"), max_size=10**9, **ABOUT)
        assert on_disk == [(spooled.path.stat().st_ino, 1_500_003)]


async def test_an_upload_that_is_not_kept_is_known_by_its_digest_and_takes_no_room(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path, reserve=1 << 62)
    files.prepare()
    parts = [os.urandom(700_000) for _ in range(4)]
    async with files.spool(keep=False) as spool:
        spooled = await spool.receive(chunks(*parts), max_size=2_800_000, **ABOUT)
        assert (spooled.size, spooled.sha256) == (2_800_000, hashlib.sha256(b"".join(parts)).hexdigest())
        assert list((tmp_path / "spool").iterdir()) == []


async def test_a_large_upload_takes_little_memory(files: Files) -> None:
    async def many() -> AsyncIterator[bytes]:
        for _ in range(1500):
            yield b"x" * 65536

    tracemalloc.start()
    try:
        async with files.spool() as spool:
            await spool.receive(many(), max_size=10**9, **ABOUT)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


async def test_one_byte_too_many_is_refused_as_soon_as_it_comes(files: Files) -> None:
    taken = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            taken.append(1)
            yield b"x" * 1000

    async with files.spool() as spool:
        with pytest.raises(TooLarge, match=r"image: the file is larger than the maximum 5\.0 kB"):
            await spool.receive(endless(), max_size=5000, **ABOUT)
    assert len(taken) == 6


async def test_a_source_that_breaks_off_leaves_nothing(files: Files) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        raise ConnectionError

    with pytest.raises(ConnectionError):
        async with files.spool() as spool:
            await spool.receive(breaking(), max_size=10**9, **ABOUT)


async def test_an_upload_that_is_cancelled_leaves_nothing(files: Files) -> None:
    writing = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        writing.set()
        await asyncio.Event().wait()

    async def receive() -> None:
        async with files.spool() as spool:
            await spool.receive(stalling(), max_size=10**9, **ABOUT)

    task = asyncio.create_task(receive())
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("filename", "suffix"),
    [
        ("a.fits", ".fits"), ("a.tar.gz", ".tar.gz"), ("a", ""), ("", ""), ("../../etc/passwd", ""),
        ("a.b/c", ""), ("x.sh\n", ""), ("a.\u00fc", ""), (".hidden", ".hidden"), ("a.123456789", ""),
    ],
)  # fmt: skip
def test_files_get_names_of_ours_that_keep_harmless_suffixes(filename: str, suffix: str) -> None:
    file = Spooled(Path("x"), filename, "text/plain").as_upload("f").file
    assert file[: len("f-12345678")].rstrip("0123456789abcdef") == "f-"
    assert file[len("f-12345678") :] == suffix


def test_only_regular_files_that_lie_in_the_directory_are_its_own(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path / "job")
    directory.make()
    (directory.work / "file").write_text("x")
    (tmp_path / "outside").write_text("x")
    (directory.work / "link").symlink_to(tmp_path / "outside")
    (directory.work / "inner").symlink_to(directory.work / "file")
    (directory.work / "loop").symlink_to("loop")
    (directory.root / "up").symlink_to(tmp_path)
    os.mkfifo(directory.work / "pipe")
    (directory.work / "named").write_text("x")
    (directory.work / "named twice").hardlink_to(directory.work / "named")
    with directory.open(directory.work / "file") or pytest.fail("there is none") as file:
        assert file.read() == b"x"
    for path in (
        directory.work / "link",
        directory.work / "inner",
        directory.work / "loop",
        directory.work / "pipe",
        directory.work / "named",
        directory.work / "absent",
        directory.work / "nul\0",
        directory.work,
        directory.root / "up" / "outside",
        directory.work / ".." / ".." / "outside",
        tmp_path / "outside",
    ):
        assert directory.open(path) is None, path


async def test_removing_what_is_not_there_is_no_error(files: Files) -> None:
    directory = files.of("j")
    directory.make()
    await asyncio.gather(directory.remove(), directory.remove())
    assert not directory.root.exists()
    await directory.remove()


async def test_several_may_delete_one_deep_directory_at_once(files: Files) -> None:
    for name in "abc":
        directory = files.of(name)
        directory.make()
        for number in range(10):
            (directory.work / str(number) / "/".join("d" * 60)).mkdir(parents=True)
        await asyncio.gather(*(directory.remove() for _ in range(4)))
        assert not directory.root.exists()
