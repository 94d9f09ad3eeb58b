"""The command line, as `uwsd --help` tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_origin

from typer.main import get_command

from uws.cli import app, common

from .described import attributes, prose, words


def lines() -> Iterator[str]:
    yield "# Commands\n"
    yield "What `uwsd --help` says of all commands.\n"
    yield from _command(get_command(app), "uwsd")
    yield "## Exit statuses\n"
    yield "The same for all commands: 0 when what was asked is done, and holds.\n"
    told = "The exit status "
    statuses = {
        getattr(common, name): text for name, text in attributes(common).items() if text.startswith(told)
    }
    for status, text in sorted(statuses.items()):
        about = text.removeprefix(told)
        yield f"`{status}`\n: {about[0].upper()}{about[1:]}\n"


def _command(command: Any, name: str) -> Iterator[str]:
    """Tell of a command, and of those below it; groups that do nothing by themselves are left out."""
    children = getattr(command, "commands", {})
    if name == "uwsd" or not children or command.invoke_without_command:
        yield f"## `{name}`\n"
        context = command.context_class(command, info_name=name)
        yield f"```text\n{' '.join((name, *command.collect_usage_pieces(context)))}\n```\n"
        yield f"{prose(command.help)}\n"
        for parameter in command.params:
            if parameter.name != "help":
                yield f"{_shown(parameter)}\n: {_meaning(parameter)}\n"
    for child, each in children.items():
        yield from _command(each, f"{name} {child}")


def _shown(parameter: Any) -> str:
    named = (parameter.metavar or parameter.name).strip("[].").upper()
    if parameter.param_type_name == "argument":
        return f"`{named}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names if _is_flag(parameter) else f"{names} `{named}`"


def _is_flag(parameter: Any) -> bool:
    return getattr(parameter, "is_flag", False)  # which arguments do not have


def _meaning(parameter: Any) -> str:
    """Return what is said of a parameter, what it takes, and what holds where it is not given."""
    kind = parameter.type_descriptor.annotation
    several = get_origin(kind) is list
    told = [] if _is_flag(parameter) else [words(get_args(kind)[0] if several else kind)]
    if parameter.min is not None:
        told.append(f"at least {parameter.min}")
    if several:
        told.append("any number of them" if parameter.param_type_name == "argument" else "may be repeated")
    if parameter.required:
        told.append("required")
    elif parameter.default not in (None, False, [], ()):
        value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
        told.append(f"by default `{value}`")
    return f"{prose(parameter.help)} ({'; '.join(told)})" if told else prose(parameter.help)
