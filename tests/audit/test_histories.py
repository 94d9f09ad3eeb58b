"""`uwsd audit export JOB`: histories of single jobs, for whoever has nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import re
import signal
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from lxml import html

from eventstore import Metadata
from tests.audit.logs import (
    ANNA,
    COUNT,
    ECHO,
    ORIGIN,
    RESULT,
    audit,
    export,
    key_of,
    log_again,
    log_in,
    verify,
)
from tests.daemon import UWSD as COMMAND
from tests.daemon import serving, uwsd
from tests.disks import mounted
from tests.harness import text
from uws import Service, Upload
from uws.model import events as e
from uws.model.text import first_foreign

JOB, OTHER = "01a2db412d80", "01a2db425031"
DECLARATION = """
data = "var"
[audit]
origin = "jobs.example.org/vo"
[services.say]
title = "Say"
command = ["sh", "-c", "echo $1; sleep $2", "say", "{word}", "{seconds}"]
results = [{ id = "said", path = "-" }]
[services.say.parameters]
word = { type = "str", required = true }
seconds = { type = "int", default = 0 }
"""


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data directory with one job that was completed, and another between its events."""
    async with log_in(tmp_path / "var") as log:
        await log.create(JOB, parameters={"word": ("hello",)})
        await log.fail(OTHER)
        await log.append(JOB, e.JobStarted(declaration=ECHO.digest))
        await log.append(JOB, e.JobCompleted(results=(RESULT,)))
    return tmp_path / "var"


def digest_of(line: str) -> str:
    """The SHA-256 of a file with this line."""
    return hashlib.sha256(f"{line}\n".encode()).hexdigest()


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


def events_in(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in members(path)["history.jsonl"].splitlines()][1:]


def page_of(path: Path) -> html.HtmlElement:
    return html.document_fromstring(members(path)["history.html"].decode())


def rows(page: html.HtmlElement, caption: str) -> list[list[str]]:
    found = page.xpath("//table[caption=$caption]//tr", caption=caption)
    return [[cell.text_content() for cell in row] for row in found]


def kept(data: Path, path: Path) -> Path:
    """Keep a checkpoint of now."""
    command = [COMMAND, "audit", "checkpoint", "--data", data]
    path.write_bytes(subprocess.run(command, cwd=data, capture_output=True, check=True).stdout)
    return path


def vkey(data: Path) -> str:
    return str(key_of(data).verifier)


# What it shows


async def test_the_history_of_a_job_verifies_where_there_is_nothing_else(tmp_path: Path) -> None:
    declaration, path = tmp_path / "uwsd.toml", tmp_path / "job.zip"
    declaration.write_text(DECLARATION)
    async with serving(declaration) as server:
        job = await server.run("say", word="M 31")
        await server.ended(job)
        id_ = job.rpartition("/")[2]
        ended = await uwsd("audit", "export", id_, "-o", path, "--config", declaration)
        assert (ended.status, ended.err) == (0, "")
    key = vkey(tmp_path / "var")
    (tmp_path / "var").rename(tmp_path / "gone")
    declaration.unlink()
    shown = await verify(path, "--key", key)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith(f"job {id_}: COMPLETED\n  service   say\n")
    assert "  command   sh -c 'echo $1; sleep $2' say 'M 31' 0\n" in shown.out
    assert f"  result    said, logs/stdout, 5 B, SHA-256 {digest_of('M 31')}\n" in shown.out
    assert re.search(r"^5 events verified, of 1 job\nsigned as of position 5 [0-9a-f]{64}\n", shown.out, re.M)
    assert f" by {ORIGIN}\n" in shown.out
    unsigned = await verify(path)
    assert unsigned.status == 0
    assert unsigned.out == shown.out
    assert f"{path}: NOT PROVED who made it" in unsigned.err


async def test_it_says_who_had_the_job_aborted(tmp_path: Path) -> None:
    declaration, path = tmp_path / "uwsd.toml", tmp_path / "job.zip"
    declaration.write_text(DECLARATION)
    async with serving(declaration) as server:
        job = await server.run("say", word="long", seconds="300")
        await server.executing(job)
        id_ = job.rpartition("/")[2]
        assert (await uwsd("jobs", "abort", id_, "--config", declaration)).status == 0
        assert text(await server.ended(job), "phase") == "ABORTED"
        ended = await uwsd("audit", "export", id_, "-o", path, "--config", declaration)
        assert ended.status == 0, ended.err
    who = pwd.getpwuid(os.getuid()).pw_name
    out = (await verify(path)).out
    assert f"job {id_}: ABORTED\n" in out
    assert re.search(rf"^  stopped   \S+Z by {who}: to be stopped: it is to be aborted$", out, re.M)
    facts = dict(rows(page_of(path), "In short"))
    assert facts["phase"] == "ABORTED"
    assert facts["who had it stopped"].startswith(f"{who}, ")
    happened = {row[4]: row for row in rows(page_of(path), "Events in the order of the log")}
    assert happened["StopRequested"][2:4] == [who, "uwsd jobs abort"]


async def test_who_aborted_a_job_is_told_though_the_server_deletes_it_before_it_has_ended(
    tmp_path: Path,
) -> None:
    async with log_in(tmp_path / "var") as log:
        await log.create(JOB)
        await log.append(JOB, e.JobStarted(declaration=ECHO.digest))
        await log.append(JOB, e.StopRequested(reason="abort"), by=Metadata(actor="grace"))
        await log.append(JOB, e.StopRequested(reason="destroy"))
        await log.append(JOB, e.JobAborted(reason="its destruction time came"))
        await log.append(JOB, e.JobDestroyed(reason="its destruction time came"))
    path = await export(log.data, tmp_path / "job.zip", JOB)
    stopped = [
        ("grace", "to be stopped: it is to be aborted"),
        ("uwsd", "to be stopped: it is to be deleted"),
    ]
    out = (await verify(path)).out
    assert re.findall(r"^  stopped   \S+Z by (\w+): (.*)$", out, re.M) == stopped
    facts = [row[1] for row in rows(page_of(path), "In short") if row[0] == "who had it stopped"]
    assert [(fact.partition(",")[0], fact.partition(": ")[2]) for fact in facts] == stopped


async def test_the_page_answers_who_ran_what_with_which_parameters_and_results(
    data: Path, tmp_path: Path
) -> None:
    page = page_of(await export(data, tmp_path / "job.zip", JOB))
    facts = dict(rows(page, "In short"))
    assert (facts["owner"], facts["service"], facts["phase"]) == ("anna", "echo", "COMPLETED")
    assert page.xpath("string(//section[1]//code)") == "echo -- hello"
    assert rows(page, "Parameters as they were given")[1:] == [["word", "hello", ""]]
    assert rows(page, "Results")[1:] == [["said", "logs/stdout", "text/plain", "6 B", RESULT.sha256]]
    happened = rows(page, "Events in the order of the log")[1:]
    assert [(row[2], row[5]) for row in happened] == [
        ("anna", "created"), ("anna", "queued"), ("uwsd", "started"), ("uwsd", "completed, with 1 result"),
    ]  # fmt: skip
    assert page.get("lang") == "en"
    assert page.xpath("string(//title)") == page.xpath("string(//h1)") == f"History of job {JOB}"
    assert not page.xpath("//table[not(.//th/@scope)]")


async def test_files_are_named_as_they_lie_below_the_jobs_directory(tmp_path: Path) -> None:
    image = Upload(file="image-1.fits", filename="m31.fits", size=7, sha256="ab" * 32)
    async with log_in(tmp_path / "var", [ECHO, COUNT]) as log:
        await log.create("a", parameters={"image": (image,)})
        await log.create("b", COUNT)
    path = await export(log.data, tmp_path / "jobs.zip", "a", "b")
    out = (await verify(path)).out
    assert "  command   echo -- hello --from uploads/image-1.fits\n" in out
    assert "  command   count results parameters.json\n" in out
    assert ["image", "m31.fits", f"uploads/image-1.fits, 7 B, {'ab' * 32}"] in rows(
        page_of(path), "Parameters as they were given"
    )


async def test_several_jobs_of_several_services_come_in_one_file(tmp_path: Path) -> None:
    async with log_in(tmp_path / "var", [ECHO, COUNT]) as log:
        await log.run("b", COUNT)
        await log.run("other")
        await log.fail("a")
    path = await export(log.data, tmp_path / "jobs.zip", "a", "b", "a")
    out = (await verify(path, "--key", vkey(log.data))).out
    assert out.index("job b: COMPLETED") < out.index("job a: ERROR"), "in the order of the log"
    assert "10 events verified, of 2 jobs\n" in out
    assert {event["stream"] for event in events_in(path)} == {
        "service/echo",
        "service/count",
        "job/a",
        "job/b",
    }
    assert {row[2] for row in rows(page_of(path), "Events in the order of the log")[1:]} == {"a", "b"}
    assert "the disk broke" in members(path)["history.html"].decode()


async def test_the_declaration_that_was_pinned_is_the_one_that_tells_the_command(tmp_path: Path) -> None:
    other = Service(name="echo", title="Echo", command=["printf", "{word}"], parameters=ECHO.parameters)
    async with log_in(tmp_path / "var", [other, ECHO]) as log:
        await log.run("a")
        await log.declare(other)
    path = await export(log.data, tmp_path / "job.zip", "a")
    assert "  command   echo -- hello\n" in (await verify(path)).out
    assert [event["type"] for event in events_in(path)].count("ServiceDeclared") == 1
    assert ECHO.digest in members(path)["history.html"].decode()
    assert "printf" not in members(path)["history.html"].decode()


async def test_without_its_declaration_on_record_a_history_says_so(tmp_path: Path) -> None:
    async with log_in(tmp_path / "var", []) as log:
        await log.run("a")
    path = await export(log.data, tmp_path / "job.zip", "a")
    ended = await verify(path)
    assert ended.status == 0
    assert "  command   cannot be told: its declaration is not on record\n" in ended.out
    assert "It cannot be told: its declaration is not on record." in page_of(path).text_content()


async def test_erased_events_appear_as_erased(tmp_path: Path) -> None:
    async with log_in(tmp_path / "var") as log:
        await log.run(JOB, parameters={"word": ("Xanadu",)})
        await log.append(JOB, e.JobDestroyed(reason="destroyed on request"), by=ANNA)
        await log.store.erase(f"job/{JOB}", reason="asked for by its owner", metadata=Metadata(actor="grace"))
    path = await export(log.data, tmp_path / "job.zip", JOB)
    ended = await verify(path, "--key", vkey(log.data))
    assert ended.status == 0
    assert re.match(rf"job {JOB}: erased\n  erased    \S+Z by grace: .*: asked for by its owner\n", ended.out)
    assert "5 erased, as is on record\n" in ended.out
    assert b"Xanadu" not in path.read_bytes()
    happened = rows(page_of(path), "Events in the order of the log")[1:]
    assert [row[5] for row in happened[:-1]] == ["what it held was erased"] * 5
    assert happened[-1][2] == "grace"
    assert happened[-1][5] == "the events up to version 5 were erased: asked for by its owner"


async def test_a_job_that_was_destroyed_still_says_how_it_ended(tmp_path: Path) -> None:
    async with log_in(tmp_path / "var") as log:
        await log.run(JOB)
        await log.append(JOB, e.JobArchived(reason="its destruction time came"))
        await log.append(JOB, e.JobDestroyed(reason="destroyed on request"), by=ANNA)
    out = (await verify(await export(log.data, tmp_path / "job.zip", JOB))).out
    assert out.startswith(f"job {JOB}: COMPLETED, destroyed\n")
    assert f"  result    said, logs/stdout, 6 B, SHA-256 {RESULT.sha256}\n" in out


async def test_an_export_made_again_is_the_same_but_for_the_time_of_its_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    first = members(await export(data, tmp_path / "a.zip", JOB, OTHER))
    second = members(await export(data, tmp_path / "b.zip", OTHER, JOB))
    notes = [one.pop("checkpoint").decode().split("\n") for one in (first, second)]
    assert first == second
    assert [*first] == ["README.txt", "history.jsonl", "history.html"]
    assert notes[0][:3] + notes[0][4:5] == notes[1][:3] + notes[1][4:5]
    listed = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in first.items())
    assert notes[0][4] == f"history {hashlib.sha256(listed.encode()).hexdigest()}"


HOSTILE = (
    "</code></pre><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "\u202egnp.exe\u2066",
    "\x1b[31mred\x07\x9b",
    "two\nlines\r\u2028",
    "]]>&amp;<!-- -->",
    'it\'s \\ "quoted" $HOME `id`',
)


async def test_hostile_values_are_text_and_nothing_else(tmp_path: Path) -> None:
    async with log_in(tmp_path / "var") as log:
        for number, value in enumerate(HOSTILE):
            await log.run(f"j{number}", parameters={"word": (value,)}, run_id=value)
            image = Upload(file="f", filename=value, size=1, sha256="00", source=value)
            await log.append(f"j{number}", e.JobLost(reason=value), by=Metadata(actor=value, client=value))
            await log.append(f"j{number}", e.ParametersSet(parameters={"image": (image,)}))
    path = await export(log.data, tmp_path / "job.zip", *(f"j{n}" for n in range(len(HOSTILE))))
    source = members(path)["history.html"].decode()
    page = html.document_fromstring(source)
    assert {element.tag for element in page.iter()} == {
        "html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "p", "pre",
        "code", "table", "caption", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert {name for element in page.iter() for name in element.attrib} == {
        "lang", "charset", "http-equiv", "content", "class", "scope",
    }  # fmt: skip
    assert page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content") == [
        "default-src 'none'; style-src 'unsafe-inline'"
    ]
    ended = await verify(path)
    assert ended.status == 0
    for shown in (source, ended.out):
        assert all(character.isprintable() or character == "\n" for character in shown)
    values = [row[1] for row in rows(page, "Parameters as they were given") if row[0] == "word"]
    assert values[:3] == [*HOSTILE[:3]]
    assert values[3:6] == [r"\u202egnp.exe\u2066", r"\x1b[31mred\x07\x9b", r"two\nlines\r\u2028"]
    assert "It cannot be told: word: " in page.text_content(), "no program gets a control character"
    run = [value for value in HOSTILE if first_foreign(value) is None]
    for value, code in zip(run, page.xpath("//section//code"), strict=True):
        argv = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {code.text_content()}"], capture_output=True, check=True,
            env={"LC_ALL": "C.UTF-8", **os.environ},
        )  # fmt: skip
        assert argv.stdout.decode().split("\0")[2] == value, "the command line as one would type it"


async def test_a_huge_history_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    reports = 10_000
    async with log_in(tmp_path / "var") as log:
        for job, count in (("small", 100), ("huge", reports)):
            await log.create(job)
            told = [e.ProgressMade(fraction=n / count, text="x" * 2000) for n in range(count)]
            await log.append(job, *told)
            await log.append(job, e.JobCompleted())

    async def peak(*arguments: str | Path) -> int:
        """Return the kB of memory that a command has had at most."""
        code = (
            "import sys, resource; from uws.cli import main\n"
            "try: main()\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        command = [sys.executable, "-c", code, "audit", *arguments, "--data", log.data]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, err = await process.communicate()
        assert process.returncode == 0, err
        return int(err)

    small, huge = tmp_path / "small.zip", tmp_path / "huge.zip"
    least = await peak("export", "small", "-o", small)
    assert await peak("export", "huge", "-o", huge) - least < 15_000
    assert huge.stat().st_size > 20_000_000
    least = await peak("verify", small)
    assert await peak("verify", huge) - least < 15_000
    happened = rows(page_of(huge), "Events in the order of the log")[1:]
    assert [row[5][:20] for row in happened] == [
        "created", "queued", "0% " + "x" * 17, "9998 more reports of", "100% " + "x" * 15,
        "completed, with 0 re",
    ]  # fmt: skip


# An earlier checkpoint


async def test_a_history_leads_to_an_earlier_checkpoint(data: Path, tmp_path: Path) -> None:
    note = kept(data, tmp_path / "kept.checkpoint")
    async with log_again(data) as log:
        await log.append(JOB, e.JobDestroyed(reason="destroyed on request"), by=ANNA)
    path = await export(data, tmp_path / "job.zip", JOB, "--through", note)
    ended = await verify(path, "--key", vkey(data), "--checkpoint", note)
    assert (ended.status, ended.err) == (0, "")
    assert "10 events verified, of 1 job, 4 envelopes of others\n" in ended.out
    assert re.search(r"^up to position 9 as it was at the checkpoint of 20\S+Z$", ended.out, re.M)
    assert f"{note}: what {ORIGIN} had at position 9 on " in ended.out
    others = [event for event in events_in(path) if event["stream"] == f"job/{OTHER}"]
    assert len(others) == 4
    assert not any(event.keys() & {"salt", "metadata", "data", "data_base64"} for event in others)


async def test_whoever_has_the_key_cannot_rewrite_what_a_kept_checkpoint_saw(
    data: Path, tmp_path: Path
) -> None:
    note = kept(data, tmp_path / "kept.checkpoint")
    key = (data / "audit.key").read_bytes()
    async with log_in(tmp_path / "forged") as log:
        (log.data / "audit.key").write_bytes(key)
        await log.create(JOB, parameters={"word": ("goodbye",)})
        await log.fail(OTHER)
        await log.append(JOB, e.JobStarted(declaration=ECHO.digest), e.JobCompleted())
    forged = await export(
        log.data, tmp_path / "forged.zip", JOB, "--through", kept(log.data, tmp_path / "theirs")
    )
    assert (await verify(forged, "--key", vkey(data))).status == 0, "the server's key has signed it"
    ended = await verify(forged, "--key", vkey(data), "--checkpoint", note)
    assert (ended.status, ended.err) == (
        1, "position 9: not the event that once stood here: the log was rewritten\n",
    )  # fmt: skip


async def test_a_checkpoint_that_shows_nothing_of_a_job_is_refused(data: Path, tmp_path: Path) -> None:
    note = kept(data, tmp_path / "kept.checkpoint")
    async with log_again(data) as log:
        await log.create("late")
    path = tmp_path / "job.zip"
    ended = await audit(data, "export", "late", "--through", note, "-o", path)
    assert (ended.status, ended.err) == (
        2,
        "--through: the checkpoint is of position 9, and job late began at 10: it shows nothing of it; "
        "give a later one\n",
    )
    elsewhere = await export(data, path, "late")
    ended = await verify(elsewhere, "--key", vkey(data), "--checkpoint", note)
    assert (ended.status, ended.err) == (1, f"{elsewhere}: position 9 is not in it\n")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"Dear diary\n", "an empty line"),
        (b"\xff", "is no checkpoint, which is text"),
        (None, "No such file"),
    ],
)
async def test_what_is_no_checkpoint_of_the_log_is_refused(
    data: Path, tmp_path: Path, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "note").write_bytes(content)
    ended = await audit(data, "export", JOB, "--through", tmp_path / "note", "-o", tmp_path / "job.zip")
    assert ended.status == 2
    assert told in ended.err
    assert not (tmp_path / "job.zip").exists()


# What can be in the way


async def test_a_job_that_is_not_there_is_told(data: Path, tmp_path: Path) -> None:
    ended = await audit(data, "export", "nobody", "-o", tmp_path / "job.zip")
    assert (ended.status, ended.out, ended.err) == (2, "", "there is no job nobody\n")
    assert not (tmp_path / "job.zip").exists()


async def test_of_a_job_that_may_have_been_pruned_the_archive_is_named(data: Path, tmp_path: Path) -> None:
    async with log_again(data) as log:
        await log.append(JOB, e.JobDestroyed(reason="destroyed on request"))
    ended = await audit(data, "export", "-o", tmp_path / "first.gz", "--prune")
    assert ended.status == 0, ended.err
    ended = await audit(data, "export", JOB, "-o", tmp_path / "job.zip")
    assert (ended.status, ended.err) == (
        2,
        f"there is no job {JOB} in the log; part of the log was taken out of it: archived in first.gz\n",
    )


async def test_the_chain_does_not_lead_across_what_was_pruned(data: Path, tmp_path: Path) -> None:
    async with log_again(data) as log:
        await log.append(OTHER, e.JobDestroyed(reason="destroyed on request"))
    note = kept(data, tmp_path / "kept.checkpoint")
    assert (await audit(data, "export", "-o", tmp_path / "first.gz", "--prune")).status == 0
    ended = await audit(data, "export", JOB, "--through", note, "-o", tmp_path / "job.zip")
    assert (ended.status, ended.err) == (2, "position 4 was pruned; verify the archive that has it\n")
    assert not (tmp_path / "job.zip").exists()
    path = await export(data, tmp_path / "job.zip", JOB)
    assert (await verify(path, "--data", data)).status == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((JOB, "--until", "2026"), "--until: goes with the archive of the log, not with histories of jobs\n"),
        ((JOB, "--prune"), "--prune: goes with the archive of the log, not with histories of jobs\n"),
        (("--through", "x"), "--through: goes with histories of jobs; say which jobs\n"),
    ],
)
async def test_options_that_do_not_go_together_are_refused(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    ended = await audit(data, "export", *arguments, "-o", tmp_path / "job.zip")
    assert (ended.status, ended.err) == (2, told)
    assert not (tmp_path / "job.zip").exists()


async def test_a_file_that_is_there_is_never_overwritten(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.zip"
    path.write_text("precious")
    ended = await audit(data, "export", JOB, "-o", path)
    assert (ended.status, ended.err) == (
        2, f"{path}: there is such a file already; histories are never overwritten\n",
    )  # fmt: skip
    assert path.read_text() == "precious"


async def test_where_nothing_can_be_written_the_place_is_named(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "job.zip"
    ended = await audit(data, "export", JOB, "-o", path)
    assert (ended.status, ended.err) == (2, f"{path}: No such file or directory\n")


async def test_a_full_disk_leaves_no_half_file(data: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        disk.fill(leave=8192)
        path = disk.path / "job.zip"
        ended = await audit(data, "export", JOB, "-o", path)
        assert (ended.status, ended.err) == (2, f"{path}: No space left on device\n")
        assert os.listdir(disk.path) == ["ballast"]


async def test_interrupted_it_leaves_no_half_file(tmp_path: Path) -> None:
    async with log_in(tmp_path / "var") as log:
        await log.create(JOB)
        for _ in range(20):
            await log.append(JOB, *(e.ProgressMade(text=str(n)) for n in range(5000)))
    there = tmp_path / "there"
    there.mkdir()
    process = await asyncio.create_subprocess_exec(
        COMMAND, "audit", "export", JOB, "-o", there / "job.zip", "--data", log.data, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not os.listdir(there):
        await asyncio.sleep(0)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert os.listdir(there) == []


async def test_a_log_that_does_not_hold_is_not_signed(data: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(data / "events.db", isolation_level=None)) as other:
        other.execute("UPDATE event SET type = 'JobLost' WHERE stream = ? AND version = 2", (f"job/{OTHER}",))
    ended = await audit(data, "export", JOB, "-o", tmp_path / "job.zip")
    assert (ended.status, ended.err) == (1, "position 5: the event or one before it was changed\n")
    assert os.listdir(tmp_path) == ["var"]


# Against what is there now


async def test_results_are_held_against_what_was_recorded(data: Path, tmp_path: Path) -> None:
    path, files = await export(data, tmp_path / "job.zip", JOB), tmp_path / "files"
    ended = await verify(path, "--results", files)
    assert (ended.status, ended.err) == (2, f"{files}: there is no such directory\n")
    files.mkdir()
    told = f"result said of job {JOB}, {files / 'stdout'}: "
    ended = await verify(path, "--results", files)
    assert (ended.status, ended.err) == (1, told + "it is not there\n")
    (files / "stdout").write_text("hello\n")
    ended = await verify(path, "--results", files)
    assert ended.status == 0
    assert told + "as it was recorded\n" in ended.out
    (files / "stdout").write_text("hullo\n")
    ended = await verify(path, "--results", files)
    assert (ended.status, ended.err) == (
        1, f"{told}it was altered: its SHA-256 is {digest_of('hullo')}\n",
    )  # fmt: skip
    (files / "stdout").write_text("hello")
    ended = await verify(path, "--results", files)
    assert (ended.status, ended.err) == (1, told + "it was altered: it has 5 bytes, recorded are 6\n")
    (files / "stdout").unlink()
    (files / "said").write_text("hello\n")
    assert (await verify(path, "--results", files)).status == 0


async def test_results_of_several_jobs_lie_in_a_directory_for_each(tmp_path: Path) -> None:
    async with log_in(tmp_path / "var") as log:
        await log.run("a")
        await log.run("b")
    path = await export(log.data, tmp_path / "jobs.zip", "a", "b")
    for job in ("a", "b"):
        (tmp_path / "files" / job / "logs").mkdir(parents=True)
        (tmp_path / "files" / job / "logs" / "stdout").write_text("hello\n")
    assert (await verify(path, "--results", tmp_path / "files")).status == 0
    (tmp_path / "files" / "b" / "logs" / "stdout").write_text("jello\n")
    ended = await verify(path, "--results", tmp_path / "files")
    assert ended.status == 1
    assert "result said of job b" in ended.err


async def test_no_file_outside_of_the_directory_is_taken_for_a_result(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("hello\n")
    async with log_in(tmp_path / "var") as log:
        for job, leads in (("a", str(outside)), ("b", "../../outside")):
            await log.create(job)
            result = msgspec.structs.replace(RESULT, path=leads, id=leads)
            await log.append(job, e.JobStarted(declaration=ECHO.digest), e.JobCompleted(results=(result,)))
    (tmp_path / "files" / "a").mkdir(parents=True)
    (tmp_path / "files" / "b").mkdir()
    path = await export(log.data, tmp_path / "jobs.zip", "a", "b")
    ended = await verify(path, "--results", tmp_path / "files")
    assert ended.status == 1
    assert ended.err.count("it is not there") == 2


async def test_a_history_is_held_against_the_log_of_today(data: Path, tmp_path: Path) -> None:
    path = await export(data, tmp_path / "job.zip", JOB)
    ended = await verify(path, "--data", data)
    assert (ended.status, ended.err) == (0, "")
    assert f"the log in {data} holds all of it\n" in ended.out
    assert "not checked" not in ended.out, "the key is there, too"
    async with log_in(tmp_path / "other") as log:
        await log.run(JOB)
        await log.fail(OTHER)
    (log.data / "audit.key").write_bytes((data / "audit.key").read_bytes())
    ended = await verify(path, "--data", log.data)
    assert (ended.status, ended.err) == (
        1, "position 3: not the event that once stood here: the log was rewritten\n",
    )  # fmt: skip


async def test_results_are_asked_for_with_a_history_only(data: Path, tmp_path: Path) -> None:
    ended = await audit(data, "verify", "--results", tmp_path)
    assert (ended.status, ended.err) == (
        2,
        "--results: only a history says of which job; give its file, too\n",
    )
