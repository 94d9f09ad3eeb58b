"""Command templates: an argv with places for values, filled without any shell.

``{name}`` is one value as one piece of one argument, ``{{`` is a brace. A nested list is an optional group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from .errors import did_you_mean

Template = Annotated[list[str | list[str]], msgspec.Meta(description="list of text, or of lists of text")]
Texts = Mapping[str, Sequence[str]]

_TOKEN = re.compile(r"\{\{|\{([A-Za-z_][A-Za-z0-9_]*)\}|\{")


def places_in(argument: str) -> list[str]:
    """Return the names of the places in ``argument``. Raises `ValueError` for a brace that opens none."""
    names = []
    for match in _TOKEN.finditer(argument):
        if match[0] == "{":
            raise ValueError(
                f"{argument!r}: a brace without a parameter's name; write {{{{ for a brace itself"
            )
        if match[1]:
            names.append(match[1])
    return names


def check_template(
    template: Template, *, single: set[str], optional: set[str], multiple: set[str]
) -> Iterator[tuple[str, str]]:
    """Yield the mistakes of ``template`` as pairs of a place (``[3]``) and what is wrong there.

    ``single`` always have one value, ``optional`` one or none, ``multiple`` any number.
    """
    known = single | optional | multiple
    if not template or isinstance(template[0], list) or not template[0]:
        yield "[0]" if template else "", "expected the program to run"
        return
    for index, part in enumerate(template):
        arguments = [part] if isinstance(part, str) else part
        names = []
        for offset, argument in enumerate(arguments):
            place = f"[{index}]" if isinstance(part, str) else f"[{index}][{offset}]"
            if "\0" in argument:
                yield place, "an argument cannot hold the character U+0000"
            try:
                found = places_in(argument)
            except ValueError as error:
                yield place, str(error)
                continue
            if index == 0 and found:
                yield place, "the program itself cannot depend on a parameter"
            for name in found:
                if name not in known:
                    yield place, f"there is no parameter {name}{did_you_mean(name, known)}"
                elif isinstance(part, str) and name in multiple:
                    yield place, f"{name} takes several values: put the argument into a list of its own"
                elif isinstance(part, str) and name in optional:
                    yield (
                        place,
                        (
                            f"{name} may have no value: put the argument into a list of its own, "
                            f"make {name} required or give it a default"
                        ),
                    )
            names += found
        repeated = sorted(set(names) & multiple)
        if len(repeated) > 1:
            yield f"[{index}]", f"only one of {', '.join(repeated)} can be repeated in a list"


def option_places(template: Template) -> Iterator[tuple[str, str]]:
    """Yield the names of parameters whose values begin an argument, with its place (``[3]``).

    Programs take such an argument for an option when it begins with a dash. Those behind a ``--`` that is
    always there, or in the same list, are left out.
    """
    ended = False
    for index, part in enumerate(template):
        within = ended
        for offset, argument in enumerate([part] if isinstance(part, str) else part):
            within = within or argument == "--"
            first = _TOKEN.match(argument)
            if first and first[1] and not within:
                yield f"[{index}]" if isinstance(part, str) else f"[{index}][{offset}]", first[1]
        ended = ended or part == "--"


def fill(template: Template, values: Texts) -> list[str]:
    """Return the argv: places filled, groups without a value left out, others repeated as needed."""
    argv: list[str] = []
    for part in template:
        if isinstance(part, str):
            argv.append(_insert(part, values, 0))
            continue
        names = [name for argument in part for name in places_in(argument)]
        if not all(values.get(name) for name in names):
            continue
        rounds = max((len(values[name]) for name in names), default=1)
        for index in range(rounds):
            argv += [_insert(argument, values, index) for argument in part]
    return argv


def _insert(argument: str, values: Texts, index: int) -> str:
    def replace(match: re.Match[str]) -> str:
        if not match[1]:
            return "{"
        given = values[match[1]]
        return given[min(index, len(given) - 1)]

    return _TOKEN.sub(replace, argument)
