"""``uwsd run``: a function, called by hand as its jobs would call it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from uws.config import service_of
from uws.environment import job_environment
from uws.execution.results import results_of
from uws.files import JobDirectory
from uws.model import FileParameter, Service, Upload, UsageError, UserUWSJobBase, Values
from uws.model import make_user_uws_job_class as job_class_of
from uws.model.units import format_size

from .common import INTERRUPTED, reported
from .output import err, out, table


def run(
    context: typer.Context,
    function: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="The function.")],
) -> None:
    """Call a function as a job would: uwsd run MODULE:NAME --PARAMETER=VALUE ...

    Its files are in a new directory below the current one, from which the function is imported, too. The
    exit status is the function's.
    """
    with reported():
        service = service_of(function, Path.cwd())
        job = _job(service, context.args)
    directory = JobDirectory(Path(tempfile.mkdtemp(prefix=f"{service.name}-", dir=Path.cwd())))
    directory.make()
    directory.parameters.write_bytes(job.to_json())
    about = {
        "job_id": directory.root.name,
        "results": str(directory.results),
        "parameters": str(directory.parameters),
    }
    try:
        ended = subprocess.run(
            job.argv(**about),
            cwd=directory.work,
            env=job_environment(service.environment, progress=str(directory.progress), **about),
            check=False,
        )
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    results = table("result", "media type", "size")
    for result in results_of(service, directory):
        results.add_row(f"{directory.root.name}/{result.path}", result.media_type, format_size(result.size))
    out.print(results if results.row_count else f"no results in {directory.root.name}")
    if ended.returncode:
        raise typer.Exit(ended.returncode if ended.returncode > 0 else 128 - ended.returncode)


def _job(service: Service, words: list[str]) -> UserUWSJobBase:
    """Hold the values on the command line against the declaration. Raises `UsageError`."""
    job_class = job_class_of(service)
    given: dict[str, list[str | Upload]] = {}
    for name, text in _pairs(words):
        parameter = service.parameters.get(service.find(name) or "")
        value = _file(name, text) if isinstance(parameter, FileParameter) else text
        given.setdefault(service.find(name) or name, []).append(value)
    values: Mapping[str, Values] = {
        name: _checked(job_class, name, several) for name, several in given.items()
    }
    return job_class.from_values(values, "")


def _pairs(words: list[str]) -> Iterable[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise UsageError(f"expected --PARAMETER=VALUE, got {word}")
        value = text if equals else next(rest, None)
        if value is None:
            raise UsageError(f"{word}: expected a value behind it")
        yield name.replace("-", "_"), value


def _checked(job_class: type[UserUWSJobBase], name: str, values: list[str | Upload]) -> Values:
    try:
        return job_class.check(name, values)[1]
    except KeyError:
        raise UsageError(f"{name}: {job_class.service.unknown(name)}") from None


def _file(name: str, text: str) -> Upload:
    path = Path(text).absolute()
    if not path.is_file():
        raise UsageError(f"{name}: there is no file {text}")
    # It stays where it is: of a job, this is the path below the directory of its uploads.
    return Upload(
        file=str(path).removeprefix("/"),
        filename=path.name,
        size=path.stat().st_size,
        sha256="",
        media_type="",
    )
