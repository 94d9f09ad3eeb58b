"""`uwsd audit`: what auditors and administrators type."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from eventstore import SQLiteEventLog, SQLiteEventStore
from eventstore.archive import verify_archive, write_archive
from eventstore.checkpoint import VerifierKey, open_checkpoint
from tests.daemon import Daemon, serving, uwsd, uwsd_on_terminal
from tests.harness import text

DECLARATION = """
data = "var"
[audit]
origin = "jobs.example.org/vo"
[services.echo]
title = "Echo"
command = ["echo", "{word}"]
results = [{ id = "said", path = "-" }]
parameters = { word = { type = "str", required = true } }
lifetime = { default = "1h", max = "1h" }
"""
SECRET = "Xanadu-2718281828"
BESIDE = pytest.mark.parametrize("beside", [True, False], ids=["beside a server", "without one"])


@pytest.fixture
def declaration(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(DECLARATION)
    return path


async def ran(server: Daemon, word: str) -> str:
    """Run a job to its end and return its URL."""
    job = await server.run("echo", word=word)
    await server.ended(job)
    return job


async def audit(declaration: Path, *arguments: str | Path) -> tuple[int, str, str]:
    ended = await uwsd("audit", *arguments, "--config", declaration)
    return ended.status, ended.out, ended.err


def edit(declaration: Path, sql: str) -> None:
    with closing(sqlite3.connect(declaration.parent / "var" / "events.db", isolation_level=None)) as other:
        other.executescript(sql)


# verify


async def test_verify_tells_what_stands_and_how_fast(declaration: Path) -> None:
    async with serving(declaration) as server:
        await ran(server, "hello")
    status, out, err = await audit(declaration, "verify")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"5 events verified, [\d,]+ a second\nhead 5 [0-9a-f]{64}\n", out)


async def test_verify_shows_a_bar_on_a_terminal(declaration: Path) -> None:
    async with serving(declaration) as server:
        await ran(server, "hello")
    verified = await uwsd_on_terminal("audit", "verify", "--config", declaration)
    assert verified.out.startswith("5 events verified")
    assert "verifying" in verified.err
    assert "5/5" in verified.err


async def test_verify_works_beside_a_running_server(declaration: Path) -> None:
    async with serving(declaration) as server:
        await ran(server, "hello")
        status, out, _ = await audit(declaration, "verify")
        assert (status, out.split()[0]) == (0, "5")
        await ran(server, "again")
        status, out, _ = await audit(declaration, "verify")
        assert (status, out.split()[0]) == (0, "9")


async def test_verify_names_the_first_bad_position_and_why(declaration: Path) -> None:
    async with serving(declaration) as server:
        await ran(server, "hello")
    edit(declaration, "UPDATE event SET type = 'JobLost' WHERE position = 4")
    assert await audit(declaration, "verify") == (
        1, "", "position 4: the event or one before it was changed\n",
    )  # fmt: skip


async def test_the_data_directory_alone_will_do(declaration: Path, tmp_path: Path) -> None:
    async with serving(declaration):
        pass
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ended = await uwsd("audit", "verify", "--data", tmp_path / "var", cwd=elsewhere)
    assert (ended.status, ended.out.split()[0]) == (0, "1")


@pytest.mark.parametrize("command", ["verify", "checkpoint"])
async def test_a_log_that_is_not_there_is_told(declaration: Path, tmp_path: Path, command: str) -> None:
    status, out, err = await audit(declaration, command)
    assert (status, out) == (2, "")
    assert str(tmp_path / "var" / "events.db") in err
    assert not (tmp_path / "var").exists()


# Checkpoints


async def test_a_checkpoint_is_signed_and_proves_that_nothing_was_cut_off(
    declaration: Path, tmp_path: Path
) -> None:
    async with serving(declaration) as server:
        await ran(server, "hello")
        status, note, _ = await audit(declaration, "checkpoint")
        _, vkey, _ = await audit(declaration, "key")
        await ran(server, "again")
    assert status == 0
    assert vkey.startswith("jobs.example.org/vo+")
    kept = tmp_path / "kept.checkpoint"
    kept.write_text(note)
    checkpoint = open_checkpoint(note, VerifierKey.parse(vkey.strip()))
    assert checkpoint.head.position == 5

    status, out, _ = await audit(declaration, "verify", "--checkpoint", kept)
    assert status == 0
    assert f"{kept}: what jobs.example.org/vo had at position 5 on " in out

    edit(declaration, "DELETE FROM event WHERE position > 4")
    assert (await audit(declaration, "verify"))[0] == 0
    assert await audit(declaration, "verify", "--checkpoint", kept) == (
        1, "", "position 5: missing; the log once had 5 events, its end was cut off\n",
    )  # fmt: skip


async def test_a_log_written_anew_is_found(declaration: Path, tmp_path: Path) -> None:
    async with serving(declaration) as server:
        await ran(server, "hello")
    _, note, _ = await audit(declaration, "checkpoint")
    kept = tmp_path / "kept.checkpoint"
    kept.write_text(note)
    (tmp_path / "var").rename(tmp_path / "before")
    async with serving(declaration) as server:
        await ran(server, "hello")
    (tmp_path / "before" / "audit.key").replace(tmp_path / "var" / "audit.key")
    assert (await audit(declaration, "verify"))[0] == 0
    status, _, err = await audit(declaration, "verify", "--checkpoint", kept)
    assert (status, err) == (
        1, "position 5: not the event that once stood here: the log was rewritten\n",
    )  # fmt: skip


async def test_a_checkpoint_that_was_changed_or_signed_by_others_is_refused(
    declaration: Path, tmp_path: Path
) -> None:
    async with serving(declaration):
        pass
    _, note, _ = await audit(declaration, "checkpoint")
    kept = tmp_path / "kept.checkpoint"
    kept.write_text(note.replace("\n1\n", "\n2\n", 1))
    status, _, err = await audit(declaration, "verify", "--checkpoint", kept)
    assert status == 2
    assert "signature" in err
    kept.write_text(note)
    (tmp_path / "var" / "audit.key").unlink()  # a new one is made
    status, _, err = await audit(declaration, "verify", "--checkpoint", kept)
    assert status == 2
    assert "key" in err


async def test_the_verifier_key_can_be_kept_elsewhere(declaration: Path, tmp_path: Path) -> None:
    async with serving(declaration):
        pass
    _, note, _ = await audit(declaration, "checkpoint")
    _, vkey, _ = await audit(declaration, "key")
    kept = tmp_path / "kept.checkpoint"
    kept.write_text(note)
    (tmp_path / "var" / "audit.key").unlink()
    status, out, err = await audit(declaration, "verify", "--checkpoint", kept, "--key", vkey.strip())
    assert (status, err) == (0, "")
    assert "is there" in out
    assert not (tmp_path / "var" / "audit.key").exists()


async def test_the_server_writes_checkpoints_from_its_start(declaration: Path, tmp_path: Path) -> None:
    async with serving(declaration) as server:
        await ran(server, "hello")
        while not list((tmp_path / "var" / "checkpoints").glob("*.checkpoint")):
            await server.get("/")
    (written,) = (tmp_path / "var" / "checkpoints").glob("*.checkpoint")
    status, out, _ = await audit(declaration, "verify", "--checkpoint", written)
    assert status == 0
    assert "is there" in out


# Erasure


@BESIDE
async def test_erase_leaves_no_trace_of_what_the_job_held(
    declaration: Path, tmp_path: Path, beside: bool
) -> None:
    async with AsyncExitStack() as running:
        server = await running.enter_async_context(serving(declaration))
        others = [await ran(server, f"word-{n}") for n in range(3)]
        job = await ran(server, SECRET)
        assert (await server.request("DELETE", job)).status == 303
        others.append(await ran(server, "word-3"))
        if not beside:
            await running.aclose()
        job_id = job.rpartition("/")[2]
        assert files_with(tmp_path / "var", SECRET) != []
        status, out, err = await audit(declaration, "erase", job_id, "--reason", "asked for by its owner")
        assert (status, err) == (0, "")
        assert out == f"job {job_id} is erased: its owner and parameters are in no file of the server\n"
        assert files_with(tmp_path / "var", SECRET) == []

    log = await SQLiteEventLog.read(tmp_path / "var" / "events.db")
    recorded = await log.read_stream(f"job/{job_id}")
    await log.close()
    *erased, last = recorded
    assert all(event.erased for event in erased)
    assert json.loads(last.data) == {"reason": "asked for by its owner", "through": len(erased)}
    assert last.about.actor
    status, out, _ = await audit(declaration, "verify")
    assert status == 0
    assert f"{len(erased)} erased and 0 pruned, as is on record\n" in out

    async with serving(declaration) as server:
        assert (await server.get(job.replace(job.split("/echo")[0], server.url))).status == 410
        for other in others:
            there = other.replace(other.split("/echo")[0], server.url)
            assert (await server.get(f"{there}/phase")).text == "COMPLETED"
    assert files_with(tmp_path / "var", SECRET) == []


def files_with(directory: Path, marker: str) -> list[Path]:
    files = [Path(root, name) for root, _, names in os.walk(directory) for name in names]
    return [path for path in files if path.is_file() and marker.encode() in path.read_bytes()]


async def test_only_destroyed_jobs_are_erased(declaration: Path) -> None:
    async with serving(declaration) as server:
        job = await ran(server, "hello")
    job_id = job.rpartition("/")[2]
    assert await audit(declaration, "erase", job_id, "--reason", "why not") == (
        2, "", f"job {job_id} is COMPLETED: only a destroyed job can be erased\n",
    )  # fmt: skip
    assert await audit(declaration, "erase", "nobody", "--reason", "why not") == (
        2, "", "there is no job nobody\n",
    )  # fmt: skip


# Archives


async def test_export_writes_an_archive_that_verifies_without_the_server(
    declaration: Path, tmp_path: Path
) -> None:
    path = tmp_path / "log.gz"
    async with serving(declaration) as server:
        await ran(server, "hello")
        status, out, err = await audit(declaration, "export", "-o", path)
    assert (status, err) == (0, "")
    assert out.startswith("5 events, positions 1 to 5\nhead 5 ")
    _, vkey, _ = await audit(declaration, "key")
    (tmp_path / "var").rename(tmp_path / "gone")
    elsewhere = await uwsd("audit", "verify", path, "--key", vkey.strip(), cwd=tmp_path / "gone")
    assert elsewhere.status == 0
    assert f"{path}: what jobs.example.org/vo had at position 5 on " in elsewhere.out
    without = await uwsd("audit", "verify", path, cwd=tmp_path / "gone")
    assert without.status == 0
    assert f"{path}: NOT PROVED who made it" in without.err
    assert elsewhere.err == ""


@BESIDE
async def test_prune_takes_destroyed_jobs_and_keeps_the_chain(
    declaration: Path, tmp_path: Path, beside: bool
) -> None:
    first, second = tmp_path / "first.gz", tmp_path / "second.gz"
    async with AsyncExitStack() as running:
        server = await running.enter_async_context(serving(declaration))
        kept = await ran(server, "kept")
        gone = await ran(server, SECRET)
        await server.request("DELETE", gone)
        if not beside:
            await running.aclose()
        _, note, _ = await audit(declaration, "checkpoint")
        before = tmp_path / "before.checkpoint"
        before.write_text(note)
        status, out, err = await audit(declaration, "export", "-o", first, "--prune")
        assert (status, err) == (0, "")
        assert "pruned: the log had " in out
        assert files_with(tmp_path / "var", SECRET) == []
        if beside:
            assert (await server.get(gone)).status == 404
            assert (await server.get(f"{kept}/phase")).text == "COMPLETED"
            assert text(await server.ended(await server.run("echo", word="more")), "phase") == "COMPLETED"

    status, out, _ = await audit(declaration, "verify", "--checkpoint", before)
    assert status == 0, out
    assert "0 erased and 5 pruned, as is on record" in out
    assert (await audit(declaration, "verify", first, "--checkpoint", before))[0] == 0

    async with serving(declaration) as server:
        here = lambda job: job.replace(job.split("/echo")[0], server.url)  # noqa: E731
        assert (await server.get(here(gone))).status == 404
        assert (await server.get(f"{here(kept)}/phase")).text == "COMPLETED"
        await ran(server, "later")
    (tmp_path / "var" / "projections.db").unlink()
    async with serving(declaration) as server:
        assert (await server.get(here(gone))).status == 404
        assert len((await server.document(server.list_url("echo"))).findall("{*}jobref")) == 2 + beside
    status, _, _ = await audit(declaration, "export", "-o", second)
    assert status == 0
    assert verify_archive(second).after == verify_archive(first).head


async def test_an_archive_without_the_servers_signature_is_refused(declaration: Path, tmp_path: Path) -> None:
    path, forged = tmp_path / "log.gz", tmp_path / "forged.gz"
    async with serving(declaration) as server:
        await ran(server, "hello")
    await audit(declaration, "export", "-o", path)
    _, vkey, _ = await audit(declaration, "key")
    log = await SQLiteEventLog.read(tmp_path / "var" / "events.db")
    await write_archive(log, forged)
    await log.close()
    assert await audit(declaration, "verify", forged, "--key", vkey.strip()) == (
        1, "", "position 5: the archive ends here without a signed checkpoint\n",
    )  # fmt: skip
    # The checkpoint of one archive does not sign another that ends there, too.
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    less = lines[2].replace(b'"type":"JobCreated"', b'"type":"JobCreated" ')
    content = b"".join([*lines[:2], less, *lines[3:-1]])
    trailer = json.loads(lines[-1]) | {"sha256": hashlib.sha256(content).hexdigest()}
    forged.write_bytes(gzip.compress(content + json.dumps(trailer).encode() + b"\n"))
    assert (await audit(declaration, "verify", forged))[0] == 0
    assert await audit(declaration, "verify", forged, "--key", vkey.strip()) == (
        1, "", "position 5: the archive ends here, but is not the one that was signed\n",
    )  # fmt: skip


async def test_a_pruning_that_the_server_has_not_signed_is_a_fault(declaration: Path, tmp_path: Path) -> None:
    async with serving(declaration) as server:
        job = await ran(server, "hello")
        await server.request("DELETE", job)
    store = await SQLiteEventStore.open(tmp_path / "var" / "events.db")
    await store.prune(6, ended_by=["JobDestroyed"], reason="archived in nothing", checkpoint="")
    await store.close()
    assert await audit(declaration, "verify") == (
        1, "", "position 6: pruned up to here without a signed checkpoint that says so\n",
    )  # fmt: skip


async def test_checkpoints_from_before_a_pruning_are_proved_by_the_archive(
    declaration: Path, tmp_path: Path
) -> None:
    path, kept = tmp_path / "log.gz", tmp_path / "kept.checkpoint"
    async with serving(declaration) as server:
        first = await ran(server, "first")
        _, note, _ = await audit(declaration, "checkpoint")
        kept.write_text(note)
        for job in (first, await ran(server, "second")):
            await server.request("DELETE", job)
    await audit(declaration, "export", "-o", path, "--prune")
    assert await audit(declaration, "verify", "--checkpoint", kept) == (
        2, "", "position 5 was pruned; verify the archive that has it\n",
    )  # fmt: skip
    status, out, _ = await audit(declaration, "verify", path, "--checkpoint", kept)
    assert status == 0
    assert f"{kept}: what jobs.example.org/vo had at position 5 on " in out


async def test_pruning_can_be_repeated_and_never_goes_beyond_what_is_archived(
    declaration: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.gz", tmp_path / "second.gz"
    async with serving(declaration) as server:
        await server.request("DELETE", await ran(server, SECRET))
        await ran(server, "kept")
    whole = tmp_path / "whole.db"
    await audit(declaration, "export", "-o", first)
    shutil.copy(tmp_path / "var" / "events.db", whole)
    for _ in range(2):
        status, out, err = await audit(declaration, "prune", first)
        assert (status, err) == (0, "")
        assert out.startswith("pruned: the log had ")
    assert files_with(tmp_path / "var", SECRET) == [], "in the read models, too"
    async with serving(declaration) as server:
        await ran(server, "later")
    await audit(declaration, "export", "-o", second, "--prune")
    assert await audit(declaration, "prune", first) == (
        2, "", f"{first}: the log was pruned up to position {verify_archive(second).head.position} already\n",
    )  # fmt: skip
    shutil.copy(whole, tmp_path / "var" / "events.db")
    (tmp_path / "var" / "projections.db").unlink()
    status, _, err = await audit(declaration, "prune", second)
    assert status == 2
    assert "the log has events since position 0 that are not in it" in err


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "\udcff"])
async def test_the_reason_of_an_erasure_is_a_line_of_text(declaration: Path, reason: str) -> None:
    assert await audit(declaration, "erase", "x", "--reason", reason) == (
        2, "", f"--reason: expected a line of text, got {reason!r}\n",
    )  # fmt: skip


async def test_without_declaration_and_data_directory_it_is_told_how_to_name_them(tmp_path: Path) -> None:
    ended = await uwsd("audit", "verify", cwd=tmp_path)
    assert (ended.status, ended.err) == (
        2,
        "uwsd.toml: there is no such file; name the declaration with --config, "
        "or the data directory with --data\n",
    )


async def test_until_is_a_time(declaration: Path, tmp_path: Path) -> None:
    async with serving(declaration):
        pass
    status, _, err = await audit(declaration, "export", "-o", tmp_path / "log.gz", "--until", "yesterday")
    assert status == 2
    assert err == "--until: 'yesterday' is not a UTC time such as 2015-10-26T09:00:00Z\n"
    status, _, err = await audit(declaration, "export", "-o", tmp_path / "log.gz", "--until", "2001")
    assert status == 2
    assert "nothing to archive" in err
