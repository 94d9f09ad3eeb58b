"""Functions by their names: ``package.module:name``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from uws.model import did_you_mean

PATH = "UWSD_PATH"
"""The variable with the directories where functions are looked for when Python's own path has none."""
_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_REFERENCE = re.compile(rf"{_DOTTED}:{_DOTTED}")


class NoFunction(Exception):
    """There is no such function, or it cannot be had; the text says why, for people."""


def check_reference(reference: str) -> None:
    """Raise `NoFunction` for what cannot be a function's name."""
    if not _REFERENCE.fullmatch(reference):
        raise NoFunction(f"expected a function as package.module:name, got {reference!r}")


def extend_path() -> None:
    """Let modules be imported from the directories in `PATH`; what Python finds itself goes first."""
    sys.path += [entry for entry in os.environ.get(PATH, "").split(os.pathsep) if entry]


def find(reference: str) -> Callable[..., Any]:
    """Import a function. Raises `NoFunction`, and whatever its module raises."""
    check_reference(reference)
    name, _, path = reference.partition(":")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # one that it imports
        raise NoFunction(f"there is no module {error.name}, in Python's path or beside the file") from None
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise NoFunction(f"{name} has no {path}{did_you_mean(part, vars(found))}")
        found = getattr(found, part)
    if not callable(found) or isinstance(found, type):
        raise NoFunction(f"{reference} is no function")
    return found  # type: ignore[no-any-return]


def reference_of(function: Callable[..., Any]) -> str:
    """Return the name by which another process finds a function. Raises `NoFunction`."""
    name = getattr(function, "__qualname__", "")
    reference = f"{_module_name(function)}:{name}"
    if not _REFERENCE.fullmatch(reference):
        raise NoFunction(
            f"{name or function!r} is no function of a module, which another process could import"
        )
    return reference


def directory_of(function: Callable[..., Any]) -> str | None:
    """Return the directory from which a function's module is imported, None for one without a file."""
    file = getattr(_module(function), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    path = path.parent if path.stem == "__init__" else path
    return str(path.parents[_module_name(function).count(".")])


def _module(function: Callable[..., Any]) -> ModuleType | None:
    return sys.modules.get(getattr(function, "__module__", None) or "")


def _module_name(function: Callable[..., Any]) -> str:
    module = _module(function)
    if module is None or module.__name__ != "__main__":
        return module.__name__ if module else ""
    if module.__spec__ is not None:  # started with -m
        return module.__spec__.name
    return Path(getattr(module, "__file__", None) or "").stem
