"""Whatever is put in the place of a job's file, and whatever name is asked for: nothing else is served."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path, PurePath
from urllib.parse import urlsplit

import pytest

from tests.execution.programs import directory_of, shell
from tests.harness import Site, job_id, running, text
from tests.swapping import KINDS, MINE, SECRET, Foreign, swapped
from tests.web.support import PATIENCE, raw, record
from uws import FileParameter, ResultDeclaration, StrParameter
from uws.beneath import directory, path_of
from uws.model import Result
from uws.model import events as e

KEEP = shell(
    'cat "$1"; cat "$1" > "$UWS_RESULTS/x.txt"',
    "{f}",
    name="keep",
    parameters={"f": FileParameter(required=True)},
    results=[ResultDeclaration(id="x", path="x.txt")],
)
DOORS = (
    "results/x",
    "results/x/preview",
    "results/x/quicklook",
    "logs/stdout",
    "logs/stdout/preview",
    "parameters/f",
)


@asynccontextmanager
async def kept(tmp_path: Path) -> AsyncIterator[tuple[Site, str]]:
    async with running(tmp_path / "data", KEEP) as site:
        job = await site.run("keep", f=MINE)
        assert text(await site.ended(job), "phase") == "COMPLETED"
        yield site, job


def file_behind(site: Site, job: str, door: str) -> Path:
    root = directory_of(site, job)
    match door.split("/"):
        case ["parameters", *_]:
            return next((root / "uploads").iterdir())
        case [kind, name, *_]:
            return root / kind / ("x.txt" if name == "x" else name)
    raise AssertionError(door)


async def in_time(site: Site, url: str) -> bytes:
    """Return what is answered, which nothing may hold up."""
    async with asyncio.timeout(PATIENCE):
        return (await site.get(url)).body


def release(path: Path) -> None:
    """Let go who waits at a pipe."""
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
async def test_whenever_a_file_is_swapped_the_other_one_is_not_served(
    tmp_path: Path, door: str, kind: str
) -> None:
    async with kept(tmp_path) as (site, job):
        path = file_behind(site, job, door)
        foreign = Foreign(directory_of(site, job), tmp_path)
        with swapped(0, lambda: None) as swap:
            await in_time(site, f"{job}/{door}")
        for number in range(1, swap.moments + 1):
            with swapped(number, lambda: foreign.swap(path, kind)):
                try:
                    body = await in_time(site, f"{job}/{door}")
                finally:
                    release(path)
            assert SECRET not in body, f"swapped at moment {number}"
            assert MINE in body or b"is missing" in body or b"gone" in body or b"image" in body
            foreign.take_back()
        assert swap.moments > 2, "files are opened by calls that this test does not see"


@pytest.mark.parametrize("kind", KINDS)
async def test_whenever_a_file_is_swapped_the_other_one_is_not_copied(tmp_path: Path, kind: str) -> None:
    async with kept(tmp_path) as (site, job):
        path = file_behind(site, job, "results/x")
        foreign = Foreign(directory_of(site, job), tmp_path)
        sent = {"UPLOAD": f"f,{job}/results/x"}
        with swapped(0, lambda: None) as swap:
            assert (await site.post(site.list_url("keep"), sent)).status == 303
        for number in range(1, swap.moments + 1):
            with swapped(number, lambda: foreign.swap(path, kind)):
                answer = await site.post(site.list_url("keep"), sent)
            if answer.status == 303:
                assert await in_time(site, f"{answer.location}/parameters/f") == MINE
            else:
                assert (answer.status, "is missing" in answer.text) == (400, True)
            foreign.take_back()
        assert swap.moments > 2


@pytest.mark.parametrize("kind", [*KINDS, "a device", "a socket", "a directory", "nothing"])
@pytest.mark.parametrize("door", DOORS)
async def test_what_is_no_file_of_the_jobs_own_is_missing(tmp_path: Path, door: str, kind: str) -> None:
    async with kept(tmp_path) as (site, job):
        path = file_behind(site, job, door)
        foreign = Foreign(directory_of(site, job), tmp_path)
        with socket.socket(socket.AF_UNIX) as server:
            if kind in KINDS:
                foreign.swap(path, kind)
            else:
                path.unlink()
                match kind:
                    case "a device":
                        try:
                            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
                        except PermissionError:
                            pytest.skip("only root can make devices")
                    case "a socket":
                        with directory(path.parent, PurePath()) as parent:  # its own path may be too long
                            server.bind(str(path_of(parent) / path.name))
                    case "a directory":
                        path.mkdir()
            for method in ("GET", "HEAD"):
                async with asyncio.timeout(PATIENCE):
                    answer = await site.request(method, f"{job}/{door}")
                assert answer.status == (405 if door.endswith("quicklook") and method == "HEAD" else 404)
                assert SECRET not in answer.body
        foreign.take_back()


@pytest.mark.parametrize("content", [b"", MINE[:-1], MINE + b"!", MINE * 1000])
@pytest.mark.parametrize("door", [door for door in DOORS if not door.startswith("logs")])
async def test_a_file_of_another_size_than_on_record_is_an_error_that_says_so(
    tmp_path: Path, door: str, content: bytes
) -> None:
    async with kept(tmp_path) as (site, job):
        file_behind(site, job, door).write_bytes(content)
        name = "f" if door == "parameters/f" else "x.txt"
        told = f"the file {name} was changed: 10 bytes are on record, and it has {len(content)}\n"
        for headers in ({}, {"Range": "bytes=0-3"}):
            answer = await site.get(f"{job}/{door}", headers=headers)
            assert (answer.status, answer.text) == (500, f"DefaultFault: {told}")
        if not door.endswith(("preview", "quicklook")):
            assert (await site.request("HEAD", f"{job}/{door}")).status == 500
            answer = await site.post(site.list_url("keep"), {"UPLOAD": f"f,{job}/{door}"})
            assert (answer.status, answer.text.endswith(told)) == (400, True)


async def test_a_file_that_is_cut_short_while_it_is_sent_ends_the_connection(tmp_path: Path) -> None:
    size = 64_000_000
    many = shell(f'head -c {size} /dev/zero > "$UWS_RESULTS/x"')
    async with running(tmp_path, many) as site:
        job = await site.run("run")
        await site.ended(job)
        address = urlsplit(site.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=65536)
        try:
            target = urlsplit(f"{job}/results/x").path
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            assert f"Content-Length: {size}".encode() in await reader.readuntil(b"\r\n\r\n")
            os.truncate(directory_of(site, job) / "results" / "x", 1_000_000)
            came = 0
            async with asyncio.timeout(PATIENCE):
                while chunk := await reader.read(1 << 20):
                    assert not chunk.strip(b"\0"), "something else follows"
                    came += len(chunk)
            assert came < size
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize(
    "path", ["../../secret", "results/../../../secret", "{secret}", "results", "", ".", "..", "a\0b", "link",
             "up/secret"],
)  # fmt: skip
async def test_a_result_on_record_leads_nowhere_else(tmp_path: Path, path: str) -> None:
    """As an event might say that was brought in from elsewhere."""
    async with running(tmp_path / "data", KEEP) as site:
        secret = site.data.parent / "secret"
        secret.write_bytes(SECRET)
        job = await site.create("keep", f=MINE)
        (directory_of(site, job) / "link").symlink_to(secret)
        (directory_of(site, job) / "up").symlink_to(secret.parent)
        result = Result(
            id="x", path=path.format(secret=secret), size=len(SECRET), sha256="", media_type="text/plain"
        )
        await record(
            site, job, e.JobQueued(), e.JobStarted(declaration=""), e.JobCompleted(results=(result,))
        )
        for door in ("results/x", "results/x/preview"):
            answer = await site.get(f"{job}/{door}")
            assert (answer.status, SECRET in answer.body) == (404, False)


UP = (
    "..",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "..%2f..",
    "..%5c..",
    "%252e%252e",
    "..%c0%af..",
    "%c0%ae%c0%ae",
    "..%00",
    "..;",
    "....//",
)
ENDS = (
    "secret",
    "events.db",
    "jobs",
    "",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "secret%00.txt",
    "secret/.",
    "x.txt",
)
PLACES = (
    "/static/{}", "/{}", "/keep/examples/{}", "/keep/examples/{}/f", "/keep/async/{}",
    "/keep/async/{}/results/x",
    "{job}/results/{}", "{job}/results/x/{}", "{job}/results/{}/preview", "{job}/results/{}/quicklook",
    "{job}/logs/{}", "{job}/logs/{}/preview", "{job}/logs/stdout/{}", "{job}/parameters/{}",
    "{job}/parameters/f/{}", "{job}/{}",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
async def test_no_name_in_no_encoding_leads_to_another_file(tmp_path: Path, place: str) -> None:
    async with kept(tmp_path) as (site, job):
        for place_of in (tmp_path, site.data.parent, site.data, directory_of(site, job)):
            (place_of / "secret").write_bytes(SECRET)
        path = urlsplit(job).path
        names = {f"{'/'.join([up] * deep)}/{end}" for up in UP for end in ENDS for deep in (1, 3)}
        names |= {f"{up}{slash}{end}" for up in UP for slash in ("%2f", "%5c", "//") for end in ENDS}
        for name in sorted(names):
            answer = await raw(site, "GET", place.replace("{job}", path).replace("{}", name))
            assert answer.status in (200, 303, 400, 403, 404), name
            for held in (SECRET, b"SQLite format", b"root:"):
                assert held not in answer.body, name


@pytest.mark.parametrize(
    "number", ["0", "2", "-1", "+1", "01x", "1.0", "1e0", "%31%2f..", "..", "0x1", "9999999", "%d9%a1"]
)
async def test_only_numbers_of_files_that_there_are_lead_to_one(tmp_path: Path, number: str) -> None:
    async with kept(tmp_path) as (site, job):
        url = urlsplit(job).path
        answer = await raw(site, "GET", f"{url}/parameters/f/{number}")
        assert (answer.status, MINE in answer.body) == (404, False)
        sent = {"UPLOAD": f"f,{job}/parameters/f/{number}"}
        assert (await site.post(site.list_url("keep"), sent)).status == 400
        assert (await raw(site, "GET", f"{url}/parameters/f/1")).body == MINE


@pytest.mark.parametrize(
    "place", ["../logs/stdout", "..%2flogs%2fstdout", "x.txt", "x/../../../secret", "%78%2f.."]
)
async def test_a_file_to_copy_has_no_other_name_than_its_own(tmp_path: Path, place: str) -> None:
    async with kept(tmp_path) as (site, job):
        answer = await site.post(site.list_url("keep"), {"UPLOAD": f"f,{job}/results/{place}"})
        assert answer.status == 400
        assert not any(
            path.name == "uploads" for path in site.data.rglob("*") if job_id(job) not in str(path)
        )


@pytest.mark.skipif(find_spec("astropy") is None, reason="astropy makes the pictures")
async def test_whenever_an_image_is_swapped_no_picture_is_made_of_the_other_one(tmp_path: Path) -> None:
    header = {"SIMPLE": "T", "BITPIX": "8", "NAXIS": "2", "NAXIS1": "60", "NAXIS2": "48"}
    cards = "".join(f"{key:8}= {value:>20}".ljust(80) for key, value in header.items()) + "END".ljust(80)
    mine, other = (
        cards.encode().ljust(2880) + bytes(pixels) * 60 for pixels in (range(48), range(47, -1, -1))
    )
    async with running(tmp_path / "data", KEEP) as site:
        job = await site.run("keep", f=mine)
        await site.ended(job)
        path = file_behind(site, job, "results/x")
        with swapped(0, lambda: None) as swap:
            picture = await in_time(site, f"{job}/results/x/quicklook")
        assert picture.startswith(b"\x89PNG")
        foreign = Foreign(directory_of(site, job), tmp_path)
        foreign.of(path).write_bytes(other)
        for number in range(1, swap.moments + 1):
            with swapped(number, lambda: foreign.swap(path, "a link")):
                body = await in_time(site, f"{job}/results/x/quicklook")
            assert body == picture or b"is missing" in body, f"swapped at moment {number}"
            foreign.take_back()
        path.write_bytes(other)
        assert (await in_time(site, f"{job}/results/x/quicklook")) != picture


async def test_what_is_taken_away_through_a_link_stays(tmp_path: Path) -> None:
    optional = shell("true", name="keep", parameters={"f": FileParameter(), "n": StrParameter()})
    async with running(tmp_path / "data", optional) as site:
        job = await site.create("keep", f=MINE)
        uploads = directory_of(site, job) / "uploads"
        (upload,) = uploads.iterdir()
        others = tmp_path / "others"
        uploads.rename(others)
        uploads.symlink_to(others)
        answer = await site.post(f"{job}/parameters", {"ACTION": "REPLACE", "n": "x"})
        assert answer.status == 303
        assert (others / upload.name).read_bytes() == MINE
