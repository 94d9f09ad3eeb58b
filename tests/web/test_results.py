"""Results: their media type and size, ranges, and that they are safe to look at."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from tests.harness import HREF, NAMESPACES, Site, job_id, running, text
from tests.web.support import ECHO, GATE, SLEEP, events_of, gate, raw
from uws import ResultDeclaration, Service
from uws.model import events as e

TEN = b"0123456789"
SEVERAL = Service(
    name="several",
    title="Several",
    command=[
        "sh",
        "-c",
        'cd "$UWS_RESULTS"; printf 0123456789 > ten.txt; : > empty.csv; echo "<script>" > page.html; '
        'printf SIMPLE > sky.fits; printf zipped > ten.txt.gz; printf x > "na me\u00e9\n.dat"; '
        "ln -s /etc/passwd link; mkfifo pipe; mkdir below; printf y > below/deep.json",
    ],
)
TYPES = {
    "ten.txt": "text/plain",
    "empty.csv": "text/csv",
    "page.html": "text/html",
    "sky.fits": "application/fits",
    "ten.txt.gz": "application/gzip",
    "na_me__.dat": "application/octet-stream",
    "below_deep.json": "application/json",
}


async def made(site: Site) -> str:
    job = await site.run("several")
    assert text(await site.ended(job), "phase") == "COMPLETED"
    return f"{job}/results"


async def test_media_type_and_size_are_told_by_document_and_answer_alike(tmp_path: Path) -> None:
    async with running(tmp_path, SEVERAL) as site:
        url = await made(site)
        results = (await site.get(url)).xml.findall("uws:result", NAMESPACES)
        assert {result.get("id"): result.get("mime-type") for result in results} == TYPES
        for result in results:
            answer = await site.get(str(result.get(HREF)))
            assert answer.status == 200
            assert answer.headers["Content-Type"] == result.get("mime-type")
            assert answer.headers["Content-Length"] == result.get("size") == str(len(answer.body))


async def test_a_declared_media_type_wins(tmp_path: Path) -> None:
    declared = Service(
        name="declared",
        title="Declared",
        command=["sh", "-c", "echo x > out.txt"],
        results=[ResultDeclaration(id="table", path="out.txt", mime="application/x-votable+xml")],
    )
    async with running(tmp_path, declared) as site:
        job = await site.run("declared")
        await site.ended(job)
        answer = await site.get(f"{job}/results/table")
        assert answer.headers["Content-Type"] == "application/x-votable+xml"


async def test_size_and_digest_are_on_record(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", x="0123456789")
        await site.ended(job)
        end = (await events_of(site, job))[-1]
        assert isinstance(end, e.JobCompleted)
        assert [(r.id, r.size, r.sha256) for r in end.results] == [("out", 10, sha256(TEN).hexdigest())]
        assert str(tmp_path) not in repr(end)


@pytest.mark.parametrize(
    ("asked", "body", "content_range"),
    [
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=2-5", b"2345", "bytes 2-5/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=5-100", b"56789", "bytes 5-9/10"),
        ("bytes=-100", TEN, "bytes 0-9/10"),
    ],
)
async def test_a_range_is_206(tmp_path: Path, asked: str, body: bytes, content_range: str) -> None:
    async with running(tmp_path, SEVERAL) as site:
        answer = await site.get(f"{await made(site)}/ten.txt", headers={"Range": asked})
        assert (answer.status, answer.body) == (206, body)
        assert answer.headers["Content-Range"] == content_range
        assert answer.headers["Content-Length"] == str(len(body))
        assert answer.headers["Content-Type"] == "text/plain"


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=999999-"])
async def test_a_range_beyond_the_end_is_416(tmp_path: Path, asked: str) -> None:
    async with running(tmp_path, SEVERAL) as site:
        answer = await site.get(f"{await made(site)}/ten.txt", headers={"Range": asked})
        assert answer.status == 416
        assert answer.headers["Content-Range"] == "bytes */10"
        assert answer.text.startswith("UsageFault: ")


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,3-4", "bytes=5-2", "lines=1-2", "bytes=", "bytes=a-b", "\u00e9"]
)
async def test_what_is_not_one_range_gets_the_whole(tmp_path: Path, asked: str) -> None:
    async with running(tmp_path, SEVERAL) as site:
        answer = await site.get(f"{await made(site)}/ten.txt", headers={"Range": asked})
        assert (answer.status, answer.body) == (200, TEN)


async def test_ranges_are_announced(tmp_path: Path) -> None:
    async with running(tmp_path, SEVERAL) as site:
        url = f"{await made(site)}/ten.txt"
        for method in ("GET", "HEAD"):
            assert (await site.request(method, url)).headers["Accept-Ranges"] == "bytes"


async def test_a_result_that_has_not_changed_is_304(tmp_path: Path) -> None:
    async with running(tmp_path, SEVERAL) as site:
        url = f"{await made(site)}/ten.txt"
        etag = (await site.get(url)).headers["Etag"]
        answer = await site.get(url, headers={"If-None-Match": etag})
        assert (answer.status, answer.body) == (304, b"")
        assert (await site.get(url, headers={"If-None-Match": '"other"'})).status == 200


async def test_an_empty_result_is_served(tmp_path: Path) -> None:
    async with running(tmp_path, SEVERAL) as site:
        url = f"{await made(site)}/empty.csv"
        answer = await site.get(url)
        assert (answer.status, answer.body) == (200, b"")
        assert (await site.get(url, headers={"Range": "bytes=0-"})).status == 416


@pytest.mark.parametrize("encoding", ["gzip", "identity", "gzip, br"])
async def test_a_compressed_neighbour_is_not_served_in_its_place(tmp_path: Path, encoding: str) -> None:
    async with running(tmp_path, SEVERAL) as site:
        url = await made(site)
        answer = await site.get(f"{url}/ten.txt", headers={"Accept-Encoding": encoding})
        assert (answer.status, answer.body) == (200, TEN)
        answer = await site.get(f"{url}/ten.txt.gz", headers={"Accept-Encoding": encoding})
        assert (answer.status, answer.body) == (200, b"zipped")
        assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("name", TYPES)
async def test_a_result_cannot_act_as_the_user_who_opens_it(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, SEVERAL) as site:
        answer = await site.get(f"{await made(site)}/{name}")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert answer.headers["Content-Disposition"].startswith("inline; filename*=UTF-8''")


async def test_a_results_file_name_cannot_break_the_headers(tmp_path: Path) -> None:
    async with running(tmp_path, SEVERAL) as site:
        answer = await site.get(f"{await made(site)}/na_me__.dat")
        assert answer.body == b"x"
        assert answer.headers["Content-Disposition"] == "inline; filename*=UTF-8''na%20me%C3%A9%0A.dat"


async def test_links_and_pipes_are_no_results(tmp_path: Path) -> None:
    async with running(tmp_path, SEVERAL) as site:
        url = await made(site)
        for name in ("link", "pipe", "below"):
            assert (await site.get(f"{url}/{name}")).status == 404


async def test_a_file_that_has_become_a_link_is_not_served(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo")
        await site.ended(job)
        file = site.data / job_id(job) / "logs" / "stdout"
        file.unlink()
        file.symlink_to("/etc/passwd")
        assert (await site.get(f"{job}/results/out")).status == 404


@pytest.mark.parametrize(
    "path", ["../work", "../logs/stdout", "..%2f..%2fevents.db", "%2e%2e/logs/stdout", "..%2flogs%2fstdout",
             "", "%2fetc%2fpasswd", "/etc/passwd", "ten.txt%00", "./ten.txt", "below/deep.json", "TEN.TXT"],
)  # fmt: skip
async def test_a_result_has_no_other_name_than_its_own(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, SEVERAL) as site:
        url = (await made(site)).removeprefix(site.url)
        answer = await raw(site, "GET", f"{url}/{path}")
        assert answer.status == 404
        assert answer.text.startswith("UsageFault: ")


async def test_a_missing_file_is_404(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo")
        await site.ended(job)
        (site.data / job_id(job) / "logs" / "stdout").unlink()
        answer = await site.get(f"{job}/results/out")
        assert (answer.status, answer.text) == (404, "UsageFault: the file stdout is missing\n")


async def test_results_are_not_there_before_the_end(tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as fifo:
        async with running(tmp_path / "data", GATE) as site:
            job = await site.run("gate", gate=fifo.path)
            await site.executing(job)
            assert len((await site.get(f"{job}/results")).xml) == 0
            fifo.let_through()
            assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_aborting_keeps_the_results_made_so_far(tmp_path: Path) -> None:
    slow = Service(
        name="slow",
        title="Makes one result, then rests",
        command=[
            "sh",
            "-c",
            'echo half > "$UWS_RESULTS/half.txt"; echo go > "$1"; exec sleep 1000',
            "slow",
            "{gate}",
        ],
        parameters=GATE.parameters,
    )
    with gate(tmp_path / "gate") as fifo:
        async with running(tmp_path / "data", slow, SLEEP) as site:
            job = await site.run("slow", gate=fifo.path)
            await fifo.heard()
            await site.post(f"{job}/phase", {"PHASE": "ABORT"})
            assert text(await site.ended(job), "phase") == "ABORTED"
            assert (await site.get(f"{job}/results/half.txt")).body == b"half\n"
