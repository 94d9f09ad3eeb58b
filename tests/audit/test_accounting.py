"""`uwsd audit usage`: what jobs used, from the log alone, and whether the read model says the same."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import sqlite3
import sys
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from lxml import etree

from tests.audit.logs import ECHO, audit, log_in
from tests.daemon import UWSD, run, serving, uwsd
from tests.harness import SHARED, ManualClock, job_id
from tests.projections.support import Player, Step, histories, log, world
from uws.audit import accounting
from uws.audit.accounting import Key, Ledger, add_up, partings
from uws.model import events as e

NASA = SHARED / "data" / "NASA-iPSC-1993-3.1-cln.swf.gz"
DECLARATION = """
data = "var"
[services.cluster]
title = "Cluster"
command = ["cat", "--", ["{file}"], ["{word}"]]
results = [{ id = "said", path = "-" }]
parameters = { file = { type = "file" }, word = { type = "str" } }
lifetime = { default = "1h", max = "1h" }
"""
TRACE = "; UnixStartTime: 749458803\n" + "".join(
    f"{n} {n * 86400} 5 {n * 10} 1 -1 -1 1 -1 -1 {n % 3 % 2} {n % 4} 1 1 -1 -1 -1 -1\n" for n in range(1, 90)
)


@pytest.fixture
def declaration(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(DECLARATION)
    return path


async def usage(declaration: Path, *arguments: str | Path) -> tuple[int, str, str]:
    ended = await uwsd("audit", "usage", *arguments, "--config", declaration)
    return ended.status, ended.out, ended.err


async def rows_of(declaration: Path, *arguments: str) -> list[dict[str, str]]:
    status, out, err = await usage(declaration, "--csv", *arguments)
    assert status == 0, err
    return list(csv.DictReader(io.StringIO(out)))


def spoil(declaration: Path, sql: str) -> None:
    (file,) = (declaration.parent / "var" / "projections").glob("usage-*.db")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.executescript(sql)


async def imported(declaration: Path, trace: Path, *options: str) -> None:
    ended = await uwsd("import", "swf", trace, "--service", "cluster", *options, "--config", declaration)
    assert ended.status == 0, ended.err
    ended = await uwsd("projections", "rebuild", "--config", declaration)
    assert ended.status == 0, ended.err


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A real trace, or where there is none a made-up one."""
    if NASA.exists():
        return NASA
    path = tmp_path / "made-up.swf.gz"
    path.write_bytes(gzip.compress(TRACE.encode()))
    return path


# The sums


async def test_the_sums_of_a_trace_are_those_of_its_file(declaration: Path, trace: Path) -> None:
    """Added up here by other means: by the fields of the lines, as the format of traces has them."""
    jobs: defaultdict[str, int] = defaultdict(int)
    failed: defaultdict[str, int] = defaultdict(int)
    seconds: defaultdict[str, float] = defaultdict(float)
    months: defaultdict[str, int] = defaultdict(int)
    start, count = 0, 0
    for line in gzip.decompress(trace.read_bytes()).decode("latin-1").splitlines():
        fields = line.split()
        if line.startswith("; UnixStartTime:"):
            start = int(fields[2])
        if line.startswith(";") or not fields or count == 9000:
            continue
        count += 1
        owner = f"user{fields[11]}"
        submitted = datetime.fromtimestamp(start + int(fields[1]), UTC)
        jobs[owner] += 1
        failed[owner] += fields[10] == "0"
        months[f"{submitted:%Y-%m}"] += 1
        if not (fields[10] == "5" and float(fields[3]) <= 0):
            seconds[owner] += max(float(fields[3]), 0)
    await imported(declaration, trace, "--jobs", str(count))

    rows = {row["owner"]: row for row in await rows_of(declaration, "--by", "owner")}
    assert {owner: int(row["jobs"]) for owner, row in rows.items()} == jobs
    assert {owner: int(row["failed"]) for owner, row in rows.items()} == failed
    assert {owner: float(row["seconds"]) for owner, row in rows.items()} == pytest.approx(seconds)
    assert {row["month"]: int(row["jobs"]) for row in await rows_of(declaration, "--by", "month")} == months
    (whole,) = await rows_of(declaration, "--by", "service")
    assert (whole["service"], int(whole["jobs"])) == ("cluster", count)
    first, second, *_ = sorted(months)
    span = ("--since", first, "--until", second)
    (month,) = await rows_of(declaration, "--by", "month", *span)
    assert (month["month"], int(month["jobs"])) == (first, months[first])
    _, _, err = await usage(declaration, "--csv")
    assert "equal to the usage read model, at position" in err


async def test_what_is_told_beside_a_server_is_in_all_forms_the_same(
    declaration: Path, tmp_path: Path
) -> None:
    async with serving(declaration) as server:
        job = await server.run("cluster", file=b"seven!!")
        await server.ended(job)
        failed = await server.run("cluster", word="/nowhere")
        await server.ended(failed)
        status, out, err = await usage(declaration, "--json")
        assert status == 0, err
        told = json.loads(out)
        (row,) = told["rows"]
        assert (row["service"], row["jobs"], row["failed"]) == ("cluster", 2, 1)
        assert (row["result_bytes"], row["upload_bytes"]) == (7, 7)
        assert row["cpu_seconds"] >= 0
        assert row["seconds"] > 0
        assert err == f"equal to the usage read model, at position {told['position']}\n"

        (nobody,) = json.loads((await usage(declaration, "--json", "--by", "owner"))[1])["rows"]
        assert nobody["owner"] is None
        (line,) = await rows_of(declaration)
        assert {name: str(value) for name, value in row.items()} == line
        status, out, _ = await usage(declaration, "--by", "owner", "--plot", tmp_path / "usage.svg")
        assert status == 0
        assert "(nobody)" in out
        assert "equal to the usage read model" in out
        assert "<svg" in (tmp_path / "usage.svg").read_text()
    await server.process.wait()
    assert (await usage(declaration))[0] == 0


async def test_owners_are_drawn_under_the_names_they_have(tmp_path: Path) -> None:
    owners = [None, "(nobody)", "$x_$", r"$\alpha$", "a\x1bb"]
    async with log_in(tmp_path / "var") as made:
        for number, owner in enumerate(owners):
            created = e.JobCreated(
                service="echo", declaration=ECHO.digest, execution_duration=60, destruction=None, owner=owner
            )
            await made.append(f"job{number}", created)
    ended = await audit(made.data, "usage", "--by", "owner", "--plot", tmp_path / "usage.svg")
    assert ended.status == 0, ended.err
    drawn = etree.parse(tmp_path / "usage.svg")
    texts = ["".join(each.itertext()) for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text[0] in "($a"] == [
        "(nobody)", r"$\alpha$", "$x_$", "(nobody)", "a\ufffdb",
    ]  # fmt: skip


async def test_a_read_model_that_was_spoilt_by_hand_is_found_out(declaration: Path, tmp_path: Path) -> None:
    made_up = tmp_path / "made-up.swf"
    made_up.write_text(TRACE)
    await imported(declaration, made_up)
    spoil(declaration, "UPDATE usage SET jobs = jobs + 1 WHERE owner = 'user2' AND phase = 'COMPLETED'")
    status, out, err = await usage(declaration, "--by", "owner")
    assert status == 1
    assert "user2" in out
    assert err == (
        "cluster, user2, COMPLETED: the log tells of 7 jobs, 3220.0 s, 0 bytes; "
        "the usage read model of 8 jobs, 3220.0 s, 0 bytes\n"
    )
    spoil(declaration, "DELETE FROM usage WHERE owner = 'user2'")
    status, _, err = await usage(declaration)
    assert status == 1
    assert err.count("the usage read model of 0 jobs, 0.0 s, 0 bytes") == len(err.splitlines()) > 0


async def test_without_a_read_model_the_log_is_added_up_all_the_same(
    declaration: Path, tmp_path: Path
) -> None:
    made_up = tmp_path / "made-up.swf"
    made_up.write_text(TRACE)
    ended = await uwsd("import", "swf", made_up, "--service", "cluster", "--config", declaration)
    assert ended.status == 0
    status, out, err = await usage(declaration, "--csv")
    assert (status, out.splitlines()[1].split(",")[:2]) == (0, ["cluster", "89"])
    assert "there is no usage read model to hold this against" in err


async def test_what_is_missing_from_the_sums_is_said(declaration: Path) -> None:
    async with serving(declaration) as server:
        jobs = [await server.run("cluster", file=b"1") for _ in range(3)]
        for job in jobs:
            await server.ended(job)
        for job in jobs[:2]:
            assert (await server.request("DELETE", job)).status == 303
        ended = await uwsd(
            "audit", "erase", job_id(jobs[0]), "--reason", "asked for", "--config", declaration
        )
        assert ended.status == 0, ended.err
        status, out, err = await usage(declaration)
        assert (status, err) == (0, "")
        assert "not counted: 1 erased jobs, and those of 0 pruned events" in out
        archived = declaration.parent / "all.gz"
        ended = await uwsd("audit", "export", "-o", archived, "--prune", "--config", declaration)
        assert ended.status == 0, ended.err
        status, out, err = await usage(declaration, "--json")
        told = json.loads(out)
        assert (status, told["erased_jobs"], told["rows"][0]["jobs"]) == (0, 0, 1)
        assert told["pruned_events"] > 6
        assert "equal to the usage read model" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--csv", "--json"), "--csv and --json: give one of them"),
        (("--plot", "x.png"), "--plot: expected the name of a file that ends in .svg, got x.png"),
        (("--since", "yesterday"), "--since: 'yesterday' is not a UTC time such as 2015-10-26T09:00:00Z"),
        ((), "there is no log"),
    ],
)
async def test_what_cannot_be_told_is_said(
    declaration: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, out, err = await usage(declaration, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


async def test_without_matplotlib_a_plot_is_refused_in_words(declaration: Path, tmp_path: Path) -> None:
    made_up = tmp_path / "made-up.swf"
    made_up.write_text(TRACE)
    await imported(declaration, made_up)
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    ended = await run(
        UWSD, "audit", "usage", "--plot", "x.svg", "--config", declaration,
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": str(Path(sys.executable).parent)},
    )  # fmt: skip
    assert ended.status == 2
    assert ended.err == "--plot: matplotlib is not installed: pip install 'uwsd[plots]'\n"


# Random histories


@settings(max_examples=40, deadline=None)
@given(history=histories)
def test_after_any_history_the_log_and_the_read_model_tell_the_same(
    history: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def play() -> None:
        clock, directory = ManualClock(), tmp_path_factory.mktemp("world")
        async with log(directory, clock) as store, world(directory, clock, store) as on:
            player = Player(on, clock)
            await player.play(history)
            await on.projector.caught_up()
            shown = (await store.head()).position
            ledger = await add_up(directory / "events.db", shown=shown)
            assert partings(ledger, await on.jobs.usage()) == []
            assert sum(sums.jobs for sums in ledger.sums.values()) == sum(
                row.jobs for row in await on.jobs.usage()
            )
            # A day later more has happened, which a read model that is behind does not show.
            behind = await on.jobs.usage()
            clock.advance(days=1)
            await player.play([(0, 1, ("create", "ada", True)), (0, 1, ("start",))])
            again = await add_up(directory / "events.db", shown=shown)
            assert partings(again, behind) == []

    asyncio.run(play())


async def test_several_processes_find_what_one_does(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log(tmp_path, clock) as store, world(tmp_path, clock, store) as on:
        player = Player(on, clock)
        for number in range(60):
            clock.advance(days=1)
            await player.play([(number, 1, ("create", f"user{number % 7}", True)), (number, 5, ("start",))])
        await on.projector.caught_up()
        alone = await add_up(tmp_path / "events.db", shown=50)
        monkeypatch.setattr(accounting, "_WORTH_A_PROCESS", 50)
        monkeypatch.setattr(accounting.os, "sched_getaffinity", lambda pid: {0, 1, 2})
        seen = []
        together = await add_up(tmp_path / "events.db", shown=50, progress=seen.append)
        assert together == alone
        assert sum(seen) == sum(sums.jobs for sums in alone.sums.values()) * 3
        early = clock.now() - timedelta(days=30)
        months = await add_up(tmp_path / "events.db", since=int(early.timestamp()) * 1_000_000)
        assert sum(sums.jobs for sums in months.sums.values()) == 30


def test_nobody_comes_first_and_all_others_by_name() -> None:
    ledger = Ledger(1)
    for owner in ("b", None, "a"):
        ledger.sums[Key("s", owner, "2026-01")] = accounting.Sums(jobs=1)
    assert list(ledger.by(lambda key: key.owner)) == [None, "a", "b"]
