"""The benchmarks, made small: what they promise does not depend on how fast the machine is."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from benchmarks import (
    crowd,
    eventstore,
    execution,
    fairness,
    feed,
    figures,
    growth,
    guard,
    hot_paths,
    measurements,
    nodes,
    quotes,
    requests,
    scale,
    suite,
)
from benchmarks.peers.dachs import read_document
from benchmarks.servers import Document
from projections import READ_MODELS
from tests.databases import needs_postgres

needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed: no instructions are counted"
)
needs_wrk = pytest.mark.skipif(
    shutil.which("wrk") is None, reason="wrk is not installed: no request is measured"
)


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let matplotlib open its fonts, which it then keeps, before a test begins."""
    sizes = [scale.Size(jobs, Path(), Path(), (), datetime.now(UTC)) for jobs in (20, 50)]
    figures = scale.Figures(lambda: {size.title: 1.0 for size in sizes})
    scale.plot(tmp_path_factory.mktemp("fonts") / "scale.svg", sizes, figures)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventstore, "APPENDS", {callers: 2 * callers for callers in eventstore.APPENDS})
    monkeypatch.setattr(eventstore, "LOG", 100)
    monkeypatch.setattr(eventstore, "ERASED", 2)
    monkeypatch.setattr(growth, "made_up", lambda count, made_up=growth.made_up: made_up(count // 100))
    for name, number in {
        "SMALLEST": 20,
        "STARTS": 1,
        "WARMING": 1,
        "REQUESTS": 5,
        "SECONDS": 0.5,
        "REBUILT_FROM": 20,
    }.items():
        monkeypatch.setattr(scale, name, number)
    for name, number in {"ROUNDS": 1, "ALONE": 2, "SLEEPERS": 3}.items():
        monkeypatch.setattr(execution, name, number)
    monkeypatch.setattr(fairness, "MADE_UP", 30)
    monkeypatch.setattr(feed, "EVENTS", 3)
    for name, number in {"APPENDS": 50, "SECONDS": 0.3, "WAKE_UPS": 5, "ASKED": 5}.items():
        monkeypatch.setattr(nodes, name, number)
    monkeypatch.setattr(requests, "ROUNDS", 1)
    monkeypatch.setattr(requests, "SECONDS", 1)
    monkeypatch.setattr(crowd, "SECONDS", {crowd.ALONE: 0.2, crowd.CROWDED: 0.5})


def rows_of(told: str) -> dict[str, list[str]]:
    """Return the cells of all tables by the first one of their row."""
    cells = ([*map(str.strip, line.split("│")[1:-1])] for line in told.splitlines())
    return {row[0]: row[1:] for row in cells if row}


@pytest.mark.parametrize(("target", "status"), [(1, 0), (1e12, 1)])
def test_the_benchmark_of_the_log_tells_by_its_status_whether_the_targets_were_reached(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: float, status: int
) -> None:
    lines = [line._replace(ratio=0, rate=0) for line in eventstore.LINES]
    monkeypatch.setattr(eventstore, "LINES", [*lines[:-1], lines[-1]._replace(rate=target / 1e6)])
    done = CliRunner().invoke(
        eventstore.app, ["--rounds", "2", "--directory", str(tmp_path), "--json", str(tmp_path / "figures")]
    )
    assert done.exit_code == status, done.output
    figures = msgspec.json.decode((tmp_path / "figures").read_bytes(), type=list[eventstore.Result])
    assert [figure.name for figure in figures] == [line.name for line in lines]
    assert all(figure.lowest <= figure.median <= figure.highest for figure in figures)
    assert all(figure.name in done.output for figure in figures)
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_the_benchmark_of_growth_tells_what_a_job_costs_and_leaves_nothing(
    small: None, tmp_path: Path
) -> None:
    done = CliRunner().invoke(growth.app, ["--trace", str(tmp_path / "none"), "--directory", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("20 jobs, made up\n100 events\n")
    assert all(f"│ {model.name} " in done.output for model in READ_MODELS)
    assert not [*tmp_path.iterdir()]


def test_the_benchmark_of_scale_tells_by_its_status_that_a_target_was_missed(
    fonts: None, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line._replace(least=None, most=None, ratio=None) for line in scale.SCALE]
    monkeypatch.setattr(scale, "SCALE", [lines[0]._replace(most=0), *lines[1:]])
    monkeypatch.setattr(scale, "LOAD", [line._replace(ratio=None) for line in scale.LOAD])
    out = tmp_path / "out"
    options = ["--trace", str(tmp_path / "none"), "--directory", str(tmp_path), "--output", str(out)]
    done = CliRunner().invoke(scale.app, ["--jobs", "50", *options])
    assert done.exit_code == 1, done.output
    told = (out / "scale.txt").read_text()
    assert told in done.output
    rows = rows_of(told)
    assert [*rows] == [line.name for line in (*scale.SCALE, *scale.LOAD)]
    assert all(float(figure.replace(",", "")) >= 0 for line in scale.SCALE for figure in rows[line.name][1:3])
    assert rows[scale.FAILED][1:3] == ["0", "0"]
    assert scale.DOCUMENT in (out / "scale.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("share", "status"), [(1e-6, 0), (1e6, 1)])
def test_the_benchmark_of_execution_tells_by_its_status_whether_the_targets_were_reached(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, status: int
) -> None:
    lines = [line._replace(ratio=None) for line in execution.COSTS]
    monkeypatch.setattr(execution, "COSTS", [lines[0]._replace(share=share), *lines[1:]])
    out = tmp_path / "out"
    options = ["--directory", str(tmp_path), "--output", str(out)]
    done = CliRunner().invoke(execution.app, ["--jobs", "8", "--slots", "2", *options])
    assert done.exit_code == status, done.output
    told = (out / "execution.txt").read_text()
    assert told in done.output
    rows = rows_of(told)
    tables = (*execution.COSTS, *execution.LEFT, *execution.SUPERVISOR)
    assert [*rows] == [line.name for line in tables]
    assert all(float(figure.replace(",", "")) > 0 for figure in rows[execution.RATE][1:4])
    assert all(rows[line.name][1] == rows[line.name][2] != "0" for line in execution.LEFT)
    assert float(rows[execution.DIRTY][1].replace(",", "")) > 0
    figures = msgspec.json.decode((out / "execution.json").read_bytes())
    assert figures[execution.RATE].keys() == {execution.FLOOR, execution.LEAST, execution.SERVER}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_benchmark_of_execution_counts_what_is_left_behind(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE) as program:
        assert execution.descendants()[program.pid] == "sleep"
        assert execution.descriptors(program.pid) == 3
        program.kill()
    assert program.pid not in execution.descendants()


@pytest.mark.parametrize(("most", "status"), [(1e12, 0), (-1, 1)])
def test_the_benchmark_of_fairness_tells_by_its_status_whether_the_targets_were_reached(
    fonts: None, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float, status: int
) -> None:
    lines = [line._replace(least=None, most=None) for line in fairness.LINES]
    monkeypatch.setattr(fairness, "LINES", [lines[0]._replace(most=most), *lines[1:]])
    out = tmp_path / "out"
    options = ["--trace", str(tmp_path / "none"), "--directory", str(tmp_path), "--output", str(out)]
    slots = ["--slots", "8", "--slots", "1"]
    done = CliRunner().invoke(fairness.app, ["--days", "1", "--day", "2", *slots, *options])
    assert done.exit_code == status, done.output
    told = (out / "fairness.txt").read_text()
    assert told in done.output
    rows = rows_of(told)
    assert [*rows] == [line.name for line in fairness.LINES]
    assert rows[fairness.RUNNING][2] == "1"
    assert 0 < float(rows[fairness.LOAD][2]) <= 1
    assert float(rows[fairness.LONGEST][2]) >= float(rows[fairness.MEAN][2]) > 0
    assert "owner, who used most time first" in (out / "fairness.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_benchmark_of_the_feed_tells_what_listeners_cost(small: None, tmp_path: Path) -> None:
    done = CliRunner().invoke(feed.app, ["--listeners", "5", "--directory", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = rows_of(done.output)
    assert [*rows] == [line.name for line in feed.LINES]
    assert rows[feed.ALL_TOLD][1:4] == ["", "", ""]
    assert all(float(rows[name][4]) > 0 for name in (feed.COMMAND, feed.ALL_TOLD, feed.OTHERS))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("most", "status"), [(1e12, 0), (0, 1)])
def test_the_benchmark_of_a_crowd_tells_by_its_status_whether_the_targets_were_reached(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float, status: int
) -> None:
    lines = [line._replace(most=None) for line in crowd.LINES]
    monkeypatch.setattr(crowd, "LINES", [lines[0]._replace(most=most), *lines[1:]])
    done = CliRunner().invoke(crowd.app, ["--slow", "6", "--waiting", "9", "--directory", str(tmp_path)])
    assert done.exit_code == status, done.output
    rows = rows_of(done.output)
    assert [*rows] == [line.name for line in crowd.LINES]
    assert all(float(figure) > 0 for figure in rows[crowd.P99][1:3])
    assert rows[crowd.SLOW][2] == "6"
    assert rows[crowd.WAITING][2] == "9"
    assert not [*tmp_path.iterdir()]


@needs_postgres
def test_the_benchmark_of_nodes_holds_several_on_a_database_against_one_on_a_file(
    small: None, tmp_path: Path
) -> None:
    done = CliRunner().invoke(nodes.app, ["--nodes", "2", "--directory", str(tmp_path)])
    rows = rows_of(done.output)
    assert [*rows] == [line.name for line in nodes.LINES], done.output
    assert all(float(figure.replace(",", "")) > 0 for figure in rows[nodes.COMMANDS][1:4])
    assert done.exit_code == (rows[nodes.MEDIAN][-1] != "yes"), done.output
    assert not [*tmp_path.iterdir()]


@needs_wrk
def test_the_benchmark_of_requests_holds_each_against_that_of_a_bare_handler(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "RATES", [line._replace(share=1e-6) for line in requests.RATES])
    out = tmp_path / "out"
    options = ["--trace", str(tmp_path / "none"), "--directory", str(tmp_path), "--output", str(out)]
    done = CliRunner().invoke(requests.app, ["--jobs", "20", *options])
    assert done.exit_code == 0, done.output
    figures = msgspec.json.decode((out / "requests.json").read_bytes())
    for kind in ("rates", "costs"):
        assert [*figures[kind]] == [line.name for line in requests.RATES]
        assert all({*of} == {requests.BARE, requests.SERVER} for of in figures[kind].values())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


APPEND, TOKEN = "append an event", "know a bearer token"


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the guard looks for the counts that are committed, of few paths: there are none yet."""
    monkeypatch.setattr(guard, "PATHS", (APPEND, TOKEN))
    monkeypatch.setattr(guard, "COMMITTED", tmp_path / "guard.json")
    return tmp_path / "guard.json"


@needs_valgrind
@pytest.mark.timeout(600)  # what is counted is slow
def test_the_guard_fails_for_a_path_that_takes_a_tenth_more_than_committed_and_tells_what_takes_less(
    committed: Path, tmp_path: Path
) -> None:
    options = ["--directory", str(tmp_path)]
    done = CliRunner().invoke(guard.app, ["--commit", *options])
    assert done.exit_code == 0, done.output
    counts = msgspec.json.decode(committed.read_bytes(), type=guard.Counts)
    counts.instructions[APPEND] = round(counts.instructions[APPEND] / 1.15)
    counts.instructions[TOKEN] = round(counts.instructions[TOKEN] * 1.15)
    committed.write_bytes(msgspec.json.encode(counts))
    done = CliRunner().invoke(guard.app, options)
    assert done.exit_code == 1, done.output
    rows = rows_of(done.output)
    assert [rows[name][-1] for name in (APPEND, TOKEN)] == ["no", "yes"]
    assert f"better by more than 10%: {TOKEN}; commit" in done.output
    assert [path.name for path in tmp_path.iterdir()] == [committed.name]


@needs_valgrind
@pytest.mark.timeout(600)  # what is counted is slow
@pytest.mark.skipif(
    not (guard.ROOT / ".git").exists(), reason="this is no checkout: no other revision is counted"
)
def test_the_guard_counts_another_revision_where_the_committed_counts_are_not_for_here(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATHS", (APPEND,))
    monkeypatch.setattr(guard, "last_committed", lambda: "HEAD")
    committed.write_bytes(msgspec.json.encode(guard.Counts({"python": "2.7"}, {})))
    done = CliRunner().invoke(guard.app, ["--directory", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "the committed counts are not for here: machine none there" in done.output
    assert all(int(cell.replace(",", "")) > 10_000 for cell in rows_of(done.output)[APPEND][1:3])
    assert [path.name for path in tmp_path.iterdir()] == [committed.name]


def test_the_paths_of_the_guard_can_be_gone_through_in_a_server_that_ends_then(tmp_path: Path) -> None:
    command = [sys.executable, "-P", hot_paths.__file__, tmp_path]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(guard.ROOT)}, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = msgspec.json.decode((tmp_path / hot_paths.TOLD).read_bytes(), type=list[tuple[str, int]])
    assert [name for name, _ in told] == [name for name in guard.PATHS for _ in range(hot_paths.ROUNDS)]


def test_the_guard_says_which_counts_are_not_for_here(
    committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = guard.Counts({"python": "3.11.2", "lxml": "6.1.3", "gone": "1"}, {APPEND: 100})
    committed.write_bytes(msgspec.json.encode(counts))
    here = {"python": "3.11.2", "lxml": "6.1.4", "new": "2"}
    assert guard.committed_for(guard.Counts(here, {})) is None
    assert "not for here: lxml 6.1.3 there, 6.1.4 here; new none there, 2 here\n" in capsys.readouterr().out
    counts.environment = here
    committed.write_bytes(msgspec.json.encode(counts))
    assert guard.committed_for(guard.Counts(here, {})) == {APPEND: 100}


@pytest.mark.parametrize(
    ("installed", "options", "said"),
    [
        (False, ["--commit"], "apt install valgrind"),
        (True, [], "write one with --commit"),
        pytest.param(
            True, ["--against", "none-such"], "none-such",
            marks=pytest.mark.skipif(shutil.which("git") is None, reason="there is no git"),
        ),
    ],
)  # fmt: skip
def test_the_guard_says_what_it_lacks(
    committed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    options: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(guard, "COUNTER", "sh" if installed else "no-such-counter")
    monkeypatch.setattr(guard, "count", lambda *_: guard.Counts({}, {}))
    done = CliRunner().invoke(guard.app, [*options, "--directory", str(tmp_path)])
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.replace("│", "").split())
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = suite.QUICK._replace(
        stores=(20,), clients=(1, 16), rounds=1, alone=1, queued=2, cold=1, waiting=5, wake_ups=2,
        download=2_000_000, upload=2_000_000, listeners=3, events=2, idle=0.1,
    )  # fmt: skip
    monkeypatch.setattr(suite, "QUICK", sizes)
    monkeypatch.setattr(measurements, "SETTLED", 0)
    monkeypatch.setattr(measurements, "FUNCTIONS", {"warm function": "nothing:nothing"})


@needs_wrk
@pytest.mark.timeout(300)  # wrk asks for whole seconds, of each kind
def test_one_command_holds_everything_against_the_floor_and_writes_a_report(
    fonts: None, tiny: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text(f"Before.\n{suite.BEGIN}\nof last time\n{suite.END}\nAfter.\n")
    options = ["--quick", "--no-peer", "--trace", str(tmp_path / "none"), "--directory", str(tmp_path)]
    done = CliRunner().invoke(suite.app, [*options, "--output", str(out)])
    assert isinstance(done.exception, SystemExit | None), done.output
    report = msgspec.json.decode((out / "bench.json").read_bytes(), type=suite.Report)
    told, readme = (out / "bench.txt").read_text(), (out / "README.md").read_text()
    assert told in done.output
    assert "of last time" not in readme
    assert readme.startswith(f"Before.\n{suite.BEGIN}\n")
    assert readme.endswith(f"{suite.END}\nAfter.\n")
    assert f"- {suite.PEER}: not installed, or left out: its columns are empty\n" in readme
    assert "](floor.svg)" in readme
    assert "](clients.svg)" in readme
    missed = [figure.what for figure in report.figures if False in figure.reached]
    assert done.exit_code == bool(missed), done.output
    rows = rows_of(told)
    for figure in report.figures:
        assert figure.what in rows
        assert f"| {figure.what} | " in readme
        assert figure.samples[figures.SERVER]
        assert figure.samples.keys() <= {figures.FLOOR, figures.SERVER}
        assert all(value >= 0 for value in figure.samples[figures.SERVER]) or "beyond" in figure.what
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_ratio_of_figures_is_that_within_rounds_and_is_held_against_the_goals() -> None:
    line = figures.Line(
        "rate",
        "1/s",
        (figures.Goal(0.5, figures.FLOOR), figures.Goal(3, figures.FRESH), figures.Goal(5, at_most=True)),
    )
    measured = {figures.FLOOR: [10.0, 100.0, 10.0], figures.SERVER: [4.0, 50.0, 6.0]}
    (figure,) = figures.figures_of(
        figures.Sample(line, column, value) for column, values in measured.items() for value in values
    )
    assert figure.ratio(figures.FLOOR) == 0.5
    assert figure.ratio(figures.FRESH) is None
    assert figure.reached == [True, None, False]
    assert figure.cells() == [
        *("rate", "1/s", "10.0", "6.00", "4.00 – 50.0", "", "", "0.50", ""),
        *("≥ 0.5 × floor; ≥ 3 × peer; ≤ 5", "yes; –; no"),
    ]


def test_of_a_document_of_the_peer_the_phase_is_read() -> None:
    document = b"""<?xml-stylesheet href='/job.xsl' type='text/xsl'?>
        <uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0"><uws:phase>COMPLETED</uws:phase>
        <uws:creationTime>2026-01-01T00:00:00Z</uws:creationTime></uws:job>"""
    read = read_document(document)
    assert read.phase == "COMPLETED"
    assert read.is_over


@pytest.mark.parametrize(
    ("promised", "is_right"), [(None, False), (4, False), (5, True), (20, True), (21, False)]
)
def test_a_quote_is_right_within_a_factor_of_two(promised: float | None, is_right: bool) -> None:
    queued = datetime(2026, 1, 1, tzinfo=UTC)
    quote = None if promised is None else queued + timedelta(seconds=promised)
    quoted = Document("QUEUED", queued, quote, None, None)
    ended = Document("COMPLETED", queued, None, queued + timedelta(seconds=9), queued + timedelta(seconds=10))
    assert fairness.Replayed(growth.Run(0, 0, 1, "user1"), quoted, ended).quote_is_right is is_right


def test_the_busiest_days_of_a_trace_are_replayed_from_their_beginning() -> None:
    days = [0.5, 3.25, 4.5, 4.75, 9.5]
    runs = [growth.Run(day * 86400, 0, 8640, "user1") for day in days]
    assert fairness.busiest_days(runs, 2, 60) == [
        growth.Run(submitted, 0, 6, "user1") for submitted in (15, 90, 105)
    ]


@pytest.mark.parametrize(
    ("name", "options", "doing", "number"),
    [
        ("scale", ["--trace", "none", "--jobs", "100"], "starts", signal.SIGINT),
        ("execution", [], "round 1 of 4", signal.SIGTERM),
        ("fairness", ["--trace", "none"], "128 slots", signal.SIGTERM),
        ("feed", ["--listeners", "50"], "all, of this", signal.SIGTERM),
        ("crowd", ["--waiting", "50", "--slow", "10"], "crowded", signal.SIGTERM),
        pytest.param("guard", [], "counting this tree", signal.SIGTERM, marks=needs_valgrind),
        pytest.param(
            *(
                "suite",
                ["--quick", "--no-peer", "--trace", "none", "--jobs", "100"],
                "requests",
                signal.SIGTERM,
            ),
            marks=needs_wrk,
        ),
    ],
)
def test_a_benchmark_leaves_nothing_when_it_is_interrupted(
    tmp_path: Path, name: str, options: list[str], doing: str, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--directory", tmp_path, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout
        while benchmark.stdout.readline().strip() != doing:
            assert benchmark.poll() is None
        benchmark.send_signal(number)
    assert benchmark.returncode != 0
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(not growth.TRACE.exists(), reason="the trace is not at hand")
def test_of_the_first_jobs_of_the_trace_half_the_quotes_are_right_within_a_factor_of_two() -> None:
    done = CliRunner().invoke(quotes.app, ["--jobs", "1500"])
    assert done.exit_code == 0, done.output
    shares = [float(line.partition(": ")[2].partition("%")[0]) for line in done.output.splitlines()]
    assert len(shares) == 2
    assert all(50 <= share < 100 for share in shares)
