"""What differs between two runs. Pure."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from uws.model import ENDED, Service, Upload
from uws.model.events import Value
from uws.model.units import format_time

from .runs import Run, told


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that is ``first`` in the one run and ``second`` in the other, None where there is nothing.

    ``lines`` are a unified diff, where both are texts of many lines.
    """

    what: str
    first: str | None = None
    second: str | None = None
    lines: list[str] = []


class ResultsHeld(msgspec.Struct, frozen=True):
    """A result by its id: its SHA-256 and size in each run, None where there is none."""

    id: str
    first: str | None
    second: str | None

    @property
    def identical(self) -> bool:
        return self.first == self.second


class Comparison(msgspec.Struct, frozen=True):
    """What differs between two jobs; ``measures`` always do, and do not count.

    ``unknown`` says what the log does not tell any more, or never did. ``results`` are those of both.
    """

    first: str
    second: str
    differences: list[Difference]
    measures: list[Difference]
    unknown: list[str]
    results: list[ResultsHeld]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs, as far as is known, and all is known."""
        return not self.differences and not self.unknown

    @property
    def same_results(self) -> bool:
        """Whether both have made the same files, byte by byte."""
        return all(result.identical for result in self.results)

    @property
    def reproduced(self) -> bool:
        """Whether the second has ended as the first did, and made the same."""
        return self.same_results and not any(found.what == "outcome" for found in self.differences)


def compare(first: Run, second: Run) -> Comparison:
    """Hold two runs against each other: what was asked for, what ran, and what came of it."""
    differences: list[Difference] = []
    results: list[ResultsHeld] = []
    unknown = [*_unknown(first), *_unknown(second)]
    if not (first.erased or second.erased):
        results = _results(first, second)
        differences = [*_inputs(first, second), *_outcomes(first, second)]
        differences += [
            Difference(f"result {held.id}", held.first, held.second) for held in results if not held.identical
        ]
    measures = [Difference(what, *both) for what, both in _measures(first, second) if any(both)]
    return Comparison(first.job.id, second.job.id, differences, measures, unknown, results)


def _unknown(run: Run) -> Iterator[str]:
    job = run.job
    if run.erased:
        when = format_time(run.erased.time)
        yield f"job {job.id} was erased at {when} ({run.erased.reason}): what it was is not known any more"
        return
    if job.phase not in ENDED:
        yield f"job {job.id} is {job.phase}: how it ends is not known yet"
    if run.was_started and not run.program:
        yield f"job {job.id}: what its program consisted of is not on record"
    if run.declaration is None:
        yield f"job {job.id}: the text of its declaration {job.declaration} is not on record"


def _inputs(first: Run, second: Run) -> Iterator[Difference]:
    yield from _different("service", first.job.service, second.job.service)
    for name in dict.fromkeys([*first.parameters, *second.parameters]):
        one, other = first.parameters.get(name, ()), second.parameters.get(name, ())
        if [*map(_content, one)] != [*map(_content, other)]:
            yield Difference(f"parameter {name}", _listed(one), _listed(other))
    limits = (str(run.job.execution_duration) for run in (first, second))
    yield from _different("execution duration", *limits)
    if first.job.declaration != second.job.declaration:
        lines = _diff(first.job.declaration, first.declaration, second.job.declaration, second.declaration)
        yield Difference("declaration", first.job.declaration, second.job.declaration, lines)
    if first.program and second.program:
        files = [_program(run) for run in (first, second)]
        for name, number in dict.fromkeys([*files[0], *files[1]]):
            what = f"program {name}" if number == 1 else f"program {name}, no. {number} of that name"
            yield from _different(what, *(held.get((name, number)) for held in files))


def _program(run: Run) -> dict[tuple[str, int], str]:
    """Return the SHA-256 of each file of the program, by its name and which of that name it is."""
    counted: Counter[str] = Counter()
    digests = {}
    for file in run.program:
        counted[file.name] += 1
        digests[file.name, counted[file.name]] = file.sha256
    return digests


def _outcomes(first: Run, second: Run) -> Iterator[Difference]:
    one, other = first.job, second.job
    yield from _different("outcome", one.phase, other.phase)
    reasons = (job.failure.message if job.failure else job.note or None for job in (one, other))
    yield from _different("reason", *reasons)
    codes = (None if job.exit_code is None else str(job.exit_code) for job in (one, other))
    yield from _different("exit code", *codes)
    yield from _different("signal", one.signal, other.signal)


def _results(first: Run, second: Run) -> list[ResultsHeld]:
    held = [
        {result.id: f"{result.sha256}, {result.size} bytes" for result in run.job.results}
        for run in (first, second)
    ]
    ids = dict.fromkeys([*held[0], *held[1]])
    return [ResultsHeld(each, held[0].get(each), held[1].get(each)) for each in ids]


def _measures(first: Run, second: Run) -> Iterator[tuple[str, tuple[str | None, str | None]]]:
    one, other = first.job, second.job
    yield "duration", (_seconds(one.started, one.ended), _seconds(other.started, other.ended))
    yield "processor time", (_or_none(one.cpu_seconds, "s"), _or_none(other.cpu_seconds, "s"))
    yield "memory", (_or_none(one.memory_bytes, "bytes"), _or_none(other.memory_bytes, "bytes"))


def _different(what: str, first: str | None, second: str | None) -> Iterator[Difference]:
    if first != second:
        yield Difference(what, first, second)


def _content(value: Value) -> tuple[str, str]:
    return ("file", value.sha256) if isinstance(value, Upload) else ("text", value)


def _listed(values: Sequence[Value]) -> str | None:
    return ", ".join(map(told, values)) if values else None


def declarations_differ(run: Run, service: Service) -> list[str]:
    """Return how the declaration of a run differs from that of ``service`` now, as a unified diff."""
    return _diff(run.job.declaration, run.declaration, service.digest, service.canonical.decode())


def _diff(name: str, text: str | None, other_name: str, other: str | None) -> list[str]:
    if text is None or other is None:
        return []
    before, after = (msgspec.json.format(each, indent=2).splitlines() for each in (text, other))
    return [*difflib.unified_diff(before, after, name, other_name, lineterm="")]


def _seconds(start: datetime | None, end: datetime | None) -> str | None:
    return f"{(end - start).total_seconds():.3f} s" if start and end else None


def _or_none(number: float, unit: str) -> str | None:
    return f"{number} {unit}" if number else None
