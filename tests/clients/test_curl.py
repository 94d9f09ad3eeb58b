"""A whole story as a user tells it in a shell, with curl."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lxml import etree

from tests.daemon import run, serving
from tests.harness import BasicUsers, Site, running, text
from uws import FileParameter, FloatParameter, ResultDeclaration, Service

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    reverse = Service(
        name="reverse",
        title="Reverse",
        command=["sh", "-c", 'rev "$1" > reversed; echo "times $2"', "reverse", "{lines}", "{factor}"],
        parameters={"lines": FileParameter(required=True, max_size=100), "factor": FloatParameter(default=1)},
        results=[
            ResultDeclaration(id="reversed", path="reversed", mime="text/plain"),
            ResultDeclaration(id="log", path="-"),
        ],
    )
    sleep = Service(name="sleep", title="Sleep", command=["sleep", "600"])
    async with running(tmp_path / "var", reverse, sleep, authenticator=BasicUsers()) as site:
        yield site


async def curl(*arguments: str | Path) -> tuple[int, str, bytes]:
    """Run curl; return the last status, where the request ended up or would go, and what was answered."""
    report = "\n%{http_code} %{redirect_url}"
    ended = await run(
        "curl", "--silent", "--show-error", "--max-time", "60", "--write-out", report, *arguments
    )
    assert (ended.status, ended.err) == (0, ""), ended.err
    body, _, rest = ended.out.rpartition("\n")
    status, _, where = rest.partition(" ")
    return int(status), where, body.encode()


async def test_a_user_with_curl_gets_from_a_file_to_results_and_cleans_up(site: Site, tmp_path: Path) -> None:
    lines = tmp_path / "my lines.txt"
    lines.write_text("abc\ndef\n")
    jobs = site.list_url("reverse")

    # A job, from what an HTML form would send.
    status, job, _ = await curl("-F", f"lines=@{lines}", "-F", "FACTOR=2.50", "-F", "RUNID=mine", jobs)
    assert status == 303
    assert job.startswith(f"{jobs}/")
    assert (await curl(f"{job}/phase"))[::2] == (200, b"PENDING")
    assert (await curl(f"{job}/parameters/factor"))[::2] == (200, b"2.50")
    assert (await curl(f"{job}/parameters/lines"))[::2] == (200, b"abc\ndef\n")

    # A second thought about a value, and a mistake.
    assert (await curl("-d", "factor=3", f"{job}/parameters"))[:2] == (303, job)
    assert (await curl("-T", lines, f"{job}/parameters/lines"))[0] == 204
    status, _, body = await curl("-d", "factor=many", f"{job}/parameters")
    assert (status, body.split(b":")[:2]) == (400, [b"UsageFault", b" factor"])

    # RUN, following the redirect to the job, and waiting for its end.
    status, _, body = await curl("-L", "-d", "PHASE=RUN", f"{job}/phase")
    assert status == 200
    while text(etree.fromstring(body), "phase") in ("QUEUED", "EXECUTING"):
        status, _, body = await curl(f"{job}?WAIT=30")
        assert status == 200
    document = etree.fromstring(body)
    assert (text(document, "phase"), text(document, "runId")) == ("COMPLETED", "mine")

    # The results, whole, in part, and where a download was broken off.
    url = f"{job}/results/reversed"
    assert url.encode() in body
    assert (await curl("-O", "--output-dir", tmp_path, url))[0] == 200
    assert (tmp_path / "reversed").read_text() == "cba\nfed\n"
    assert (await curl("-r", "4-6", url))[::2] == (206, b"fed")
    (tmp_path / "reversed").write_text("cba\n")
    assert (await curl("-C", "-", "-o", tmp_path / "reversed", url))[0] == 206
    assert (tmp_path / "reversed").read_text() == "cba\nfed\n"
    assert (await curl(f"{job}/results/log"))[::2] == (200, b"times 3.0\n")

    # The end.
    assert (await curl("-X", "DELETE", job))[:2] == (303, f"{jobs}?LAST=100")
    status, _, body = await curl(job)
    assert status == 410
    assert body.startswith(b"UsageFault: ")
    assert (await curl(url))[0] == 410
    assert (await curl(jobs))[2].count(b"jobref") == 0


async def test_curl_makes_and_runs_a_job_in_one_line_and_ends_at_its_document(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text("x")
    status, _, body = await curl(
        "-L", "-F", f"lines=@{tmp_path / 'lines'}", "-F", "PHASE=RUN", site.list_url("reverse")
    )
    assert status == 200
    assert text(etree.fromstring(body), "phase") in ("QUEUED", "EXECUTING", "COMPLETED")


async def test_curl_sends_a_file_as_dali_upload(site: Site, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("xyz")
    upload = ("-F", "UPLOAD=lines,param:anything", "-F", f"anything=@{tmp_path / 'lines'}")
    status, job, _ = await curl(*upload, site.list_url("reverse"))
    assert status == 303
    assert (await curl(f"{job}/parameters/lines"))[2] == b"xyz"


async def test_curl_is_refused_a_file_that_is_too_large_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate(50_000_000)
    file = tmp_path / "uwsd.toml"
    file.write_text(
        '[services.count]\ntitle = "Count"\ncommand = ["wc", "{file}"]\n'
        'parameters = { file = { type = "file", required = true, max_size = 100 } }\n'
    )
    async with serving(file) as server:
        status, _, body = await curl("-F", f"file=@{tmp_path / 'large'}", server.list_url("count"))
        assert (status, body) == (413, b"UsageFault: file: the file is larger than the maximum 100 B\n")
        assert list((tmp_path / "var" / "spool").iterdir()) == []
        assert await server.stop() == 0


async def test_curl_aborts_and_only_its_user_may(site: Site) -> None:
    me, you = ("-u", "ada:secret"), ("-u", "bob:secret")
    _, job, _ = await curl(*me, "-d", "PHASE=RUN", site.list_url("sleep"))
    assert (await curl(*you, "-d", "PHASE=ABORT", f"{job}/phase"))[0] == 403
    assert (await curl("-d", "PHASE=ABORT", f"{job}/phase"))[0] == 401
    assert (await curl(*me, "-d", "PHASE=ABORT", f"{job}/phase"))[:2] == (303, job)
    status, _, body = await curl(*me, f"{job}?WAIT=30")
    assert (status, text(etree.fromstring(body), "phase")) == (200, "ABORTED")
    assert (await curl(*me, f"{job}/owner"))[2] == b"ada"
