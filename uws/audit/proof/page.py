"""The page of a history file: what its events say, for people, without network and script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

import msgspec
from lxml import etree

from eventstore import RecordedEvent
from uws.model import Job, Upload
from uws.model import events as e
from uws.model.units import format_duration, format_size, format_time

from .history import History, JobHistory, Step, steps
from .words import visible

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page may do, whatever is in it: look as it does."""
_STYLE = """
:root { color-scheme: light dark; --line: #8a949e; --faint: #55616d; }
@media (prefers-color-scheme: dark) { :root { --faint: #a3b0bd; } }
body { max-width: 75rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; width: 100%; }
caption { text-align: left; font-weight: bold; padding: 0.25rem 0; }
th, td { border: 1px solid var(--line); padding: 0.25rem 0.5rem; text-align: left; vertical-align: top; }
td, code, pre { overflow-wrap: anywhere; unicode-bidi: isolate; }
pre { white-space: pre-wrap; border: 1px solid var(--line); padding: 0.5rem; }
.time { white-space: nowrap; }
.note { color: var(--faint); }
@media print {
  body { max-width: none; padding: 0; font-size: 9pt; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
}
"""
_SHOWN = 2000
"""Characters of an event's facts: all of them are in the events beside the page."""
_FEW = 10
"""Reports of progress that are shown one by one; of more in a row, the first and the last."""


class Sink(Protocol):
    """Where the page goes."""

    def write(self, data: bytes) -> object: ...


class _Page:
    """Elements on their way into a file. Text is what it is, never markup; what is not seen is made so."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def within(self, tag: str, **attributes: str) -> Any:
        named = {name.removesuffix("_"): value for name, value in attributes.items()}
        return self._file.element(tag, named)

    def text(self, text: str) -> None:
        self._file.write(visible(text))

    def line(self, text: str) -> None:
        self._file.write(f"{visible(text)}\n")

    def add(self, tag: str, text: str, **attributes: str) -> None:
        with self.within(tag, **attributes):
            self.text(text)

    def table(self, caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table; the first cell of each row is its heading."""
        with self.within("table"):
            self.add("caption", caption)
            if columns:
                with self.within("thead"), self.within("tr"):
                    for column in columns:
                        self.add("th", column, scope="col")
            with self.within("tbody"):
                for first, *cells in rows:
                    with self.within("tr"):
                        self.add("th", first, scope="row")
                        for cell in cells:
                            self.add("td", cell)


def write_page(sink: Sink, history: History, lines: Callable[[], Iterable[bytes]]) -> None:
    """Write the page of a history that was examined; ``lines`` gives its lines again.

    What is kept in memory does not grow with the number of events.
    """
    count = len(history.jobs)
    title = f"History of job {next(iter(history.jobs))}" if count == 1 else f"Histories of {count} jobs"
    with etree.htmlfile(sink, encoding="utf-8") as file:
        page = _Page(file)
        file.write_doctype("<!DOCTYPE html>")
        with page.within("html", lang="en"):
            with page.within("head"):
                file.write(etree.Element("meta", {"charset": "utf-8"}))
                file.write(
                    etree.Element("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY})
                )
                page.add("title", title)
                style = etree.Element("style")
                style.text = _STYLE
                file.write(style)
            with page.within("body"), page.within("main"):
                page.add("h1", title)
                page.add("p", _ABOUT, class_="note")
                for job in history.jobs.values():
                    with page.within("section"):
                        _write_job(page, history, job)
                with page.within("section"):
                    page.add("h2", "What happened")
                    _write_steps(page, history, lines())
                with page.within("section"):
                    page.add("h2", "Declarations")
                    _write_declarations(page, history)


_ABOUT = (
    "Made from the events in history.jsonl, which lies beside this page and has all of it. This page proves "
    "nothing by itself: that the events are those that were recorded is shown by verifying the file in which "
    "both came. Times are UTC, by the clock of the server; of what was imported, those of its source. "
    "Characters that are not printed, or that change the order of others, are shown as \\u202e and the like."
)


def _write_job(page: _Page, history: History, told: JobHistory) -> None:
    page.add("h2", f"Job {told.id}")
    page.table("In short", (), _facts(history, told))
    job = told.job
    if job is None or not job.service:
        page.add("p", "What the job was is not known any more: it was erased.")
        return
    page.add("h3", "Command line")
    try:
        command = history.command_of(told)
    except ValueError as error:
        page.add("p", f"It cannot be told: {error}.")
    else:
        with page.within("pre"):
            page.add("code", command)
        page.add(
            "p",
            "Made from the declaration below and the parameters; "
            + ("" if job.started or told.ended else "it has not been started; ")
            + "files are named as they lie below the job's directory. Where that is, is not on record; the "
            "program runs in the directory work below it.",
            class_="note",
        )
    parameters = [*_parameters(job)]
    if parameters:
        page.table(
            "Parameters as they were given",
            ("name", "value", "file, size and SHA-256 if it is one"),
            parameters,
        )
    else:
        page.add("p", "No parameters were given.")
    if told.results:
        page.table("Results", ("id", "file", "media type", "size", "SHA-256"), _results(told))
    else:
        page.add("p", "No results are on record.")


def _facts(history: History, told: JobHistory) -> Iterator[tuple[str, str]]:
    yield "phase", told.says
    if (job := told.job) is None or not job.service:
        if job:
            yield "erased because", job.note
        if told.emptied:
            yield "who had it erased", _who(told.emptied)
        return
    declaration = history.declaration_of(job)
    yield "service", job.service
    if declaration:
        yield "title", _title(declaration)
    yield "owner", job.owner or "nobody in particular"
    if job.run_id:
        yield "run id", job.run_id
    for name in ("created", "queued", "started", "ended", "destroyed"):
        if time := getattr(job, name):
            yield name, format_time(time)
    yield "may run for", format_duration(job.execution_duration)
    for step in told.stopped:
        yield "who had it stopped", _who(step)
    if told.ended:
        yield "how it ended", _who(told.ended)
    if job.failure:
        yield "error", job.failure.message
    if told.recorded:
        yield "imported from", told.source or ""
        yield "who had it imported", _who(told.recorded)
        yield "declaration", job.declaration
        return
    if told.destroyed:
        yield "who had it destroyed", _who(told.destroyed)
    if job.exit_code is not None or job.signal:
        yield "exit", job.signal or f"status {job.exit_code}"
    if job.ended:
        yield "used", f"{job.cpu_seconds:g} s of processor time, {format_size(job.memory_bytes)} of memory"
    yield "declaration", job.declaration


def _title(declaration: str) -> str:
    return str(msgspec.json.decode(declaration).get("title", ""))


def _who(step: Step) -> str:
    return f"{step.by}, {format_time(step.time)}, position {step.position}: {step.says}"


def _parameters(job: Job) -> Iterator[tuple[str, str, str]]:
    for name, values in job.parameters.items():
        for value in values:
            if isinstance(value, Upload):
                where = f" from {value.source}" if isinstance(value.source, str) else ""
                yield name, value.filename + where, f"uploads/{value.file}, {value.size} B, {value.sha256}"
            else:
                yield name, value, ""


def _results(told: JobHistory) -> Iterator[tuple[str, ...]]:
    for result in told.results:
        yield result.id, result.path, result.media_type, f"{result.size} B", result.sha256


def _write_steps(page: _Page, history: History, lines: Iterable[bytes]) -> None:
    several = len(history.jobs) > 1
    columns = ("position", "time", *("job",) * several, "who", "through", "event", "what", "facts")
    rows = (_row(told, event, several=several) for told, event in steps(history, lines))
    page.table("Events in the order of the log", columns, _shortened(rows, columns.index("event")))


def _row(told: JobHistory, event: RecordedEvent, *, several: bool) -> tuple[str, ...]:
    step = Step.of(event)
    facts = event.data.decode(errors="replace")
    return (
        str(step.position),
        format_time(step.time),
        *(told.id,) * several,
        "" if event.erased else step.by,
        step.client or "",
        step.type,
        step.says,
        facts if len(facts) <= _SHOWN else f"{facts[:_SHOWN]}…",
    )


def _shortened(rows: Iterable[tuple[str, ...]], event: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows, of many reports of progress in a row the first and the last only."""
    held: list[tuple[str, ...]] = []
    more = 0
    for row in chain(rows, [()]):
        if row and row[event] == e.ProgressMade.__name__:
            if len(held) == _FEW:
                more, last = more + 1, held.pop()
            held.append(row)
            continue
        if more:
            gap = ["…"] + [""] * (len(last) - 1)
            gap[event + 1] = f"{len(held) + more - 2} more reports of progress"
            held[1:-1] = [tuple(gap)]
        yield from held
        held, more = [], 0
        if row:
            yield row


def _write_declarations(page: _Page, history: History) -> None:
    if not history.declarations:
        page.add("p", "None is on record.")
    for digest, text in history.declarations.items():
        page.add("p", f"SHA-256 {digest}:")
        with page.within("pre"):
            for line in msgspec.json.format(text, indent=2).splitlines():
                page.line(line)
