"""Functions for the tests: modules beside a declaration."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from uws import DeclarationError, Service
from uws.config import load

IMPORTS = """\
from __future__ import annotations
import os, sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal
from uws.functions import Circle, Interval, Parameter, Point
"""


def declaration(directory: Path, module: str, *keys: str, name: str = "look") -> Path:
    """Write a module ``heavens`` and a file that declares its function ``look``; return the file."""
    (directory / "heavens.py").write_text(IMPORTS + dedent(module))
    file = directory / "uwsd.toml"
    lines = (f"[services.{name}]", 'function = "heavens:look"', *keys)
    file.write_text("\n".join(lines))
    return file


def declared(directory: Path, module: str, *keys: str) -> Service:
    """Declare the function ``look`` of a module, and return its service."""
    (service,) = load(declaration(directory, module, *keys)).services
    return service


def problems(directory: Path, module: str, *keys: str) -> tuple[str, ...]:
    """Return what is wrong with the declaration."""
    with pytest.raises(DeclarationError) as raised:
        declared(directory, module, *keys)
    return raised.value.problems
