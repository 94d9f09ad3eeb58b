"""The benchmarks, made small: what they promise does not depend on how fast the machine is."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from benchmarks import eventstore, growth, scale
from projections import READ_MODELS


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


@pytest.mark.parametrize(("most", "status"), [(1e12, 0), (0, 1)])
def test_the_benchmark_of_scale_tells_by_its_status_whether_the_targets_were_reached(
    fonts: None, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float, status: int
) -> None:
    lines = [line._replace(least=None, most=None, ratio=None) for line in scale.SCALE]
    monkeypatch.setattr(scale, "SCALE", [lines[0]._replace(most=most), *lines[1:]])
    monkeypatch.setattr(scale, "LOAD", [line._replace(ratio=None) for line in scale.LOAD])
    out = tmp_path / "out"
    options = ["--trace", str(tmp_path / "none"), "--directory", str(tmp_path), "--output", str(out)]
    done = CliRunner().invoke(scale.app, ["--jobs", "50", *options])
    assert done.exit_code == status, done.output
    told = (out / "scale.txt").read_text()
    assert told in done.output
    rows = {
        row[0]: row[1:]
        for row in ([*map(str.strip, line.split("│")[1:-1])] for line in told.splitlines())
        if row
    }
    assert [*rows] == [line.name for line in (*scale.SCALE, *scale.LOAD)]
    assert all(float(figure.replace(",", "")) >= 0 for line in scale.SCALE for figure in rows[line.name][1:3])
    assert rows[scale.FAILED][1:3] == ["0", "0"]
    assert scale.DOCUMENT in (out / "scale.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("doing", "number"), [("starts", signal.SIGINT), ("requests", signal.SIGTERM)])
def test_the_benchmark_of_scale_leaves_nothing_when_it_is_interrupted(
    tmp_path: Path, doing: str, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--jobs", "100", "--directory", tmp_path]
    with subprocess.Popen(
        [*command, "--trace", tmp_path / "none"], stdout=subprocess.PIPE, text=True
    ) as benchmark:
        assert benchmark.stdout
        while benchmark.stdout.readline().strip() != doing:
            assert benchmark.poll() is None
        benchmark.send_signal(number)
    assert benchmark.returncode != 0
    assert not [*tmp_path.iterdir()]
