"""Files that are only ever added to: what their digests say, today and in the history of the repository."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest


def check_unchanged(digests: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Hold files, each by name, against their SHA-256 in ``digests``: these are there, and no others."""
    found = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in files]
    assert sorted(digests.read_text().splitlines()) == sorted(found)


def check_only_added_to(digests: Path) -> None:
    """Hold what stands in ``digests`` against what ever stood there. Skips where there is no history."""
    if shutil.which("git") is None:
        pytest.skip("there is no git, which knows what stood there")
    command = ["git", "log", "--patch", "--format=", "--", digests.name]
    history = subprocess.run(command, cwd=digests.parent, capture_output=True, text=True, check=False)
    if history.returncode != 0:
        pytest.skip("this is no git checkout")
    once = {line[1:] for line in history.stdout.splitlines() if line.startswith("+") and line[1:2] != "+"}
    assert once <= set(digests.read_text().splitlines())
