"""Files on their way in: named, measured, kept apart, and gone again when nothing comes of them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from lxml import html

from tests.daemon import Daemon, serving
from tests.harness import NAMESPACES, Answer, Site, job_id, running, text
from tests.web.support import (
    ECHO,
    FIELD,
    FILES,
    FORM,
    MULTIPART,
    PATIENCE,
    PHASES,
    events_of,
    multipart,
    raw,
    record,
)
from uws.model import FileParameter, Service, Upload
from uws.model import events as e


async def test_an_upload_that_cannot_be_stored_is_503_and_makes_no_job(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        (tmp_path / "spool").rmdir()
        (tmp_path / "spool").write_text("no directory")
        form = aiohttp.FormData()
        form.add_field("image", b"x", filename="x")
        answer = await site.post(site.list_url(FILES.name), form)
        assert answer.status == 503
        assert answer.text.startswith("ServiceUnavailable: uploads cannot be stored now: ")
        assert "Retry-After" in answer.headers
        assert len(await site.document(site.list_url(FILES.name))) == 0


async def test_one_request_cannot_store_more_than_its_parameters_may_hold(tmp_path: Path) -> None:
    service = Service(
        name="one", title="One", command=["true"], parameters={"f": FileParameter(max_size=1_000_000)}
    )
    async with running(tmp_path, service) as site:
        form = aiohttp.FormData()
        for _ in range(3):
            form.add_field("f", bytes(600_000), filename="x")
        answer = await site.post(site.list_url("one"), form)
        assert answer.status == 413
        assert list((tmp_path / "spool").iterdir()) == []


CONTENT = bytes(range(256)) * 10 + b"\r\n--BOUN\r\n--\r\n"


def part(name: str, content: bytes, filename: str | None = None, media_type: str | None = None) -> bytes:
    """Return a part of a multipart body; with a ``filename`` it is a file."""
    head = FIELD + f'"{name}"'.encode()
    if filename is not None:
        head += f'; filename="{filename}"'.encode()
    if media_type:
        head += f"\r\nContent-Type: {media_type}".encode()
    return head + b"\r\n\r\n" + content


async def send(site: Site, *parts: bytes, to: str = "/files/async") -> Answer:
    return await raw(site, "POST", to, multipart(*parts), Content_Type=MULTIPART)


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if not path.is_dir()]


def uploads_of(site: Site, job: str) -> list[Path]:
    return files_below(site.data / job_id(job) / "uploads")


async def nothing_is_left(site: Site) -> bool:
    """Whether there is no file and no job of a request that was refused."""
    listed = (await site.get("/files/async")).xml
    spool = site.data.parent / "spool"
    return len(listed) == 0 and list(spool.iterdir()) == [] and list(site.data.iterdir()) == []


# Ways in


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("my %22best%22 sky.fits", 'my "best" sky.fits'),
        ("%222%22", '"2"'),
        ("100%.fits", "100%.fits"),
        ("%41", "%41"),
    ],
)
async def test_a_file_is_called_what_it_was_called_before_a_browser_sent_it(
    tmp_path: Path, sent: str, kept: str
) -> None:
    async with running(tmp_path, FILES, executes=False) as site:
        job = (await send(site, part("image", CONTENT, sent), part("small", b"1", "<small>"))).location
        document = (await site.get(job, headers={"Accept": "application/json"})).body
        assert [file["filename"] for file in json.loads(document)["parameters"]] == [kept, "<small>"]
        for url in (job, f"{job}/parameters"):
            page = html.fromstring((await site.get(url, headers={"Accept": "text/html"})).body)
            links = {link.text: link.get("href") for link in page.xpath("//td[@class='value']/a")}
            assert links == {kept: f"{job}/parameters/image", "<small>": f"{job}/parameters/small"}
        values = (await site.get(f"{job}/parameters")).xml
        assert [value.text for value in values] == [f"{job}/parameters/{name}" for name in ("image", "small")]


@pytest.mark.parametrize("name", ["image", "IMAGE", "Image"])
async def test_a_part_named_like_a_file_parameter_is_its_file(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(site, part(name, CONTENT, "sky.fits", "image/fits"), part("n", b"3"))
        assert answer.status == 303
        file = await site.get(f"{answer.location}/parameters/image")
        assert (file.status, file.body) == (200, CONTENT)
        assert file.headers["Content-Type"] == "image/fits"
        assert file.headers["Content-Length"] == str(len(CONTENT))
        assert file.headers["Content-Disposition"] == "inline; filename*=UTF-8''sky.fits"


@pytest.mark.parametrize("filename", ["sky.fits", None])
@pytest.mark.parametrize("first", [True, False])
async def test_upload_names_a_part_of_the_same_request(
    tmp_path: Path, first: bool, filename: str | None
) -> None:
    parts = [part("UPLOAD", b"image,param:label"), part("label", CONTENT, filename)]
    async with running(tmp_path, FILES) as site:
        answer = await send(site, *(parts if first else reversed(parts)))
        assert answer.status == 303, answer.text
        assert (await site.get(f"{answer.location}/parameters/image")).body == CONTENT


@pytest.mark.parametrize(
    "uploads",
    [
        ["image,param:a;small,param:b"],
        ["image,param:a", "small,param:b"],
        [" IMAGE , param:a ; small,param:b; "],
        ["small,param:b;image,param:a"],
    ],
)
async def test_several_uploads_are_pairs_or_several_parameters(tmp_path: Path, uploads: list[str]) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(
            site,
            *(part("UPLOAD", pairs.encode()) for pairs in uploads),
            part("a", b"AA", "1"),
            part("b", b"BB", "2"),
        )
        assert answer.status == 303, answer.text
        assert (await site.get(f"{answer.location}/parameters/image")).body == b"AA"
        assert (await site.get(f"{answer.location}/parameters/small")).body == b"BB"


async def test_several_uploads_of_one_parameter_keep_their_order(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(
            site,
            part("UPLOAD", b"more,param:b;more,param:a"),
            part("a", b"A", "1"),
            part("b", b"B", "2"),
        )
        url = f"{answer.location}/parameters/more"
        assert [(await site.get(f"{url}/{number}")).body for number in (1, 2)] == [b"B", b"A"]
        assert (await site.get(f"{url}/3")).status == 404


@pytest.mark.parametrize(
    ("upload", "complaint"),
    [
        ("image", "UPLOAD: expected name,uri, got 'image'"),
        (",param:a", "UPLOAD: expected name,uri, got ',param:a'"),
        ("image,", "UPLOAD: expected param:LABEL or an http(s) URL, got ''"),
        ("image,a", "UPLOAD: expected param:LABEL or an http(s) URL, got 'a'"),
        (
            "image,file:///etc/passwd",
            "UPLOAD: expected param:LABEL or an http(s) URL, got 'file:///etc/passwd'",
        ),
        ("image,ftp://host/x", "UPLOAD: expected param:LABEL or an http(s) URL, got 'ftp://host/x'"),
        ("image,http://[bad", "UPLOAD: expected param:LABEL or an http(s) URL, got 'http://[bad'"),
        ("image,http:", "UPLOAD: expected param:LABEL or an http(s) URL, got 'http:'"),
        ("image,http://h:99999/", "UPLOAD: expected param:LABEL or an http(s) URL, got 'http://h:99999/'"),
        ("image,param:other", "UPLOAD: there is no part 'other' in this request"),
        ("image,param:A", "UPLOAD: there is no part 'A' in this request"),
        ("imag,param:a", "imag: no file parameter (did you mean image?); files: image, small, more"),
        ("n,param:a", "n: no file parameter; files: image, small, more"),
        ("image,param:a;small,param:a", "UPLOAD: the part 'a' can be only one parameter's file"),
    ],
)
async def test_a_malformed_upload_is_refused(tmp_path: Path, upload: str, complaint: str) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(site, part("UPLOAD", upload.encode()), part("a", CONTENT, "x"))
        assert (answer.status, answer.text) == (400, f"UsageFault: {complaint}\n")
        assert await nothing_is_left(site)


async def test_put_of_a_file_sets_it(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files", n=1)
        url = f"{job}/parameters/Image"
        answer = await site.request("PUT", url, data=CONTENT, headers={"Content-Type": "image/fits"})
        assert answer.status == 204
        file = await site.get(url)
        assert (file.body, file.headers["Content-Type"]) == (CONTENT, "image/fits")


async def test_a_file_can_be_added_to_a_pending_job(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files")
        answer = await send(site, part("image", CONTENT, "x"), part("PHASE", b"RUN"), to=urlsplit(job).path)
        assert (answer.status, answer.location) == (303, job)
        await site.ended(job)
        assert (await site.get(f"{job}/results/out")).body == CONTENT


# Size


@pytest.mark.parametrize("size", [99, 100, 101])
@pytest.mark.parametrize("way", ["part", "label", "put"])
async def test_max_size_is_the_largest_size(tmp_path: Path, way: str, size: int) -> None:
    content = b"x" * size
    async with running(tmp_path, FILES) as site:
        job = await site.create("files")
        if way == "put":
            answer = await site.request("PUT", f"{job}/parameters/small", data=content)
        elif way == "part":
            answer = await send(site, part("small", content, "x"), to=urlsplit(job).path)
        else:
            upload = part("UPLOAD", b"small,param:a")
            answer = await send(site, upload, part("a", content, "x"), to=urlsplit(job).path)
        if size <= 100:
            assert answer.status in (204, 303)
            assert (await site.get(f"{job}/parameters/small")).body == content
        else:
            assert answer.status == 413
            assert answer.text.startswith("UsageFault: small: the file is larger than the maximum 100")
            assert (await site.get(f"{job}/parameters/small")).status == 404
            assert files_below(tmp_path / "spool") == files_below(site.data) == []


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_max_size_is_enforced_while_the_file_comes(tmp_path: Path, method: str) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files")
        target = urlsplit(job).path + ("/parameters/small" if method == "PUT" else "")
        head = b"--BOUND\r\n" + part("small", b"", "x") if method == "POST" else b""
        # Who waits for the whole never answers.
        answer = await raw(
            site, method, target, head + b"x" * 200_000, rest=b"x" * 100_000, Content_Type=MULTIPART
        )
        assert answer.status == 413
        assert files_below(tmp_path / "spool") == []


# On record


async def test_digest_and_size_are_on_record_and_nothing_of_this_machine(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files", image=CONTENT)
        (created,) = await events_of(site, job)
        assert isinstance(created, e.JobCreated)
        (upload,) = created.parameters["image"]
        assert isinstance(upload, Upload)
        assert (upload.size, upload.sha256) == (len(CONTENT), sha256(CONTENT).hexdigest())
        assert upload.filename == "image"
        assert str(tmp_path) not in repr(created)
        assert (site.data / job_id(job) / "uploads" / upload.file).read_bytes() == CONTENT


async def test_a_program_gets_the_file_byte_for_byte(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.run("files", image=CONTENT)
        assert text(await site.ended(job), "phase") == "COMPLETED"
        assert (await site.get(f"{job}/results/out")).body == CONTENT


async def test_an_upload_cannot_act_as_the_user_who_opens_it(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(site, part("image", b"<script>", "page.html", "text/html"))
        file = await site.get(f"{answer.location}/parameters/image")
        assert file.headers["Content-Type"] == "text/html"
        assert file.headers["X-Content-Type-Options"] == "nosniff"
        assert file.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize("media_type", ["nonsense", "text/html; charset=\xff", "a/b\tc", None])
async def test_a_media_type_that_is_none_is_octet_stream_or_cut(
    tmp_path: Path, media_type: str | None
) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(site, part("image", CONTENT, "x", media_type))
        assert answer.status == 303
        told = (await site.get(f"{answer.location}/parameters/image")).headers["Content-Type"]
        assert told in ("application/octet-stream", "text/html", "a/b")


@pytest.mark.parametrize(
    "filename", ["../../../../tmp/x", "/etc/passwd", "..", "a/b", "-rf", "C:\\x", "x" * 300, "ü🔭.fits"]
)
async def test_a_file_name_leads_nowhere(tmp_path: Path, filename: str) -> None:
    async with running(tmp_path / "data", FILES) as site:
        answer = await send(site, part("image", CONTENT, filename))
        assert answer.status == 303
        (stored,) = uploads_of(site, answer.location)
        assert stored.parent == site.data / job_id(answer.location) / "uploads"
        assert stored.name.startswith("image-")
        assert len(stored.name) < 40
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        assert (await site.get(f"{answer.location}/parameters/image")).body == CONTENT


async def test_a_file_name_that_is_not_utf_8_does_no_harm(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(site, FIELD + b'"image"; filename="\xe9\xff.fits"\r\n\r\n' + CONTENT)
        file = await site.get(f"{answer.location}/parameters/image")
        assert file.body == CONTENT
        assert file.headers["Content-Disposition"] == "inline; filename*=UTF-8''%EF%BF%BD%EF%BF%BD.fits"


@pytest.mark.parametrize(
    "path", ["../uploads/x", "..%2f..%2fevents.db", "image/../../logs/stdout", "image%00", "{file}",
             "uploads/{file}", "image/0", "image/2", "image/-1", "image/1/1"],
)  # fmt: skip
async def test_an_upload_has_no_other_name_than_its_own(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files", image=CONTENT)
        (stored,) = uploads_of(site, job)
        answer = await raw(site, "GET", f"{urlsplit(job).path}/parameters/{path.format(file=stored.name)}")
        assert answer.status == 404


@pytest.mark.parametrize("identity", ["..", "../../etc", "%2e%2e", "..%2f..", ".", "spool"])
async def test_a_job_id_leads_nowhere(tmp_path: Path, identity: str) -> None:
    async with running(tmp_path, FILES) as site:
        for path in ("/parameters/image", "/results/out"):
            assert (await raw(site, "GET", f"/files/async/{identity}{path}")).status == 404


# What does not stay


async def test_a_replaced_uploads_old_file_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files", image=b"old", more=[b"1", b"2"])
        old = set(uploads_of(site, job))
        assert len(old) == 3
        await site.request("PUT", f"{job}/parameters/image", data=b"new")
        assert await send(site, part("more", b"3", "x"), to=urlsplit(job).path)
        assert set(uploads_of(site, job)).isdisjoint(old)
        assert sorted(path.read_bytes() for path in uploads_of(site, job)) == [b"3", b"new"]


async def test_an_old_file_that_cannot_be_deleted_now_keeps_no_command_from_being_answered_as_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files", image=b"old")
        (old,) = uploads_of(site, job)
        old.unlink()
        old.mkdir()  # which is not deleted like a file
        assert (await site.request("PUT", f"{job}/parameters/image", data=b"new")).status == 204
        assert (await site.get(f"{job}/parameters/image")).body == b"new"
        assert f"upload {old.name} cannot be deleted now" in caplog.text
        assert (await site.request("DELETE", job)).status == 303
        assert not old.exists()


@pytest.mark.parametrize("way", ["put", "post"])
async def test_a_file_for_a_job_that_takes_none_any_more_is_thrown_away(tmp_path: Path, way: str) -> None:
    async with running(tmp_path, FILES, executes=False) as site:
        job = await site.create("files", image=b"old")
        await record(site, job, *PHASES["EXECUTING"])
        if way == "put":
            answer = await site.request("PUT", f"{job}/parameters/image", data=b"new")
        else:
            answer = await send(site, part("image", b"new", "x"), to=urlsplit(job).path)
        assert answer.status == 403
        assert [path.read_bytes() for path in uploads_of(site, job)] == [b"old"]
        assert files_below(tmp_path / "spool") == []


@pytest.mark.parametrize(
    "parts",
    [
        [part("image", CONTENT, "x"), part("n", b"one")],
        [part("image", CONTENT, "x"), part("unknown", CONTENT, "y")],
        [part("image", CONTENT, "x"), part("unknown", b"text")],
        [part("image", CONTENT, "x"), part("image", CONTENT, "y")],
        [part("n", CONTENT, "x")],
        [part("small", CONTENT, "x")],
        [part("image", CONTENT, "x"), part("PHASE", b"NOW")],
        [part("image", CONTENT, "x"), part("DESTRUCTION", b"soon")],
        [part("small", b"", "x"), part("PHASE", b"RUN")],
    ],
)
async def test_the_files_of_a_refused_request_are_thrown_away(tmp_path: Path, parts: list[bytes]) -> None:
    async with running(tmp_path, FILES) as site:
        assert (await send(site, *parts)).status in (400, 413)
        assert await nothing_is_left(site)


async def test_text_is_no_file(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await site.post("/files/async", {"image": "/etc/passwd"}, headers={"Content-Type": FORM})
        assert (answer.status, answer.text) == (
            400,
            "UsageFault: image: expected a file: send it as a part of multipart/form-data, or by UPLOAD\n",
        )


async def test_a_service_without_files_takes_none(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await send(site, part("x", CONTENT, "file"), to="/echo/async")
        assert (answer.status, answer.text) == (400, "UsageFault: x: echo takes no files\n")


@pytest.mark.parametrize("name", ["image", "more"])
async def test_a_file_field_left_blank_is_no_file(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(site, part(name, b"", "", "application/octet-stream"), part("n", b"3"))
        assert answer.status == 303
        shown = (await site.document(answer.location)).findall(".//uws:parameter", NAMESPACES)
        assert [(p.get("id"), p.text) for p in shown] == [("n", "3")]
        assert files_below(tmp_path / "spool") == files_below(site.data) == []


async def test_an_empty_file_with_a_name_is_a_file(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await send(site, part("image", b"", "empty.fits"))
        file = await site.get(f"{answer.location}/parameters/image")
        assert (file.status, file.body) == (200, b"")


async def test_uploads_are_gone_with_their_job(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files", image=CONTENT)
        await site.request("DELETE", job)
        assert await nothing_is_left(site)


# Clients that break off


async def until(condition: Callable[[], bool]) -> None:
    """Return when something holds that other tasks bring about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("length", ["Content-Length: 500000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("way", ["POST", "PUT"])
async def test_a_client_that_breaks_off_leaves_nothing_behind(tmp_path: Path, way: str, length: str) -> None:
    async with running(tmp_path, FILES) as site:
        spool = tmp_path / "spool"
        job = await site.create("files") if way == "PUT" else ""
        target = f"{urlsplit(job).path}/parameters/image" if way == "PUT" else "/files/async"
        sent = b"x" * 100_000
        if way == "POST":
            sent = b"--BOUND\r\n" + part("n", b"1") + b"\r\n--BOUND\r\n" + part("image", sent, "sky.fits")
        if "chunked" in length:
            sent = b"%x\r\n%s\r\n" % (len(sent), sent)
        host, port = urlsplit(site.url).hostname, urlsplit(site.url).port
        _, writer = await asyncio.open_connection(host, port)
        head = f"{way} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n{length}\r\n\r\n"
        writer.write(head.encode() + sent)
        await writer.drain()
        await until(lambda: list(spool.iterdir()) != [])
        writer.transport.abort()
        await until(lambda: list(spool.iterdir()) == [])
        if job:
            assert (await site.get(f"{job}/parameters/image")).status == 404
            await site.request("DELETE", job)
        assert await nothing_is_left(site)


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"--BOUND",
        b"--BOUN",
        b'--BOUND\r\nContent-Disposition: form-data; name="n"\r\n',
        b"\r\n--OTHER--\r\n",
    ],
)
async def test_a_body_that_is_whole_but_cut_short_makes_no_job(tmp_path: Path, end: bytes) -> None:
    async with running(tmp_path, FILES) as site:
        body = multipart(part("image", CONTENT, "sky.fits"), end=end)
        answer = await raw(site, "POST", "/files/async", body, Content_Type=MULTIPART)
        assert answer.status == 400
        assert answer.text.startswith("UsageFault: ")
        assert await nothing_is_left(site)


# Memory

MEGABYTES = 1000 if os.environ.get("UWSD_LONG") else 300
DECLARATION = """
[services.sum]
title = "Digest"
command = ["sha256sum", "{file}"]
results = [{ id = "sum", path = "-" }]
[services.sum.parameters]
file = { type = "file", required = true, max_size = "2GB" }
"""


def peak_memory(server: Daemon) -> int:
    """Return the most memory that the server ever had, in bytes."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.parametrize("way", ["POST", "PUT"])
async def test_memory_stays_flat_however_large_the_upload(tmp_path: Path, way: str) -> None:
    block = os.urandom(1 << 20)
    digest = sha256()

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(MEGABYTES):
            digest.update(block)
            yield block

    file = tmp_path / "uwsd.toml"
    file.write_text(DECLARATION)
    async with serving(file, "--data", tmp_path / "data") as server:
        warm = await server.create("sum", file=block)
        before = peak_memory(server)
        if way == "POST":
            form = aiohttp.FormData()
            form.add_field("file", blocks(), filename="large")
            answer = await server.post("/sum/async", form)
            assert answer.status == 303, answer.text
            job = answer.location
        else:
            job = warm
            answer = await server.request("PUT", f"{job}/parameters/file", data=blocks())
            assert answer.status == 204, answer.text
        assert peak_memory(server) - before < 60e6
        await server.post(f"{job}/phase", {"PHASE": "RUN"})
        await server.ended(job)
        assert (await server.get(f"{job}/results/sum")).text.split()[0] == digest.hexdigest()
