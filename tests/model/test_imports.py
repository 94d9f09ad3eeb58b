"""Every room can be entered first."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "room",
    [
        "eventstore",
        "projections",
        "uws",
        "uws.model",
        "uws.jobs",
        "uws.functions",
        "uws.execution",
        "uws.web",
        "uws.node",
        "uws.app",
        "uws.cli",
    ],
)
def test_a_room_can_be_imported_before_all_others(room: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {room}"], check=True)


def test_the_model_is_imported_without_http() -> None:
    code = "import sys, uws.model; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_is_imported_without_http() -> None:
    code = "import sys, uws.cli; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_public_names_are_there() -> None:
    import uws

    assert all(getattr(uws, name) is not None for name in uws.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        uws.nonsense  # noqa: B018
