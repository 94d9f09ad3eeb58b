"""Examples of a service: values with which it shows what it does (DALI 1.1 section 2.3)."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

import msgspec

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Scalar = str | int | float | bool
Given = Annotated[Scalar | list[Scalar], msgspec.Meta(description="value, or list of values")]
"""What an example gives a parameter: a value, or several."""


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call of a service that comes to something."""

    title: str
    """One line for people."""
    id: str = ""
    """Its name in URLs: letters, digits, ``_``, ``.`` and ``-``; by default the words of the title."""
    description: str = ""
    """What is to be seen."""
    parameters: dict[str, Given] = {}
    """A value for each parameter, or a list where it takes several; of a file parameter, the path of a file,
    relative to the file that declares it. All that are required have one.
    """

    def __post_init__(self) -> None:
        if not self.id:
            msgspec.structs.force_setattr(self, "id", _slug(self.title))
        if not self.id:
            raise ValueError(f"id: missing; none can be made of the title {self.title!r}")
        if not _ID.fullmatch(self.id):
            raise ValueError(
                f"id: {self.id!r} is not made of letters, digits, '_', '.' and '-', a letter or digit first"
            )

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The values of each parameter as a client would send them."""
        return {
            name: tuple(map(_text, given if isinstance(given, list) else [given]))
            for name, given in self.parameters.items()
        }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _slug(title: str) -> str:
    """Return a title's ASCII letters and digits, in lower case, with hyphens between the words."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")
