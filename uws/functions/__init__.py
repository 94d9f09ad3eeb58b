"""Python functions as services: what their annotations say, and how they are called.

An annotated function is declared like a program (`uws.make_service`, or ``function`` in TOML). Its parameters
follow from its signature (`describe`), which for a file's declaration is read in a process of its own
(`described`): no code of an operator's runs in the server. Its job is a process ``python -m uws.functions
call MODULE:NAME``, to which queue, supervisors, limits and results are the same as for any program.
"""

from .annotations import Circle, Interval, Parameter, Point, Polygon
from .finding import PATH, NoFunction, directory_of, reference_of
from .helper import command_of, described
from .signature import Description, describe

__all__ = [
    "PATH",
    "Circle",
    "Description",
    "Interval",
    "NoFunction",
    "Parameter",
    "Point",
    "Polygon",
    "command_of",
    "describe",
    "described",
    "directory_of",
    "reference_of",
]
