"""A job's process: a function is called with the job's values, and what it returns becomes a result."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from .finding import NoFunction, find
from .signature import arguments


class NoResult(Exception):
    """What a function returned is no result; the text says why, for people."""


def call(reference: str) -> int:
    """Call a function as a job; return the exit status. What it raises is told on standard error."""
    try:
        function = find(reference)
        values = msgspec.json.decode(Path(os.environ["UWS_PARAMETERS"]).read_bytes())
        returned = function(**arguments(function, values))
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        keep(returned, Path(os.environ["UWS_RESULTS"]))
    except (NoFunction, NoResult) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception as error:
        sys.stderr.write(told(error))
        return 1
    return 0


def keep(returned: Any, results: Path) -> None:
    """Put what a function returned into the results directory; None is nothing.

    Paths are files that it made, of which those in the working directory are moved. Raises `NoResult`.
    """
    match returned:
        case None:
            return
        case Path():
            _keep_file(returned, results)
        case [Path(), *_] if all(isinstance(item, Path) for item in returned):
            for path in returned:
                _keep_file(path, results)
        case str():
            _write(results / "result.txt", returned.encode("utf-8", "surrogateescape"))
        case bytes() | bytearray():
            _write(results / "result.bin", returned)
        case _:
            try:
                written = msgspec.json.encode(returned, enc_hook=_plain)
            except (TypeError, ValueError, msgspec.MsgspecError) as error:
                raise NoResult(
                    f"the function returned {type(returned).__name__}, which is no result ({error}); results "
                    "are None, str, bytes, Path, a list of Path, and what JSON can say"
                ) from None
            _write(results / "result.json", written)


def told(error: BaseException) -> str:
    """Return the traceback, from the function on, its files named as they are imported.

    It goes on record, where this machine's paths have no place.
    """
    trace = error.__traceback__
    while trace and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("uws", "importlib"):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    for directory in sorted(sys.path, key=len, reverse=True):
        text = text.replace(f'File "{directory.rstrip("/")}/', 'File "') if directory else text
    return text


def _keep_file(path: Path, results: Path) -> None:
    found = path.resolve()
    if not found.is_file():
        raise NoResult(f"the function returned {path.name}, which is no file")
    if found.is_relative_to(results.resolve()):
        return
    kept = results / path.name
    if kept.exists():
        raise NoResult(f"the function returned {path.name}, and there is another result of that name")
    if found.is_relative_to(Path.cwd()):
        shutil.move(found, kept)
    else:
        shutil.copyfile(found, kept)


def _write(path: Path, content: bytes | bytearray) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise NoResult(
            f"{path.name} is what the function returned, but it has written a file of that name"
        ) from None


def _plain(value: Any) -> Any:
    """Turn the numbers and arrays of numpy, which JSON does not know, into what it knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"there is no JSON for {type(value).__name__}")
