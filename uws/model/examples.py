"""Examples of a service: values with which it shows what it does (DALI 1.1 section 2.3)."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import msgspec

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Scalar = str | int | float | bool
Given = Scalar | list[Scalar]
"""What an example gives a parameter: a value, or several."""


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call of a service that comes to something. ``title`` is one line for people.

    ``id`` names it in URLs, and follows from the title where it is not given. Of a file parameter, the value
    is the path of a file.
    """

    title: str
    id: str = ""
    description: str = ""
    parameters: dict[str, Given] = {}

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
