"""The XML documents of UWS 1.1 (section 2.2.2), elements in the schema's order.

What only the page made of a document tells stands in processing instructions, which other readers pass over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from lxml import etree

from projections import JobReference
from uws.jobs import Offered
from uws.model import SETTING_UP, Failure, Job, Phase, Upload
from uws.model.text import made_fit
from uws.model.units import format_time
from uws.queueing import Standing

UWS = "http://www.ivoa.net/xml/UWS/v1.0"
XLINK = "http://www.w3.org/1999/xlink"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
INFO = "urn:uwsd:jobinfo"
"""The namespace of what stands in our jobInfo."""
Facts = Mapping[str, str | list[str] | None]
"""What only the page made of a document tells, by name: nothing, one text, or several."""
_BLANKS = re.compile(r"[\r\n\t]+")
_NAMESPACES = {"uws": UWS, "xlink": XLINK, "xsi": XSI}


class Refused(NamedTuple):
    """A setting of a job that was not accepted: its name in UWS, why, and what was sent, if anything."""

    name: str
    reason: str
    sent: str | None


def job_document(
    uws: Offered,
    job: Job,
    standing: Standing | None = None,
    refused: Refused | None = None,
    may: str | None = None,
) -> etree._Element:
    """Return the document of a job, with its stylesheet; ``standing`` is how it waits in the queue.

    With what was ``refused``, it is shown where that was sent to: below the job. ``may`` is what its
    reader may do to it, where that is not everything.
    """
    root = _root("job")
    root.set("version", "1.1")
    _add(root, "jobId", job.id)
    if job.run_id is not None:
        _add(root, "runId", job.run_id)
    _add(root, "ownerId", job.owner, nillable=True)
    _add(root, "phase", job.phase)
    _add_time(root, "quote", job.quote)
    _add_time(root, "creationTime", job.created)
    _add_time(root, "startTime", job.started)
    _add_time(root, "endTime", job.ended)
    _add(root, "executionDuration", str(job.execution_duration))
    _add_time(root, "destruction", job.destruction)
    root.append(_parameters(uws, job))
    root.append(_results(uws, job))
    if failure := error_of(job):
        summary = etree.SubElement(root, f"{{{UWS}}}errorSummary")
        summary.set("type", failure.type)
        summary.set("hasDetail", "true" if failure.detail else "false")
        _add(summary, "message", failure.message)
    _add_info(root, info_of(job, standing))
    facts: dict[str, str | list[str] | None] = {
        "service": uws.service.title,
        "may": may,
        "file": _names_of_files(uws, job),
        "version": str(job.version),
    }
    if job.phase in SETTING_UP:
        facts["missing"] = ", ".join(uws.job_class.missing(job.parameters))
    if refused:
        facts |= {"refused": refused.name, "reason": refused.reason, "sent": refused.sent}
    return with_stylesheet(root, uws.jobdoc_preamble, facts)


class JobList:
    """The document of a job list, with its stylesheet, as a whole or part by part.

    ``begin``, any number of `entries`, and ``end`` are one document.
    """

    def __init__(self, uws: Offered, facts: Facts | None = None) -> None:
        self._uws = uws
        self._facts = {"service": uws.service.title, **(facts or {})}
        self.begin: bytes
        self.end: bytes
        marked = self.whole(())
        marked.append(etree.Comment())
        self.begin, _, self.end = serialise(marked).rpartition(b"  <!---->\n")

    def entries(self, references: Sequence[JobReference]) -> bytes:
        """Return the part of the document that names these jobs."""
        if not references:
            return b""
        return serialise(self.whole(references)).removeprefix(self.begin).removesuffix(self.end)

    def whole(self, references: Sequence[JobReference | Job]) -> etree._Element:
        """Return a document that names these jobs and no others; of whole jobs, a page tells more."""
        root = _root("jobs")
        root.set("version", "1.1")
        for reference in references:
            entry = etree.SubElement(root, f"{{{UWS}}}jobref")
            entry.set("id", reference.id)
            entry.set(f"{{{XLINK}}}type", "simple")
            entry.set(f"{{{XLINK}}}href", self._uws.get_url_for_id(reference.id))
            _add(entry, "phase", reference.phase)
            if reference.run_id is not None:
                _add(entry, "runId", reference.run_id)
            _add(entry, "ownerId", reference.owner, nillable=True)
            _add(entry, "creationTime", format_time(reference.created))
            if isinstance(reference, Job):
                entry.extend(_instructions(_listed(reference)))
        return with_stylesheet(root, self._uws.joblist_preamble, self._facts)


def parameters_document(uws: Offered, job: Job) -> etree._Element:
    """Return the parameters of a job alone."""
    return with_stylesheet(
        _parameters(uws, job), uws.jobdoc_preamble, {"job": job.id, "file": _names_of_files(uws, job)}
    )


def results_document(uws: Offered, job: Job) -> etree._Element:
    """Return the results of a job alone."""
    return with_stylesheet(_results(uws, job), uws.jobdoc_preamble, {"job": job.id})


def error_of(job: Job) -> Failure | None:
    """Return what the document of a job tells of its failure."""
    return job.failure if job.phase is Phase.ERROR else None


def info_of(job: Job, standing: Standing | None) -> dict[str, str | int | float]:
    """Return the facts of a job that UWS has no element for, by the names they have in jobInfo."""
    facts: dict[str, str | int | float | None] = {
        "execution": "sync" if job.sync else None,
        "reason": job.note or None,
        "stopping": job.stop if not job.has_ended else None,
        "progress": job.progress,
        "doing": job.doing or None,
        "exitCode": job.exit_code,
        "signal": job.signal,
        "signalled": job.signalled if not job.has_ended else None,
        "requeued": job.requeued or None,
        "batchJob": job.batch_job or None,
        "host": job.host or None,
        "cpuSeconds": job.cpu_seconds or None,
        "memoryBytes": job.memory_bytes or None,
        "place": standing.place if standing else None,
        "waitsFor": standing.reason if standing else None,
        "expectedStart": format_time(standing.start) if standing and standing.start else None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _listed(job: Job) -> dict[str, str | None]:
    """Return what the page of a list tells of a job beyond its entry."""
    return {
        "execution": "sync" if job.sync else None,
        "progress": str(job.progress) if job.progress is not None and not job.has_ended else None,
        "ended": format_time(job.ended) if job.ended else None,
    }


def url_of_upload(uws: Offered, job: Job, name: str, number: int) -> str:
    """Return where the ``number``-th file of a parameter is, counted from 1."""
    url = f"{uws.get_url_for_id(job.id)}/parameters/{name}"
    return url_of_nth(url, number, len(job.parameters[name]))


def _names_of_files(uws: Offered, job: Job) -> list[str]:
    """Return what the files of parameters are called, each behind its URL."""
    return [
        f"{url_of_upload(uws, job, name, number)} {value.filename}"
        for name, values in job.parameters.items()
        for number, value in enumerate(values, start=1)
        if isinstance(value, Upload) and value.filename
    ]


def _parameters(uws: Offered, job: Job) -> etree._Element:
    root = _root("parameters")
    for name, values in job.parameters.items():
        for index, value in enumerate(values, start=1):
            parameter = etree.SubElement(root, f"{{{UWS}}}parameter")
            parameter.set("id", name)
            if isinstance(value, Upload):
                parameter.set("byReference", "true")
                parameter.text = url_of_upload(uws, job, name, index)
            else:
                parameter.text = value
    return root


def _results(uws: Offered, job: Job) -> etree._Element:
    root = _root("results")
    for result in job.results:
        element = etree.SubElement(root, f"{{{UWS}}}result")
        element.set("id", result.id)
        element.set(f"{{{XLINK}}}type", "simple")
        element.set(f"{{{XLINK}}}href", f"{uws.get_url_for_id(job.id)}/results/{result.id}")
        element.set("size", str(result.size))
        element.set("mime-type", result.media_type)
    return root


def _add_info(root: etree._Element, known: dict[str, str | int | float]) -> None:
    if known:
        info = etree.SubElement(root, f"{{{UWS}}}jobInfo")
        for name, fact in known.items():
            element = etree.SubElement(info, f"{{{INFO}}}{name}")
            element.text = str(fact)


def _root(name: str) -> etree._Element:
    return etree.Element(f"{{{UWS}}}{name}", nsmap=_NAMESPACES)


def _add(parent: etree._Element, name: str, text: str | None, *, nillable: bool = False) -> None:
    element = etree.SubElement(parent, f"{{{UWS}}}{name}")
    if text is None and nillable:
        element.set(f"{{{XSI}}}nil", "true")
    else:
        element.text = text


def _add_time(parent: etree._Element, name: str, time: datetime | None) -> None:
    _add(parent, name, format_time(time) if time else None, nillable=True)


def add(parent: etree._Element, name: str, text: str = "", /, **attributes: str) -> etree._Element:
    """Add an element of the parent's namespace; of its text, what XML cannot carry becomes U+FFFD."""
    namespace = etree.QName(parent).namespace
    element = etree.SubElement(parent, f"{{{namespace}}}{name}" if namespace else name, attributes)
    element.text = made_fit(text) or None
    return element


def url_of_nth(url: str, number: int, count: int) -> str:
    """Return where the ``number``-th of so many files is, counted from 1, of which ``url`` is that of all."""
    return url if count == 1 else f"{url}/{number}"


def with_stylesheet(
    root: etree._Element, preamble: tuple[str, str], facts: Facts | None = None
) -> etree._Element:
    """Say how a page is made of a document, and what else stands there: ``facts``, as ``<?uwsd-NAME …?>``."""
    root.addprevious(etree.ProcessingInstruction(*preamble))
    for instruction in _instructions(facts or {}):
        root.addprevious(instruction)
    return root


def _instructions(facts: Facts) -> Iterator[etree._ProcessingInstruction]:
    for name, told in facts.items():
        for fact in told if isinstance(told, list) else [told]:
            if fact:
                text = made_fit(_BLANKS.sub(" ", fact).strip()).replace("?>", "? >")
                yield etree.ProcessingInstruction(f"uwsd-{name}", text)


def serialise(root: etree._Element) -> bytes:
    """Return a document as it is sent."""
    return etree.tostring(root.getroottree(), xml_declaration=True, encoding="UTF-8", pretty_print=True)
