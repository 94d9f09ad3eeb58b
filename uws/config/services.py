"""Services, from tables of the file or from functions."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from uws import functions
from uws.config.conversion import convert, explain, kind_of, mistakes_in, right_part
from uws.functions import Description, NoFunction
from uws.model import (
    DeclarationError,
    Example,
    FileParameter,
    Parameter,
    ResultDeclaration,
    Service,
    did_you_mean,
)
from uws.model.examples import Given
from uws.model.service import ExecutionDuration, Lifetime, Limits, Slurm


def make_service(function: Callable[..., Any], *, name: str | None = None, **keys: Any) -> Service:
    """Declare an annotated function as a service, under its own name where ``name`` is not given.

    ``keys`` are the other fields of `Service`, or what TOML has for them; those that follow from the
    function (title and description, too) need not be given. Its jobs import it anew, each in a process of
    its own. Examples name files relative to the directory in which its module is found. Raises
    `DeclarationError`.
    """
    named = str(name or getattr(function, "__name__", ""))
    problems: list[str] = []
    service = None
    try:
        reference = functions.reference_of(function)
        service = _from_function(
            named,
            msgspec.to_builtins(keys),
            reference,
            functions.directory_of(function),
            lambda environment: functions.describe(function),
            problems,
        )
    except NoFunction as error:
        problems.append(f"services.{named}: {error}")
    if service is None or problems:
        raise DeclarationError(problems)
    return service


def service_of(reference: str, directory: Path) -> Service:
    """Declare the function ``package.module:name``, as a file in ``directory`` with nothing else would.

    Raises `DeclarationError`.
    """
    problems: list[str] = []
    name = re.split("[.:]", reference)[-1]
    service = declared(name, {"function": reference}, str(directory.resolve()), problems)
    if service is None or problems:
        raise DeclarationError(problems)
    return service


def declared(name: str, table: Any, directory: str, problems: list[str]) -> Service | None:
    """Read one service, which is a program, or a function that is looked at in a process of its own."""
    if not isinstance(table, dict) or "function" not in table:
        return _service(name, table, directory, problems)
    rest = {key: value for key, value in table.items() if key != "function"}
    reference = table["function"]
    if not isinstance(reference, str):
        problems.append(f"services.{name}.function: expected str, got {kind_of(reference)}")
        return None
    return _from_function(
        name,
        rest,
        reference,
        directory,
        lambda variables: functions.described(str(reference), variables),
        problems,
    )


def _from_function(
    name: str,
    table: dict[str, Any],
    reference: str,
    directory: str | None,
    describe: Callable[[dict[str, str]], Description],
    problems: list[str],
) -> Service | None:
    """Read a service whose command and parameters follow from a function, found in ``directory``."""
    place = f"services.{name}"
    before = len(problems)
    problems += [
        f"{place}.{key}: follows from the function; leave out one of the two"
        for key in ("command", "parameters")
        if key in table
    ]
    variables = table.get("environment", {})
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        problems += mistakes_in(variables, dict[str, str], f"{place}.environment")
        return None
    path = [entry for entry in (directory, variables.get(functions.PATH)) if entry]
    variables = {**variables, functions.PATH: os.pathsep.join(path)}
    try:
        found = describe(variables)
    except NoFunction as error:
        problems.append(f"{place}.function: {error}")
        return None
    if not found.title and "title" not in table:
        problems.append(f"{place}.title: missing; give the service one, or {reference} a docstring")
        table = {**table, "title": name}
    about = [f"{place}{where}: {what}" for where, what in found.problems]
    derived = {"command": functions.command_of(reference), "environment": variables}
    service = _service(name, {**found.keys, **table, **derived}, directory or "", about)
    stands = f" (in {reference}, {found.stands})"
    problems += [
        problem + (stands if problem.startswith(f"{place}.parameters.") else "") for problem in about
    ]
    return service if len(problems) == before else None


_READ_APART: dict[str, Any] = {
    "function": str,
    "environment": dict[str, Any],
    "execution_duration": dict[str, Any],
    "lifetime": dict[str, Any],
    "limits": dict[str, Any],
    "slurm": dict[str, Any],
    "parameters": dict[str, Any],
    "results": list[Any],
    "examples": list[Any],
}
"""The parts of a service that are looked into one by one."""


def _service(name: str, table: Any, directory: str, problems: list[str]) -> Service | None:
    """Read one service: its own keys, its parts, and whether all of it fits together.

    Its examples name files relative to ``directory``.
    """
    place = f"services.{name}"
    if not isinstance(table, dict):
        problems.append(f"{place}: expected table, got {kind_of(table)}")
        return None
    before = len(problems)
    parts = right_part(table, Service, place, problems, read_apart=_READ_APART, not_here=["name"])
    for key, value in parts.get("environment", {}).items():
        problems += mistakes_in(value, str, f"{place}.environment.{key}")
    for key, kind in (
        ("execution_duration", ExecutionDuration), ("lifetime", Lifetime), ("limits", Limits),
        ("slurm", Slurm),
    ):  # fmt: skip
        if key in parts:
            parts[key] = convert(parts[key], kind, f"{place}.{key}", problems)
    if "parameters" in parts:
        parts["parameters"] = {
            key: _parameter(value, f"{place}.parameters.{key}", problems)
            for key, value in parts["parameters"].items()
        }
    if "results" in parts:
        parts["results"] = [
            convert(value, ResultDeclaration, f"{place}.results[{index}]", problems)
            for index, value in enumerate(parts["results"])
        ]
    if "examples" in parts:
        parts["examples"] = [
            _example(value, parts.get("parameters", {}), directory, f"{place}.examples[{index}]", problems)
            for index, value in enumerate(parts["examples"])
        ]
    if len(problems) > before:
        return None
    if parts.get("sandbox") and not shutil.which("bwrap"):
        problems.append(
            f"{place}.sandbox: there is no bwrap in PATH: install bubblewrap, or leave sandbox = true out"
        )
        return None
    if parts.get("executor") == "slurm" and not shutil.which("sbatch"):
        problems.append(
            f"{place}.executor: there is no sbatch in PATH: install Slurm's client commands "
            '(slurm-client), or leave executor = "slurm" out'
        )
        return None
    try:
        return msgspec.convert({**parts, "name": name}, Service)
    except msgspec.ValidationError as error:
        problems.append(explain(error, place))
    except DeclarationError as error:
        problems.extend(error.problems)
    return None


_PARAMETER_CLASSES: dict[str, Any] = {str(cls.__struct_config__.tag): cls for cls in Parameter.__args__}


def _parameter(value: Any, place: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f'{place}: expected a table such as {{ type = "float" }}, got {kind_of(value)}')
        return None
    known = ", ".join(_PARAMETER_CLASSES)
    match value.get("type"):
        case None:
            problems.append(f"{place}.type: missing; types are {known}")
        case str(name) if name in _PARAMETER_CLASSES:
            return convert(value, _PARAMETER_CLASSES[name], place, problems)
        case name:
            hint = did_you_mean(str(name), _PARAMETER_CLASSES)
            problems.append(f"{place}.type: there is no type {name!r}{hint}; types are {known}")
    return None


def _example(
    value: Any, parameters: dict[str, Any], directory: str, place: str, problems: list[str]
) -> Example | None:
    """Read one example, and find the files that it names."""
    given = value.get("parameters") if isinstance(value, dict) else None
    before = len(problems)
    for name, what in given.items() if isinstance(given, dict) else ():
        problems += mistakes_in(what, Given, f"{place}.parameters.{name}")
    if len(problems) > before or (example := convert(value, Example, place, problems)) is None:
        return None
    files: dict[str, Given] = {}
    for name, parameter in parameters.items():
        if isinstance(parameter, FileParameter) and name in example.values:
            paths = [Path(directory, text).resolve() for text in example.values[name]]
            for path in paths:
                if not path.is_file():
                    problems.append(f"{place}.parameters.{name}: there is no file {path}")
                elif path.stat().st_size > parameter.max_bytes:
                    limit = parameter.max_size
                    problems.append(f"{place}.parameters.{name}: {path} is larger than the maximum {limit}")
            files[name] = [*map(str, paths)]
    return msgspec.structs.replace(example, parameters={**example.parameters, **files})
