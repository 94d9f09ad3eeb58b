"""What a program left behind: its results, and what it said when it failed."""

from __future__ import annotations

import hashlib
import itertools
import mimetypes
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from errno import EAGAIN, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC
from pathlib import Path

from uws.files import JobDirectory
from uws.model import Ending, Failure, Result, ResultDeclaration, Service
from uws.model.text import made_fit

from .records import End, signal_name

DETAIL_BYTES = 64_000
MESSAGE_CHARACTERS = 1000
_PASSING = frozenset({EAGAIN, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC})
EX_TEMPFAIL = 75
"""The exit status that means: try again later (sysexits.h)."""

_TYPES = mimetypes.MimeTypes()
for _suffix, _type in (
    (".fits", "application/fits"), (".fit", "application/fits"), (".vot", "application/x-votable+xml"),
    (".csv", "text/csv"), (".json", "application/json"), (".log", "text/plain"), (".md", "text/markdown"),
    (".parquet", "application/vnd.apache.parquet"),
):  # fmt: skip
    _TYPES.add_type(_type, _suffix)


def collect(service: Service, directory: JobDirectory, ended: End) -> Ending:
    """Find and measure the results of a program, and judge how it ended, or why it never began."""
    if ended.errno:
        return Ending(failure=not_started(service, ended.errno, ended.what))
    status = ended.status
    results, missing = _search(service, directory, ended_well=status == 0)
    failure = None
    if ended.exceeded:
        failure = Failure(message=_too_much(service, ended.exceeded), detail=_tail(directory))
    elif status != 0:
        failure = _failure(directory, status)
    elif missing:
        failure = Failure(
            message="; ".join(f"declared result {m.id} ({m.path}) is missing" for m in missing),
            detail=_tail(directory),
        )
    return Ending(
        results=results,
        exit_code=status if status >= 0 else None,
        signal=signal_name(-status) if status < 0 else None,
        failure=failure,
        cpu_seconds=ended.cpu,
        memory_bytes=ended.memory,
    )


def not_started(service: Service, number: int | None, what: str) -> Failure:
    """Say why a program was not started: the system's reason, and ``what`` it was that failed."""
    program, reason = service.command[0], os.strerror(number) if number else "unknown"
    reason = reason if what == "the program" else f"{what}: {reason}"
    return Failure(
        message=f"the program {program} could not be started: {reason}",
        type="transient" if number in _PASSING else "fatal",
    )


def results_of(service: Service, directory: JobDirectory) -> tuple[Result, ...]:
    """Find and measure the results of a program of which it is not known how it ended."""
    return _search(service, directory, ended_well=False)[0]


def _search(
    service: Service, directory: JobDirectory, *, ended_well: bool
) -> tuple[tuple[Result, ...], list[ResultDeclaration]]:
    """Return the results that are there, and the declared ones that are missing."""
    results: dict[str, Result] = {}
    missing = []
    for declaration in service.results:
        before = len(results)
        mime = declaration.mime or ("text/plain" if declaration.path == "-" else None)
        for paths in _places(declaration, directory, ended_well):
            for path, name in paths:
                wanted = f"{declaration.id}-{name}" if declaration.is_glob else declaration.id
                _add(path, directory, wanted, mime, results)
            if len(results) > before:
                break
        else:
            if not declaration.optional:
                missing.append(declaration)
    if not service.results:
        for path in sorted(_below(directory.results)):
            _add(path, directory, str(path.relative_to(directory.results)), None, results)
    return tuple(results.values()), missing


def _places(
    declaration: ResultDeclaration, directory: JobDirectory, ended_well: bool
) -> Iterator[list[tuple[Path, str]]]:
    """Yield where a result may be, and its name: in the results directory, or else in the working one.

    What is there is for `_add` to find out: it may be anything, and another thing by then.
    """
    if declaration.path == "-":
        stdout = directory.logs / "stdout"
        # That of a program that failed before it said anything is no result.
        with suppress(OSError):
            if ended_well or stdout.lstat().st_size:
                yield [(stdout, "stdout")]
        return
    for base in (directory.results, directory.work):
        paths = base.glob(declaration.path) if declaration.is_glob else [base / declaration.path]
        yield [(path, str(path.relative_to(base))) for path in sorted(paths)]


def _below(root: Path) -> Iterator[Path]:
    """Yield what is in a directory and all below it but directories, at a fraction of what `rglob` takes."""
    for directory, _, names in os.walk(root):
        yield from (Path(directory, name) for name in names)


def _add(
    path: Path, directory: JobDirectory, wanted: str, mime: str | None, results: dict[str, Result]
) -> None:
    """Measure a file and add it under ``wanted``, made fit for a URL and different from the other ids.

    What is no file of the program's own is left out: one with another name may be somebody else's.
    """
    base = re.sub(r"[^A-Za-z0-9_.-]", "_", wanted).lstrip(".") or "result"
    candidates = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    result_id = next(candidate for candidate in candidates if candidate not in results)
    if not (file := directory.open(path)):
        return
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    try:
        str(path).encode()
    except UnicodeEncodeError:  # no text for a log
        path = directory.move(path, directory.results / f"{secrets.token_hex(4)}-{result_id}")
    results[result_id] = Result(
        id=result_id,
        path=str(path.relative_to(directory.root)),
        size=size,
        sha256=digest,
        media_type=mime or media_type(path.name),
    )


def media_type(name: str) -> str:
    """Guess a media type from a file's name."""
    guessed, encoding = _TYPES.guess_type(name)
    if (guessed, encoding) == ("application/fits", "gzip"):
        return "image/x-fits-gzip"  # the name that ObsCore 1.1 gives it (section 4.7)
    if encoding:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}.get(
            encoding, "application/octet-stream"
        )
    return guessed or "application/octet-stream"


def _failure(directory: JobDirectory, status: int) -> Failure:
    tail = _tail(directory)
    lines = tail.strip().splitlines()
    if status < 0:
        message = f"the program was ended by signal {signal_name(-status)}"
    else:
        message = lines[-1].strip() if lines else f"the program ended with exit status {status}"
    return Failure(
        message=message[:MESSAGE_CHARACTERS],
        detail=tail,
        type="transient" if status == EX_TEMPFAIL else "fatal",
    )


def _tail(directory: JobDirectory) -> str:
    """Return the last of standard error as text that XML can carry."""
    try:
        if not (opened := directory.open(directory.logs / "stderr")):
            return ""
        with opened as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - DETAIL_BYTES))
            text = file.read(DETAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    # It goes on record, where this machine's paths have no place.
    return made_fit(text.replace(f"{directory.root}/", ""))


def _too_much(service: Service, name: str) -> str:
    """Say which limit was not kept, as it was declared."""
    return f"the program exceeded the limit {name} = {getattr(service.limits, name)}"
