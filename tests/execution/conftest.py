"""What tests of execution wait with: a pipe that a program says through that it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.execution.programs import Pipe


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Pipe]:
    """What programs tell the test: scripts write to ``$READY``."""
    with Pipe(tmp_path / "ready") as pipe:
        yield pipe


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Pipe]:
    """What programs wait for: scripts read from ``$GATE``."""
    with Pipe(tmp_path / "gate") as pipe:
        yield pipe
