"""The provenance of a job as a W3C PROV document, by the IVOA Provenance Data Model 1.0.

What the model of the IVOA has and PROV has not is said as that model's mapping to PROV says it: descriptions,
parameters and values are entities whose ``prov:type`` is the class, and relations to them are influences.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from prov.constants import PROV
from prov.identifier import Namespace, QualifiedName
from prov.model import ProvDocument

from uws.model import FileParameter, Parameter, Result, Service, Upload
from uws.model import events as e
from uws.model.text import SERVER_NAME, made_fit

from .runs import Run, Step

VOPROV = Namespace("voprov", "http://www.ivoa.net/documents/ProvenanceDM/index.html#")
UWSD = Namespace("uwsd", "urn:uwsd:provenance:")
"""What neither model has a word for."""
JOB = Namespace("job", "urn:uwsd:job:")
USER = Namespace("user", "urn:uwsd:user:")
DECLARATION = Namespace("declaration", "urn:sha-256:")
SERVER = UWSD["server"]

_DID: Mapping[type[e.JobEvent], str] = {
    e.JobCreated: "created",
    e.ParametersSet: "changed",
    e.RunIdSet: "changed",
    e.ExecutionDurationSet: "changed",
    e.DestructionSet: "changed",
    e.JobQueued: "ran",
    e.JobHeld: "ran",
    e.StopRequested: "stopped",
    e.JobAborted: "aborted",
    e.JobShared: "shared",
    e.JobUnshared: "ended the sharing of",
    e.JobArchived: "destroyed",
    e.JobDestroyed: "destroyed",
}
"""What somebody has done to a job by whom such an event was caused."""
Attributes = list[tuple[Any, Any]]


def document_of(run: Run) -> ProvDocument:
    """Return the provenance of a job. The same events give the same document, always.

    It says what the log says: of a job that was erased little more than that, and by whom.
    """
    return _Writer(run).written()


def as_json(document: ProvDocument) -> bytes:
    """Write a document as PROV-JSON."""
    text = document.serialize(format="json", indent=1, ensure_ascii=False)
    assert text is not None, "it is returned where no destination is given"
    return text.encode()


def as_provn(document: ProvDocument) -> bytes:
    """Write a document as PROV-N."""
    return f"{document.get_provn()}\n".encode()


class _Writer:
    def __init__(self, run: Run) -> None:
        self._run, self._job = run, run.job
        self._to = ProvDocument()
        for namespace in (VOPROV, UWSD, JOB, USER, DECLARATION):
            self._to.add_namespace(namespace)
        self._activity = JOB[run.job.id]
        self._plan = DECLARATION[run.job.declaration] if run.job.declaration else None
        self._agents: set[QualifiedName] = set()

    def written(self) -> ProvDocument:
        self._write_activity()
        if self._plan:
            self._describe(self._plan)
        self._write_agents()
        self._write_program()
        for name, values in self._run.parameters.items():
            for number, value in enumerate(values, start=1):
                if isinstance(value, Upload):
                    self._write_upload(name, number, value)
                else:
                    self._write_parameter(name, number, value)
        for result in self._job.results:
            self._write_result(result)
        if first := self._job.rerun_of:
            self._to.activity(JOB[first], None, None, _typed("Activity"))
            self._influence(self._activity, JOB[first], UWSD["rerunOf"])
        return self._to

    def _write_activity(self) -> None:
        job, erased = self._job, self._run.erased
        about = _typed("Activity")
        about += _given(
            (VOPROV["name"], job.run_id or job.service),
            (UWSD["service"], job.service),
            (UWSD["runId"], job.run_id),
        )
        if erased:
            about += _given((UWSD["erased"], erased.time), (VOPROV["comment"], f"erased: {erased.reason}"))
        else:
            about += _given(
                (UWSD["phase"], str(job.phase)),
                (VOPROV["comment"], job.failure.message if job.failure else job.note),
                (UWSD["created"], job.created),
                (UWSD["exitCode"], job.exit_code),
                (UWSD["signal"], job.signal),
                (UWSD["executionDuration"], job.execution_duration),
                (UWSD["cpuSeconds"], job.cpu_seconds or None),
                (UWSD["memoryBytes"], job.memory_bytes or None),
                (UWSD["batchJob"], job.batch_job),
                (UWSD["host"], job.host),
                (UWSD["deleted"], self._run.gone),
            )
        if imported := self._run.imported:
            about += _given((UWSD["imported"], imported.time), (UWSD["source"], imported.reason))
        self._to.activity(self._activity, job.started, job.ended, about)

    def _write_agents(self) -> None:
        if (owner := self._job.owner) is not None:
            self._associate(self._person(owner), ["owner"])
        if imported := self._run.imported:  # whoever did what there is not known here
            if imported.actor is not None:
                self._associate(self._person(imported.actor), ["imported"])
        else:
            for actor, did in _deeds(self._run.steps):
                self._associate(self._person(actor), did)
        if (erased := self._run.erased) and erased.actor is not None:
            self._associate(self._person(erased.actor), ["erased"])
        server = _typed("Agent", PROV["SoftwareAgent"]) + _given((VOPROV["name"], SERVER_NAME))
        self._to.agent(SERVER, server)
        ran = not self._run.imported
        self._to.association(
            self._activity, SERVER, self._plan if ran else None, None, _role("server" if ran else "recorder")
        )

    def _person(self, name: str) -> QualifiedName:
        agent = USER[_local(name)]
        if agent not in self._agents:
            self._agents.add(agent)
            self._to.agent(agent, _typed("Agent", PROV["Person"]) + _given((VOPROV["name"], name)))
        return agent

    def _associate(self, agent: QualifiedName, roles: Iterable[str]) -> None:
        for role in roles:
            self._to.association(self._activity, agent, None, None, _role(role))

    def _write_program(self) -> None:
        for number, file in enumerate(self._run.program, start=1):
            program = self._entity(
                f"program/{number}",
                "DatasetEntity",
                (VOPROV["name"], file.name),
                (UWSD["sha256"], file.sha256),
            )
            self._to.usage(self._activity, program, self._job.started, None, _role("program"))

    def _write_parameter(self, name: str, number: int, value: str) -> None:
        parameter = self._entity(
            f"parameters/{_local(name)}/{number}",
            "Parameter",
            (VOPROV["name"], name),
            (VOPROV["value"], value),
            (UWSD["isDefault"], True if name not in self._job.parameters else None),
        )
        artefact = _given((VOPROV["artefactType"], "Parameter"))
        self._influence(self._activity, parameter, VOPROV["wasConfiguredBy"], artefact)
        self._is_described(parameter, self._parameter_description(name))

    def _write_upload(self, name: str, number: int, upload: Upload) -> None:
        entity = self._entity(
            f"parameters/{_local(name)}/{number}",
            "DatasetEntity",
            (VOPROV["name"], upload.filename),
            (VOPROV["location"], upload.source or None),
            (UWSD["sha256"], upload.sha256),
            (UWSD["size"], upload.size),
            (UWSD["mediaType"], upload.media_type),
        )
        if self._run.was_started:
            self._to.usage(self._activity, entity, self._job.started, None, _role(name))
        if (sender := _sender(self._run.steps, name)) is not None:
            self._to.attribution(entity, self._person(sender))
        self._is_described(entity, self._parameter_description(name))
        self._may_be_gone(entity)

    def _write_result(self, result: Result) -> None:
        entity = self._entity(
            f"results/{_local(result.id)}",
            "DatasetEntity",
            (VOPROV["name"], result.path.rpartition("/")[2]),
            (VOPROV["location"], result.path),
            (UWSD["sha256"], result.sha256),
            (UWSD["size"], result.size),
            (UWSD["mediaType"], result.media_type),
        )
        self._to.generation(entity, self._activity, self._job.ended, None, _role(result.id))
        if (owner := self._job.owner) is not None:
            self._to.attribution(entity, self._person(owner))
        if self._plan and (declared := _declared_result(self._run.service, result)):
            self._is_described(entity, _below(self._plan, "results", declared))
        self._may_be_gone(entity)

    def _entity(self, local: str, kind: str, *facts: tuple[QualifiedName, Any]) -> QualifiedName:
        entity = _below(self._activity, local)
        self._to.entity(entity, _typed(kind) + _given(*facts))
        return entity

    def _may_be_gone(self, entity: QualifiedName) -> None:
        if self._run.gone:
            self._to.invalidation(entity, None, self._run.gone)

    def _influence(
        self, what: QualifiedName, by: QualifiedName, kind: QualifiedName, more: Attributes | None = None
    ) -> None:
        self._to.influence(what, by, None, [(PROV["type"], kind), *(more or ())])

    def _is_described(self, what: QualifiedName, by: QualifiedName | None) -> None:
        if by is not None:
            self._influence(what, by, VOPROV["isDescribedBy"])

    def _parameter_description(self, name: str) -> QualifiedName | None:
        service = self._run.service
        known = self._plan and service and name in service.parameters
        return _below(self._plan, "parameters", name) if self._plan and known else None

    def _describe(self, plan: QualifiedName) -> None:
        """Write what the declaration says of the activity, of what goes in and of what comes out."""
        service = self._run.service
        facts = _typed("ActivityDescription", PROV["Plan"])
        facts += _given((VOPROV["name"], self._job.service), (UWSD["sha256"], self._job.declaration))
        if service:
            command = msgspec.json.encode(service.command).decode()
            facts += _given(
                (PROV["label"], service.title),
                (VOPROV["description"], service.description),
                (VOPROV["version"], service.version),
                (UWSD["command"], command),
            )
        self._to.entity(plan, facts)
        self._influence(self._activity, plan, VOPROV["isDescribedBy"])
        for name, parameter in service.parameters.items() if service else ():
            described = _below(plan, "parameters", name)
            self._to.entity(described, _description_of(name, parameter))
            self._influence(described, plan, VOPROV["isRelatedTo"])
        for result in service.results if service else ():
            described = _below(plan, "results", result.id)
            least, most = int(not result.optional), "*" if result.is_glob else "1"
            about = _typed("GenerationDescription") + _given(
                (VOPROV["role"], result.id), (VOPROV["multiplicity"], f"{least}..{most}")
            )
            self._to.entity(described, about)
            self._influence(described, plan, VOPROV["isRelatedTo"])
            if result.mime:
                dataset = _below(described, "dataset")
                contents = _given((VOPROV["name"], result.id), (VOPROV["contentType"], result.mime))
                self._to.entity(dataset, _typed("DatasetDescription") + contents)
                self._influence(described, dataset, VOPROV["isDescribedBy"])


def _description_of(name: str, parameter: Parameter) -> Attributes:
    if isinstance(parameter, FileParameter):
        least, most = int(parameter.required), "*" if parameter.multiple else "1"
        return _typed("UsageDescription") + _given(
            (VOPROV["role"], name),
            (VOPROV["description"], parameter.description),
            (VOPROV["multiplicity"], f"{least}..{most}"),
        )
    limits = ((limit, getattr(parameter, limit, None)) for limit in ("min", "max"))
    return _typed("ParameterDescription") + _given(
        (VOPROV["name"], name),
        (VOPROV["valueType"], parameter.type),
        (VOPROV["description"], parameter.description),
        (VOPROV["unit"], parameter.unit),
        (VOPROV["ucd"], parameter.ucd),
        *((VOPROV[limit], str(value)) for limit, value in limits if value is not None),
        (VOPROV["options"], ",".join(parameter.options)),
        (VOPROV["default"], ",".join(parameter.defaults)),
    )


def _deeds(steps: Iterable[Step]) -> Iterator[tuple[str, list[str]]]:
    """Yield who has done something to the job and what, each once, in the order of the log."""
    deeds: dict[str, dict[str, None]] = {}
    for step in steps:
        did = _DID.get(type(step.event))
        if did and step.actor not in (None, SERVER_NAME):
            deeds.setdefault(str(step.actor), {})[did] = None
    for actor, did_by in deeds.items():
        yield actor, [*did_by]


def _sender(steps: Iterable[Step], name: str) -> str | None:
    """Return who gave a parameter the values that it had last; of a job that repeats another one, nobody."""
    sets = (
        None if isinstance(step.event, e.JobCreated) and step.event.rerun_of else step.actor
        for step in steps
        if isinstance(step.event, e.JobCreated | e.ParametersSet) and name in step.event.parameters
    )
    *_, last = [None, *sets]
    return last


def _declared_result(service: Service | None, result: Result) -> str | None:
    """Return the declaration that a result answers to: of a glob, each file has its own id."""
    if service is None:
        return None
    ids = sorted((one.id for one in service.results), key=len, reverse=True)
    return next((one for one in ids if result.id == one or result.id.startswith(f"{one}-")), None)


def _typed(kind: str, *more: QualifiedName) -> Attributes:
    return [(PROV["type"], one) for one in (VOPROV[kind], *more)]


def _role(role: str) -> Attributes:
    return _given((PROV["role"], role))


def _given(*facts: tuple[QualifiedName, Any]) -> Attributes:
    """Return facts that are known, texts such that any form of the document can carry them."""
    return [(name, _fit(value)) for name, value in facts if value not in (None, "")]


def _fit(value: Any) -> Any:
    return made_fit(value) if isinstance(value, str) else value


def _below(name: QualifiedName, *parts: str) -> QualifiedName:
    return name.namespace["/".join((name.localpart, *parts))]


def _local(name: str) -> str:
    """Return a name as a part of an identifier, whatever is in it."""
    return quote(made_fit(name), safe="")
