"""Job classes: one struct type per service, generated from its declared parameters."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import msgspec

from .argv import fill
from .errors import MissingParameters, ParameterError, RepeatedParameter
from .events import Upload, Values
from .parameters import BaseParameter, FileParameter, StrParameter
from .service import Service


class UserUWSJobBase(msgspec.Struct, kw_only=True, frozen=True):
    """A job with a working directory, about to run: base of the classes that `make_user_uws_job_class` makes.

    The fields of a generated class are the declared parameters with their values; a file's value is the
    path of the upload. A parameter named like a method of this class, or like a Python keyword, is the
    field of that name with ``_`` behind it; in JSON it has its own name.
    """

    service: ClassVar[Service]

    @classmethod
    def check(cls, name: str, values: Sequence[str | Upload]) -> tuple[str, Values]:
        """Hold what a client sent for one parameter against the declaration.

        Returns the declared spelling of the name and the values to keep (none for a field left blank).
        Raises `ParameterError`, `RepeatedParameter`; `KeyError` for a name that is not known.
        """
        spelling = cls.service.find(name)
        if spelling is None:
            raise KeyError(name)
        parameter: BaseParameter = cls.service.parameters.get(spelling) or StrParameter(multiple=True)
        kept = tuple(
            value for value in values if isinstance(value, Upload) or not parameter.means_nothing(value)
        )
        if len(kept) > 1 and not parameter.multiple:
            raise RepeatedParameter(spelling, f"takes one value, got {len(kept)}")
        for value in kept:
            if isinstance(value, Upload):
                if not isinstance(parameter, FileParameter):
                    raise ParameterError(spelling, f"expected {parameter.type}, got a file")
                continue
            try:
                parameter.check(value)
            except ValueError as error:
                raise ParameterError(spelling, str(error)) from None
        return spelling, kept

    @classmethod
    def missing(cls, values: Mapping[str, Values]) -> list[str]:
        """Return the names of required parameters that have no value."""
        return [
            name
            for name, parameter in cls.service.parameters.items()
            if parameter.required and not values.get(name)
        ]

    @classmethod
    def from_values(cls, values: Mapping[str, Values], uploads: str) -> Self:
        """Make the typed job, defaults filled in. ``uploads`` is the directory of the uploaded files.

        Raises `MissingParameters`, and `ParameterError` where the declaration has changed since the
        values were accepted.
        """
        if missing := cls.missing(values):
            raise MissingParameters(missing)
        fields = {}
        for name, parameter in cls.service.parameters.items():
            _, given = cls.check(name, values.get(name) or parameter.defaults)
            if given:
                typed = [_typed(parameter, value, uploads) for value in given]
                fields[_attribute(name)] = typed if parameter.multiple else typed[0]
        return cls(**fields)

    def argv(self, **places: str) -> list[str]:
        """Return the command for these values; ``places`` are the built-in ones (`BUILT_IN_PLACES`)."""
        values: dict[str, tuple[str, ...]] = {name: (value,) for name, value in places.items()}
        for name, parameter in self.service.parameters.items():
            value = getattr(self, _attribute(name))
            items = value if parameter.multiple else [value]
            values[name] = tuple(parameter.format(item) for item in items if item is not None)
        return fill(self.service.command, values)

    def to_json(self) -> bytes:
        """Return the values as a JSON object: what a program finds in ``UWS_PARAMETERS``."""
        return msgspec.json.encode(self)


def make_user_uws_job_class(service: Service) -> type[UserUWSJobBase]:
    """Generate the job class of ``service``: a field for every parameter, typed and limited as declared."""
    fields: list[tuple[str, Any, Any]] = []
    for name, parameter in service.parameters.items():
        annotation: Any = parameter.annotation
        if parameter.multiple:
            fields.append((_attribute(name), list[annotation], msgspec.field(default_factory=list)))
        elif parameter.has_value:
            fields.append((_attribute(name), annotation, msgspec.NODEFAULT))
        else:
            fields.append((_attribute(name), annotation | None, None))
    title = "".join(word.capitalize() for word in re.split("[_-]", service.name)) + "Job"
    made = msgspec.defstruct(
        title,
        fields,
        bases=(UserUWSJobBase,),
        namespace={"service": service, "__doc__": service.description or service.title},
        rename={_attribute(name): name for name in service.parameters},
        kw_only=True,
        frozen=True,
    )
    assert issubclass(made, UserUWSJobBase)
    return made


def parameters_schema(job_class: type[UserUWSJobBase]) -> dict[str, Any]:
    """Return the JSON Schema of a job class for clients: with defaults; required is what they must send."""
    service = job_class.service
    schema = msgspec.json.schema(job_class)
    definition = schema["$defs"][job_class.__name__]
    definition["required"] = [name for name, p in service.parameters.items() if p.required]
    definition["additionalProperties"] = service.unknown_parameters == "ignore"
    for name, parameter in service.parameters.items():
        default = getattr(parameter, "default", None)
        if default is not None:
            definition["properties"][name]["default"] = default
        else:
            definition["properties"][name].pop("default", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": service.title, **schema}


def _attribute(name: str) -> str:
    taken = hasattr(UserUWSJobBase, name) or name in UserUWSJobBase.__annotations__
    return f"{name}_" if taken or keyword.iskeyword(name) else name


def _typed(parameter: BaseParameter, value: str | Upload, uploads: str) -> Any:
    if isinstance(value, Upload):
        return f"{uploads}/{value.file}"
    return parameter.check(value)
