"""The ``uwsd`` command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop
from rich.text import Text
from typer.main import get_command

from uws.access.users import problem_of
from uws.admin import problems_of
from uws.config import RetentionSettings, Settings, StoreSettings, load
from uws.model import DeclarationError, FileParameter, Service, UsageError
from uws.model.units import format_duration, format_size
from uws.version import VERSION

from . import comparing as _comparing  # noqa: F401 - it adds to `audit`
from . import examples
from . import past as _past  # noqa: F401 - so does it
from .access import token, user
from .accounting import usage
from .audit import audit
from .beginning import init
from .common import BROKEN, FAILED, INTERRUPTED, USAGE, AsJson, duration_of, reported
from .examining import doctor
from .importing import importing
from .jobs import jobs
from .output import err, harmless, out, print_json, print_line, table
from .projections import projections
from .queueing import queueing
from .retention import retention
from .running import run
from .storing import migrate, nodes, storing
from .streams import Commands, Debugging, have_streams, leave_output

_log = logging.getLogger(__name__)
app: typer.Typer = typer.Typer(
    cls=Commands,
    help="An IVOA Universal Worker Service for programs that you declare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command()(init)
app.add_typer(jobs, name="jobs")
audit.command()(usage)
audit.command()(retention)
app.add_typer(audit, name="audit")
app.add_typer(projections, name="projections")
app.add_typer(importing, name="import")
app.add_typer(queueing, name="queue")
app.add_typer(user, name="user")
app.add_typer(token, name="token")
app.command()(doctor)
app.add_typer(storing, name="store")
app.command()(migrate)
app.add_typer(nodes, name="nodes")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(run)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"uwsd {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where a fault of uwsd itself is.")] = False,
) -> None:
    context.obj.wanted = debug


File = Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="The declaration, in TOML.")]


@app.command()
def check(
    file: File = Path("uwsd.toml"),
    run_examples: Annotated[
        bool, typer.Option("--run-examples", help="Run every example, and say what came of it.")
    ] = False,
    longest: Annotated[
        str, typer.Option(help="Stop an example that runs for longer: seconds, or 90s, 20min, 2h.")
    ] = "10min",
    as_json: AsJson = False,
) -> None:
    """Read a declaration and print its services, or every mistake with its place.

    What is hardly meant is a warning. With --run-examples, the exit status is 1 when any of them fails.
    """
    from uws.doctor.services import programs  # what other commands need not wait for

    with reported():
        seconds = duration_of("--longest", longest, at_least=1)
        if as_json and run_examples:
            raise UsageError("expected either --json or --run-examples")
        settings = load(file)
        settings.check_access()
    warnings = [warning for service in settings.services for warning in service.warnings]
    if settings.auth.users and (problem := problem_of(settings.data / settings.auth.users)):
        warnings.append(problem)
    warnings += settings.doubts
    warnings += [f"{each.found}; {each.advice}" for each in programs(settings) if each.state == "fault"]
    if as_json:
        services = [msgspec.Raw(service.canonical) for service in settings.services]
        print_json({"services": services, "warnings": warnings}, indent=2)
    else:
        _print_declared(file, settings, warnings)
    if run_examples and not _examples_hold(settings, seconds):
        raise typer.Exit(FAILED)


def _print_declared(file: Path, settings: Settings, warnings: Sequence[str]) -> None:
    for service in settings.services:
        _print_service(service)
    for warning in warnings:
        err.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if kept := _kept(settings.retention):
        out.print(kept, soft_wrap=True)
    out.print(
        Text(f"{file} is right", "green"),
        f"{len(settings.services)} service(s) on {settings.server.url}, data in {settings.data}",
        sep=": ",
        soft_wrap=True,
    )


def _examples_hold(settings: Settings, longest: int) -> bool:
    try:
        with reported():
            return examples.run_examples(settings, longest)
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def serve(
    file: File = Path("uwsd.toml"),
    host: Annotated[str | None, typer.Option(help="Listen on this address.")] = None,
    port: Annotated[int | None, typer.Option(help="Listen on this port; 0 picks a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Keep the log and the jobs in this directory.")] = None,
    node: Annotated[str | None, typer.Option(help="The name among servers that share the log.")] = None,
) -> None:
    """Offer the declared services until SIGTERM or Ctrl-C. Options win over the file."""
    from uws.app import serve as run_server  # what other commands need not wait for

    from .logs import begin_log

    with reported():
        settings = with_options(load(file), host=host, port=port, data=data, node=node)
        settings.check_access()
        begin_log(settings.server)
        for doubt in settings.doubts:
            _log.warning("%s", doubt)
        uvloop.run(run_server(settings, ready=lambda url: out.print(f"serving on {url}", soft_wrap=True)))


def with_options(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    data: Path | None = None,
    node: str | None = None,
) -> Settings:
    """Return ``settings`` with what was given on the command line. Raises `DeclarationError`."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    try:
        server = msgspec.structs.replace(settings.server, **given)
    except ValueError as error:
        raise DeclarationError([f"--{error}"]) from None
    store = settings.store if node is None else _called(settings.store, node)
    return msgspec.structs.replace(settings, server=server, data=data or settings.data, store=store)


def _called(store: StoreSettings, node: str) -> StoreSettings:
    if store.url is None:
        raise DeclarationError(["--node: only servers that share a log are nodes: add store to the file"])
    try:
        return msgspec.structs.replace(store, node=msgspec.structs.replace(store.node, name=node))
    except ValueError as error:
        raise DeclarationError([f"--node: {str(error).removeprefix('name: ')}"]) from None


def _kept(retention: RetentionSettings) -> str:
    """Return what is not kept for ever, and whether the log is archived."""
    parts = (
        f"owners are erased {retention.owners} after their jobs are destroyed" if retention.owners else "",
        f"histories are pruned after {retention.histories}" if retention.histories else "",
        f"the log is archived {retention.archive}" if retention.archive else "",
    )
    return "; ".join(filter(None, parts))


def _terms(service: Service) -> list[str]:
    """Return under which limits, and how, the programs of a service run, as far as it says so."""
    queued = f"at most {service.max_queued_per_owner} of one owner queued"
    others = "others held" if service.when_full == "hold" else "others refused"
    lost = f"started again when lost, at most {service.requeues} times"
    said = {
        f"nice {service.nice}": service.nice,
        "in a sandbox": service.sandbox,
        "kept warm": service.warm,
        f"in Slurm, {' '.join(service.slurm.options)}": service.executor == "slurm",
        f"at most {service.max_running_per_owner} of one owner at a time": service.max_running_per_owner,
        f"{queued}, {others}": service.max_queued_per_owner,
        f"priority {service.priority}": service.priority,
        lost: service.on_lost == "requeue",
    }
    limits = [f"{name} ≤ {getattr(service.limits, name)}" for name in service.limits.numbers]
    return limits + [term for term, holds in said.items() if holds]


def _print_service(service: Service) -> None:
    out.rule(Text.assemble((service.name, "bold"), f" {service.title}"), align="left")
    if service.description:
        out.print(service.description)
    out.print("runs", " ".join(_shown(part) for part in service.command), soft_wrap=True)
    out.print(
        f"at most {service.max_running} at a time, "
        f"{format_duration(service.execution_duration.seconds)} each "
        f"(at most {format_duration(service.execution_duration.max_seconds)}), "
        f"kept {format_duration(service.lifetime.seconds)} "
        f"(at most {format_duration(service.lifetime.max_seconds)})"
        + (", then archived" if service.archive else "")
    )
    if terms := _terms(service):
        out.print(*terms, sep=", ")
    parameters = table("parameter", "type", "required", "default", "limits", "unit", "description")
    for name, parameter in service.parameters.items():
        kind = parameter.type + (" (several)" if parameter.multiple else "")
        parameters.add_row(
            name,
            kind,
            "yes" if parameter.required else "",
            " ".join(parameter.defaults),
            _limits(parameter),
            parameter.unit,
            parameter.description,
        )
    out.print(parameters if service.parameters else "parameters: none")
    results = table("result", "file", "media type")
    for result in service.results:
        results.add_row(
            result.id, result.path + (" (optional)" if result.optional else ""), result.mime or ""
        )
    if service.results:
        out.print(results)
    else:
        out.print("results: every file in the results directory")
    if service.examples:
        out.print("examples:", ", ".join(example.id for example in service.examples))


def _limits(parameter: object) -> str:
    if isinstance(parameter, FileParameter):
        return f"≤ {format_size(parameter.max_bytes)}"
    found = []
    for label, field in (("≥", "min"), ("≤", "max"), ("matches", "pattern"), ("characters ≤", "max_length")):
        if (value := getattr(parameter, field, None)) is not None:
            found.append(f"{label} {value}")
    if values := getattr(parameter, "values", None):
        found.append(", ".join(map(str, values)))
    return "; ".join(found)


def _shown(part: str | list[str]) -> str:
    return part if isinstance(part, str) else f"[{' '.join(part)}]"


# Made once, for a process that runs more than one.
_command = cache(lambda: get_command(app))


def main() -> None:
    """Run the command line. A fault of its own is told in one line, unless --debug is given."""
    have_streams()
    debugging = Debugging()
    try:
        _command()(obj=debugging)
    except Exception as error:
        if debugging.wanted:
            raise
        leave_output()
        foreseen = problems_of(error)
        fault = f"a fault of uwsd itself: {type(error).__name__}: {error}; uwsd --debug … shows where"
        for problem in foreseen or [harmless(fault)]:
            err.print(problem, style="red", soft_wrap=True)
        sys.exit(USAGE if foreseen else BROKEN)
