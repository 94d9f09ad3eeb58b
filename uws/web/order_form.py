"""The form in which a job is ordered: what stands in it, and its document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlencode

from lxml import etree
from yarl import URL

from uws.jobs import UserUWS
from uws.model import (
    BoolParameter,
    FileParameter,
    FloatParameter,
    IntParameter,
    Job,
    MissingParameters,
    Parameter,
    ParameterError,
    StrParameter,
    Upload,
    UWSError,
)
from uws.model.text import made_fit
from uws.model.units import format_size

from .documents import add, url_of_upload, with_stylesheet
from .errors import discreet
from .examples import request_of
from .forms import Pair, Received
from .resource import Resource

SERVICE = "urn:uwsd:service"
"""The namespace of what describes services."""
NAMESPACES = {"s": SERVICE}
_PLAIN_PATTERN = re.compile(r"(?!.*\(\?)(?:[A-Za-z0-9_ \[\]{},+*?.|()^-]|\\[d.+*?-])*")
"""Patterns that mean the same to a browser."""
_LIKE_THIS = {
    "timestamp": "2030-01-31T12:00:00Z",
    "interval": "4.5e-7 8.0e-7",
    "point": "83.633 22.014",
    "circle": "83.633 22.014 0.5",
    "polygon": "83.5 21.9 83.8 21.9 83.8 22.2",
}
"""A value of each type of which the name alone does not tell how it is written."""
_FLAGS = ("true", "false")
_NUMBER = re.compile(r"-?([0-9]+(\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""Numbers that a browser's number field keeps; it drops what is written otherwise."""


class File(NamedTuple):
    """A file that is here already: of an earlier job, or of an example."""

    url: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What stands in a form: values by parameter, files that are there already, and what is wrong with them.

    ``refusal`` is what is wrong with no parameter.
    """

    values: Mapping[str, Sequence[str]]
    files: Mapping[str, Sequence[File]] = field(default_factory=dict)
    run_id: str | None = None
    duration: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    refusal: str | None = None
    quotas: Sequence[str] = ()
    """What the caller may have and what he has, in words."""
    lost: bool = False
    """Whether there were files, which no form can keep."""


async def filled_in(resource: Resource, pairs: Sequence[Pair], job: Job | None) -> Filled:
    """Return what stands in a form at first: what ``pairs`` say, else what a job had, else the defaults."""
    uws = resource.uws
    given = _given(uws, [pair for pair in pairs if pair.value])
    had = job.parameters if job else {}
    values = {
        name: given.get(name)
        or [text for text in had.get(name, ()) if isinstance(text, str)]
        or ([] if job else parameter.defaults)
        for name, parameter in uws.service.parameters.items()
    }
    files = {
        name: [
            File(url_of_upload(uws, job, name, number), upload.filename or upload.file)
            for number, upload in enumerate(kept, start=1)
            if isinstance(upload, Upload)
        ]
        for name, kept in had.items()
        if job
    }
    return Filled(
        values=values,
        files=files | await _kept_files(resource, pairs),
        run_id=_last(pairs, "RUNID") or (job.run_id if job else None),
        duration=_last(pairs, "EXECUTIONDURATION") or (str(job.execution_duration) if job else None),
        problems=_wrong(uws, values),
        quotas=await resource.quotas(),
    )


async def filled_as_sent(resource: Resource, received: Received, error: Exception) -> Filled:
    """Return what stands in a form that was refused with ``error``, and what is wrong with it."""
    uws, pairs = resource.uws, received.pairs
    problems = _problems(uws, received)
    if isinstance(error, ParameterError) and (name := uws.service.find(error.name)) in uws.service.parameters:
        problems[name] = error.reason
        is_told = True
    else:
        is_told = isinstance(error, MissingParameters)
    return Filled(
        values=_given(uws, pairs),
        files=await _kept_files(resource, pairs),
        run_id=_last(pairs, "RUNID"),
        duration=_last(pairs, "EXECUTIONDURATION"),
        problems=problems,
        refusal=None if is_told else discreet(error),
        quotas=await resource.quotas(),
        lost=bool(received.files),
    )


def _given(uws: UserUWS, pairs: Sequence[Pair]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if (spelling := uws.service.find(name)) and spelling in uws.service.parameters:
            given.setdefault(spelling, []).append(value)
    return given


async def _kept_files(resource: Resource, pairs: Sequence[Pair]) -> dict[str, list[File]]:
    """Return the files that are here already and were named by their URL."""
    kept: dict[str, list[File]] = {}
    for pair in pairs:
        name, _, url = pair.value.partition(",")
        if pair.name.upper() == "UPLOAD" and (spelling := resource.uws.service.find(name)):
            with suppress(UWSError, ValueError):
                if stored := await resource.own_file(URL(url)):
                    kept.setdefault(spelling, []).append(File(url, stored.name))
    return kept


def _problems(uws: UserUWS, received: Received) -> dict[str, str]:
    """Say what is wrong with the values of each parameter, and what a job that is to run lacks."""
    given = _given(uws, received.pairs)
    uploads = {pair.value.partition(",")[0] for pair in received.pairs if pair.name.upper() == "UPLOAD"}
    have = {uws.service.find(name) for name in (*given, *received.files, *uploads)}
    problems = _wrong(uws, given)
    if received.is_whole and _last(received.pairs, "PHASE") == "RUN":
        for name, parameter in uws.service.parameters.items():
            if parameter.required and name not in have:
                problems[name] = "a value is required"
    return problems


def _wrong(uws: UserUWS, values: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Say what is wrong with the values of each parameter."""
    problems = {}
    for name, texts in values.items():
        try:
            uws.job_class.check(name, texts)
        except ParameterError as error:
            problems[name] = error.reason
    return problems


def _last(pairs: Sequence[Pair], name: str) -> str | None:
    return next((pair.value for pair in reversed(pairs) if pair.name.upper() == name), None)


# The documents


def form_document(
    resource: Resource, filled: Filled, root_path: str = "./", changed: Job | None = None
) -> etree._Element:
    """Return the form of a new job, or of one to be ``changed``.

    ``root_path`` leads from where it is shown to the list of services.
    """
    uws, service = resource.uws, resource.uws.service
    root = etree.Element(f"{{{SERVICE}}}service", nsmap=NAMESPACES)
    root.set("root", root_path)
    describe(root, uws)
    if changed:
        root.set("job", changed.id)
    _tell(root, "refusal", filled.refusal)
    if filled.lost:
        root.set("lost", "true")
    for quota in filled.quotas:
        add(root, "quota", quota)
    for example in service.examples:
        address = f"{uws.service_url}?{urlencode(request_of(uws, example))}"
        add(root, "example", example.description, title=made_fit(example.title), href=address)
    for name, parameter in service.parameters.items():
        element = _parameter(root, name, parameter)
        for value in filled.values.get(name, ()):
            _tell(element, "value", value if name in filled.problems else _shown(parameter, value))
        for file in filled.files.get(name, ()):
            add(element, "file", href=file.url, name=made_fit(file.name))
        _tell(element, "problem", filled.problems.get(name))
    _tell(root, "runId", filled.run_id)
    limit = service.execution_duration
    duration = etree.SubElement(root, f"{{{SERVICE}}}duration", default=str(limit.seconds))
    if limit.max_seconds:
        duration.set("max", str(limit.max_seconds))
    duration.text = made_fit(filled.duration or str(limit.seconds))
    return with_stylesheet(root, resource.preamble("service"))


def _shown(parameter: Parameter, text: str) -> str:
    """Return a value as its control takes it: of the options that which means the same, a plain number."""
    if parameter.means_nothing(text):
        return ""
    options = _FLAGS if isinstance(parameter, BoolParameter) else parameter.options
    if options:
        value = parameter.read(text)
        return next((option for option in options if parameter.read(option) == value), text)
    if isinstance(parameter, IntParameter | FloatParameter) and not _NUMBER.fullmatch(text):
        return parameter.format(parameter.read(text))
    return text


def describe(element: etree._Element, uws: UserUWS) -> None:
    """Say what a service is called, what it is for, and where its jobs are."""
    element.set("name", uws.service.name)
    element.set("jobs", uws.joblist_url)
    _tell(element, "title", uws.service.title)
    _tell(element, "description", uws.service.description)


def _parameter(parent: etree._Element, name: str, parameter: Parameter) -> etree._Element:
    element = etree.SubElement(parent, f"{{{SERVICE}}}parameter", name=name, type=parameter.type)
    facts: dict[str, object] = {
        "required": "true" if parameter.required else None,
        "multiple": "true" if parameter.multiple else None,
        "unit": parameter.unit,
        "min": getattr(parameter, "min", None),
        "max": getattr(parameter, "max", None),
        "example": _LIKE_THIS.get(parameter.type),
    }
    if isinstance(parameter, FileParameter):
        facts["maxSize"] = format_size(parameter.max_bytes)
    if isinstance(parameter, StrParameter):
        facts["maxLength"] = parameter.max_length
        if parameter.pattern and _PLAIN_PATTERN.fullmatch(parameter.pattern):
            facts["pattern"] = parameter.pattern
    for key, fact in facts.items():
        if fact not in (None, ""):
            element.set(key, str(fact).removesuffix(".0") if isinstance(fact, float) else str(fact))
    _tell(element, "description", parameter.description)
    _tell(element, "default", ", ".join(_shown(parameter, text) for text in parameter.defaults))
    for text in parameter.options:
        _tell(element, "option", text)
    return element


def _tell(parent: etree._Element, name: str, text: str | None) -> None:
    """Add an element, where there is anything to tell."""
    if text:
        add(parent, name, text)
