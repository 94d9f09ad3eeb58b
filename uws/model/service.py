"""Service declarations: what an operator says about a program that he offers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

from .argv import Template, check_template, option_places
from .errors import DeclarationError, did_you_mean
from .examples import Example
from .parameters import FileParameter, Parameter, StrParameter
from .text import first_foreign, is_name
from .units import Duration, Size, parse_duration, parse_size

MAX_DURATION = 2**31 - 1  # executionDuration is an xs:int
STANDARD_PARAMETERS = ("RESPONSEFORMAT", "MAXREC", "REQUEST", "VERSION", "LANG")
"""Names that are never unknown (DALI 1.1 section 3.4), declared or not."""
CONTROL_PARAMETERS = ("PHASE", "ACTION", "RUNID", "DESTRUCTION", "EXECUTIONDURATION", "UPLOAD", "WAIT")
"""Names that mean something to UWS or DALI itself and cannot be declared."""
BUILT_IN_PLACES = ("job_id", "results", "parameters")
"""Places that every command template has besides its parameters."""

_SERVICE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_PARAMETER_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w.+-]+=[\w.+-]+)*", re.ASCII)
_SLURM_WORD = re.compile(r"[\w.:,=&|()\[\]*@/+-]+", re.ASCII)
_RESULT_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_RESERVED_SERVICES = (
    "static", "availability", "audit", "queue", "metrics", "healthz", "readyz", "login", "logout",
)  # fmt: skip


class _Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A default and a maximum; 0 is unlimited, and the default only where the maximum is."""

    default: Duration
    """What a job has that asks for nothing else."""
    max: Duration
    """What a job has at most, whatever it asks for."""

    def __post_init__(self) -> None:
        for field in ("default", "max"):
            try:
                seconds = parse_duration(getattr(self, field))
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
            if seconds > MAX_DURATION:
                raise ValueError(f"{field}: above {MAX_DURATION} seconds")
        if self.max_seconds and not 0 < self.seconds <= self.max_seconds:
            raise ValueError(
                f"default: {self.default} is not between 1 and the maximum {self.max}"
                + ("; 0 (unlimited) needs max = 0" if self.seconds == 0 else "")
            )

    @property
    def seconds(self) -> int:
        """The default in seconds."""
        return parse_duration(self.default)

    @property
    def max_seconds(self) -> int:
        """The maximum in seconds; 0 is none."""
        return parse_duration(self.max)

    def clamp(self, seconds: int) -> int:
        """Return the allowed value nearest to ``seconds``; 0 asks for unlimited."""
        most = self.max_seconds or MAX_DURATION
        if seconds == 0:
            return 0 if self.max_seconds == 0 else most
        return min(seconds, most)


class ExecutionDuration(_Limit, frozen=True):
    """How long a job may run. 0 is unlimited, and allowed only where ``max`` is 0, too."""

    default: Duration = 3600
    max: Duration = 86400


class Lifetime(_Limit, frozen=True):
    """How long a job is kept after its creation. 0 is for ever, and allowed only where ``max`` is 0, too."""

    default: Duration = "7d"
    max: Duration = "30d"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all processes of one job together may use; a program that uses more is ended.

    What is not named has no limit.
    """

    memory: Size | None = None
    """Memory of all processes together, not counting files that are mapped."""
    cpu: Duration | None = None
    """Processor time of all processes together."""
    disk: Size | None = None
    """What the job's directory takes, standard output and error included."""
    processes: int | None = None
    """How many there are at one time; threads do not count."""
    file_size: Size | None = None
    """The size of each file that is written, at least 4096 bytes; kept by the system."""
    open_files: int | None = None
    """Files that each process has open, at least 16; kept by the system."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            given = getattr(self, name)
            if given is None:
                continue
            try:
                number = _LIMIT_UNITS.get(name, int)(given)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if number < (least := _LEAST.get(name, 1)):
                raise ValueError(f"{name}: {given} is below the minimum {least}")

    @property
    def numbers(self) -> dict[str, int]:
        """The limits there are, by name: bytes, seconds, or how many."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            name: _LIMIT_UNITS.get(name, int)(limit) for name, limit in given.items() if limit is not None
        }

    def __bool__(self) -> bool:
        return bool(self.numbers)


_LIMIT_UNITS: dict[str, Callable[[Any], int]] = {
    "memory": parse_size, "disk": parse_size, "file_size": parse_size, "cpu": parse_duration,
}  # fmt: skip
_LEAST = {"open_files": 16, "file_size": 4096}  # the supervisor has its part of them
"""Fewer, and hardly a program starts."""


class ResultDeclaration(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A result: a file, or several, that the program leaves."""

    id: str
    """Its name in URLs: letters, digits, ``_``, ``.`` and ``-``."""
    path: str
    """Looked for in the results directory, then in the working directory; ``-`` is standard output, a glob
    gives one result a file.
    """
    mime: str | None = None
    """Its media type; guessed from the file's name where it is not given."""
    optional: bool = False
    """Whether the job is COMPLETED without it; else it is in ERROR."""

    def __post_init__(self) -> None:
        if not _RESULT_ID.fullmatch(self.id):
            raise ValueError(f"id: {self.id!r} is not made of letters, digits, '_', '.' and '-'")
        if self.mime is not None and not _MEDIA_TYPE.fullmatch(self.mime):
            raise ValueError(f"mime: {self.mime!r} is no media type such as application/fits")
        path = PurePosixPath(self.path)
        if not self.path or path.is_absolute() or ".." in path.parts or "\0" in self.path:
            raise ValueError(f"path: {self.path!r} does not lead to a file below the job's directory")
        if first_foreign(self.path):
            raise ValueError(f"path: {self.path!r} has a character that cannot be part of an XML document")
        if any("**" in part and part != "**" for part in path.parts):
            raise ValueError(f"path: in {self.path!r}, '**' is not a whole part of the path")

    @property
    def is_glob(self) -> bool:
        return any(character in self.path for character in "*?[")


class Slurm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What Slurm is asked for besides memory and time: options of sbatch(1) of the same names.

    What is left out is left to Slurm.
    """

    partition: str | None = None
    """The partition that runs the jobs."""
    account: str | None = None
    """The account that is charged."""
    qos: str | None = None
    """The quality of service."""
    constraint: str | None = None
    """Features that nodes must have."""
    gres: str | None = None
    """Generic resources, such as ``gpu:1``."""
    cpus: int = 1
    """Processors of the one task that a job is (``--cpus-per-task``)."""

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "constraint", "gres"):
            if (given := getattr(self, name)) is not None and not _SLURM_WORD.fullmatch(given):
                raise ValueError(f"{name}: {given!r} is nothing that Slurm knows by a name")
        if self.cpus < 1:
            raise ValueError(f"cpus: {self.cpus} is below the minimum 1")

    @property
    def options(self) -> list[str]:
        """Return them as sbatch takes them."""
        named = ("partition", "account", "qos", "constraint", "gres")
        given = [f"--{name}={value}" for name in named if (value := getattr(self, name))]
        return [*given, f"--cpus-per-task={self.cpus}"]


CALL = ("-P", "-m", "uws.functions", "call")
"""What stands between Python and the name of a function that a job calls.

-P: what lies in a job's working directory is not imported.
"""


class Service(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):
    """A program, or a Python function, offered as a UWS.

    Raises `DeclarationError` naming all that does not fit together.
    """

    name: str
    """Its part of the URL: letters, digits, ``_`` and ``-``, a letter first."""
    title: str
    """One line for people; of a function, by default the first line of its docstring."""
    command: Template
    """The program and its arguments, no shell; ``{name}`` in them is a parameter's value, and a list in the
    list is left out when it has none.
    """
    description: str = ""
    """More for people than the title; of a function, by default the rest of its docstring."""
    version: str = ""
    """The program's version as its operator calls it; it stands in the provenance of jobs."""
    environment: dict[str, str] = {}
    """Variables that the program gets besides the usual ones; their values do not go on record."""
    max_running: int = 1
    """Jobs of the service that run at one time."""
    execution_duration: ExecutionDuration = ExecutionDuration()
    """How long a job may run. 0 is unlimited, and allowed only where ``max`` is 0, too."""
    lifetime: Lifetime = Lifetime()
    """How long a job is kept after its creation."""
    results: list[ResultDeclaration] = []
    """What the program leaves; where none is declared, every file in the results directory."""
    parameters: dict[str, Parameter] = {}
    """What clients may give to a job, by name."""
    examples: list[Example] = []
    """Calls that come to something."""
    unknown_parameters: Literal["refuse", "ignore"] = "refuse"
    """What becomes of a request with names that are not declared: 400, or they are ignored."""
    archive: bool = False
    """Whether a job that is destroyed leaves an ARCHIVED document, without files."""
    limits: Limits = Limits()
    """What all processes of a job may use; a program that uses more is ended."""
    nice: int = 0
    """How much its programs yield to others, 0 to 19."""
    sandbox: bool = False
    """Whether its programs run in bubblewrap: no network, and of the server's files only their own."""
    on_lost: Literal["error", "requeue"] = "error"
    """What becomes of a job whose program was lost with the machine: ERROR, or it is started again."""
    requeues: int = 3
    """How often a job is started again at most, with ``on_lost = "requeue"``."""
    max_running_per_owner: int | None = None
    """Jobs of the service and of one owner that run at one time; by default without a limit."""
    max_queued_per_owner: int | None = None
    """Jobs of the service and of one owner that are QUEUED; by default without a limit."""
    when_full: Literal["refuse", "hold"] = "refuse"
    """What RUN does where as many are QUEUED as may be: it is 403, or the job is HELD until there is room."""
    priority: int = 0
    """Services with a higher one go first."""
    progress_prefix: str = ""
    """What lines of standard output begin with that tell of progress; by default none does."""
    warm: bool = False
    """Whether the function's module is kept loaded, so that jobs need not import it."""
    groups: list[str] = []
    """The groups to whose members it is limited; by default it is for all who are let in."""
    executor: Literal["local", "slurm"] = "local"
    """What runs its jobs: the server's machine, or Slurm."""
    slurm: Slurm = Slurm()
    """What Slurm is asked for besides memory and time."""

    def __post_init__(self) -> None:
        problems = [f"services.{self.name}{place}: {what}" for place, what in self._problems()]
        if problems:
            raise DeclarationError(problems)

    def _problems(self) -> Iterator[tuple[str, str]]:
        if not _SERVICE_NAME.fullmatch(self.name):
            yield "", f"the name {self.name!r} is not made of letters, digits, '_' and '-', a letter first"
        elif self.name in _RESERVED_SERVICES:
            yield "", f"the name {self.name} is taken by the server itself"
        for key in ("title", "description", "version"):
            if first_foreign(getattr(self, key)):
                yield f".{key}", "has a character that cannot be part of an XML document"
        for key in ("max_running", "max_running_per_owner", "max_queued_per_owner"):
            if (most := getattr(self, key)) is not None and most < 1:
                yield f".{key}", f"{most} is below the minimum 1"
        if not 0 <= self.nice <= 19:
            yield ".nice", f"{self.nice} is not between 0 and 19"
        if self.requeues < 1:
            yield ".requeues", f'{self.requeues} is below the minimum 1; never is on_lost = "error"'
        if self.warm and self.function is None:
            yield ".warm", "only the module of a function can be kept loaded"
        if self.warm and self.sandbox:
            yield ".warm", "what runs in a sandbox is loaded there: leave out one of the two"
        yield from self._executor_problems()
        if not self.progress_prefix.isprintable():
            yield ".progress_prefix", f"{self.progress_prefix!r} is not the beginning of a line of text"
        for index, group in enumerate(self.groups):
            if not is_name(group):
                yield f".groups[{index}]", f"{group!r} is no group's name; write it without '@'"
        yield from self._parameter_problems()
        yield from self._example_problems()
        ids = [result.id for result in self.results]
        for index, name in enumerate(ids):
            if name in ids[:index]:
                yield f".results[{index}].id", f"{name} is taken by another result"
        for variable, value in self.environment.items():
            if not variable or "=" in variable or "\0" in variable + value:
                yield f".environment.{variable}", "no process can have such a variable"
            if variable.startswith("UWS_"):
                yield f".environment.{variable}", "variables that begin with UWS_ are set by the server"
        always = {name for name, parameter in self.parameters.items() if parameter.has_value}
        multiple = {name for name, parameter in self.parameters.items() if parameter.multiple}
        for place, what in check_template(
            self.command,
            single=(always - multiple) | set(BUILT_IN_PLACES),
            optional=self.parameters.keys() - always - multiple,
            multiple=multiple,
        ):
            yield f".command{place}", what

    def _executor_problems(self) -> Iterator[tuple[str, str]]:
        if self.executor == "local":
            if self.slurm != Slurm():
                yield ".slurm", 'is for jobs that Slurm runs: add executor = "slurm", or leave it out'
            return
        for name in self.limits.numbers:
            if name != "memory":
                yield f".limits.{name}", "Slurm holds a job to its memory and time alone: leave it out"
        for variable in self.environment:
            if variable.startswith(("SLURM_", "SBATCH_")):
                yield f".environment.{variable}", "variables that begin so are between Slurm and its commands"
        for name in ("sandbox", "warm", "nice"):
            if getattr(self, name):
                what = 'is for programs of this machine: leave it out, or executor = "slurm"'
                yield f".{name}", what

    def _parameter_problems(self) -> Iterator[tuple[str, str]]:
        seen: dict[str, str] = {}
        for name in self.parameters:
            place = f".parameters.{name}"
            if not _PARAMETER_NAME.fullmatch(name):
                yield place, "a name is made of letters, digits and '_', a letter first, no '_' last"
            for key in ("description", "unit", "ucd"):
                if first_foreign(getattr(self.parameters[name], key)):
                    yield f"{place}.{key}", "has a character that cannot be part of an XML document"
            if name.upper() in CONTROL_PARAMETERS:
                yield place, f"the name {name.upper()} means something to UWS itself"
            if name in BUILT_IN_PLACES:
                yield place, f"the name {name} is taken by the place {{{name}}}"
            if name.lower() in seen:
                yield place, f"differs from {seen[name.lower()]} only in case, which clients may ignore"
            seen[name.lower()] = name

    def _example_problems(self) -> Iterator[tuple[str, str]]:
        ids = [example.id for example in self.examples]
        for index, example in enumerate(self.examples):
            place = f".examples[{index}]"
            if example.id in ids[:index]:
                yield f"{place}.id", f"{example.id} is taken by another example; give it one of its own"
            for key in ("title", "description"):
                if first_foreign(getattr(example, key)):
                    yield f"{place}.{key}", "has a character that cannot be part of an XML document"
            for name, values in example.values.items():
                for problem in self._value_problems(name, values):
                    yield f"{place}.parameters.{name}", problem
            needed = [name for name, parameter in self.parameters.items() if parameter.required]
            if missing := [name for name in needed if not example.values.get(name)]:
                yield f"{place}.parameters", f"required, but not given: {', '.join(missing)}"

    def _value_problems(self, name: str, values: tuple[str, ...]) -> Iterator[str]:
        """Say what is wrong with values as a client would send them; of files, nothing is known here."""
        parameter = self.parameters.get(name)
        if parameter is None:
            yield self.unknown(name)
            return
        if len(values) > 1 and not parameter.multiple:
            yield f"takes one value, got {len(values)}"
        for value in values if not isinstance(parameter, FileParameter) else ():
            try:
                parameter.check(value)
            except ValueError as error:
                yield str(error)

    @property
    def warnings(self) -> list[str]:
        """What is allowed, and hardly meant, with its place."""
        return [
            f"services.{self.name}.command{place}: a value of {name} that begins with '-' can be taken for "
            f'an option: put "--" before it, write it as "--option={{{name}}}", or give {name} a pattern '
            "that begins with (?!-)"
            for place, name in option_places(self.command)
            if isinstance(parameter := self.parameters.get(name), StrParameter)
            and parameter.may_begin_with_dash
        ]

    @property
    def answers_with(self) -> str | None:
        """The media type of the primary result, where it is declared and sure to be there."""
        first = self.results[0] if self.results else None
        return first.mime if first and not first.optional else None

    @property
    def function(self) -> str | None:
        """The Python function, ``package.module:name``, that its jobs call if they run no other program;
        ``command`` and ``parameters`` follow from it.
        """
        words = [*map(str, self.command)]
        return words[-1] if tuple(words[1:-1]) == CALL else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the declaration's canonical JSON: the version of the declaration."""
        return sha256(self.canonical).hexdigest()

    @property
    def canonical(self) -> bytes:
        """The declaration as JSON with sorted keys, for the record: of its environment only the names.

        Their values may be secrets. Examples say nothing of what becomes of jobs, and name files of this
        machine.
        """
        shown = msgspec.structs.replace(self, environment=dict.fromkeys(self.environment, ""), examples=[])
        return msgspec.json.encode(shown, order="deterministic")

    def find(self, name: str) -> str | None:
        """Return the declared spelling of a parameter's name, whatever its case (DALI 1.1 section 3.4)."""
        return self._spelling.get(name.lower())

    @cached_property
    def _spelling(self) -> dict[str, str]:
        standard = {name.lower(): name for name in STANDARD_PARAMETERS}
        return standard | {name.lower(): name for name in self.parameters}

    def unknown(self, name: str) -> str:
        """Say that there is no parameter ``name``, and which there are."""
        known = ", ".join(self.parameters) or "none"
        return f"unknown parameter{did_you_mean(name, self.parameters)}; {self.name} takes: {known}"
