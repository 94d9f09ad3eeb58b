"""What a service may say that has Slurm run its jobs, and what contradicts that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.slurm.support import in_slurm
from uws.config import load
from uws.model import DeclarationError, Limits
from uws.model.service import Slurm

FILE = '[services.a]\ntitle = "A"\ncommand = ["true"]\nexecutor = "slurm"\n'


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"sandbox": True}, '.sandbox: is for programs of this machine: leave it out, or executor = "slurm"'),
        ({"nice": 3}, '.nice: is for programs of this machine: leave it out, or executor = "slurm"'),
        (
            {"limits": Limits(memory="1GB", disk="1GB", cpu="1h")},
            ".limits.cpu: Slurm holds a job to its memory and time alone: leave it out\n"
            "services.run.limits.disk: Slurm holds a job to its memory and time alone: leave it out",
        ),
        (
            {"environment": {"SBATCH_PARTITION": "x"}},
            ".environment.SBATCH_PARTITION: variables that begin so are between Slurm and its commands",
        ),
        (
            {"executor": "local", "slurm": Slurm(partition="main")},
            '.slurm: is for jobs that Slurm runs: add executor = "slurm", or leave it out',
        ),
    ],
)
def test_what_slurm_cannot_do_is_refused_with_its_place(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        in_slurm("true", **fields)
    assert "\n".join(refused.value.problems) == f"services.run{problem}"


def test_what_slurm_is_asked_for_is_its_own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_sbatch(tmp_path, monkeypatch)
    (tmp_path / "uwsd.toml").write_text(
        FILE + '[services.a.slurm]\npartition = "short"\naccount = "vo"\ngres = "gpu:1"\ncpus = 8\n'
    )
    (service,) = load(tmp_path / "uwsd.toml").services
    assert service.slurm.options == ["--partition=short", "--account=vo", "--gres=gpu:1", "--cpus-per-task=8"]


def test_without_slurms_commands_its_services_cannot_be_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "uwsd.toml").write_text(FILE)
    with pytest.raises(DeclarationError) as refused:
        load(tmp_path / "uwsd.toml")
    assert [*refused.value.problems] == [
        "services.a.executor: there is no sbatch in PATH: install Slurm's client commands (slurm-client), "
        'or leave executor = "slurm" out'
    ]


def test_nodes_that_keep_their_jobs_files_for_themselves_have_no_jobs_in_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_sbatch(tmp_path, monkeypatch)
    node = '[node]\nurl = "http://10.0.0.2:8080"\n' + FILE
    (tmp_path / "uwsd.toml").write_text('store = "postgresql://db/uwsd"\n' + node)
    with pytest.raises(DeclarationError) as refused:
        load(tmp_path / "uwsd.toml")
    assert [*refused.value.problems] == [
        'services.a.executor: got "slurm", whose jobs need a directory that all nodes have in common: '
        'beside store, add jobs = "/nfs/uwsd", which the nodes of Slurm share, too'
    ]
    (tmp_path / "uwsd.toml").write_text('store = "postgresql://db/uwsd"\njobs = "shared"\n' + node)
    assert load(tmp_path / "uwsd.toml").store.jobs == tmp_path / "shared"


def _with_sbatch(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "sbatch").write_text("#!/bin/sh\n")
    (directory / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
