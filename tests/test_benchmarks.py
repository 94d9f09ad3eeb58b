"""The benchmarks, made small: what they promise does not depend on how fast the machine is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from benchmarks import eventstore, growth


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventstore, "APPENDS", {callers: 2 * callers for callers in eventstore.APPENDS})
    monkeypatch.setattr(eventstore, "LOG", 100)
    monkeypatch.setattr(eventstore, "ERASED", 2)
    monkeypatch.setattr(growth, "made_up", lambda count, made_up=growth.made_up: made_up(count // 100))


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
    assert not [*tmp_path.iterdir()]
