"""Text that an XML 1.0 document can carry (section 2.2), escaped or not; and names of users and groups."""

from __future__ import annotations

import re
import unicodedata
from typing import TypeGuard

LONGEST_NAME = 255
"""Characters of a user's or a group's name (as of ``sub``, OpenID Connect Core 1.0 section 2)."""
SERVER_NAME = "uwsd"
"""Who the server itself is in the log, which is the name of nobody else."""
_FOREIGN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def first_foreign(text: str) -> str | None:
    """Return the first character of ``text`` that XML cannot carry, None when it can carry all."""
    found = _FOREIGN.search(text)
    return found[0] if found else None


def made_fit(text: str) -> str:
    """Return ``text`` with U+FFFD in place of what XML cannot carry."""
    return _FOREIGN.sub("\ufffd", text)


def is_name(value: object) -> TypeGuard[str]:
    """Whether a user or a group may be called so: in a line of a log, in a document, beside ``@group``.

    Of the ways in which Unicode writes the same text only one will do (NFC, UAX #15): it is one name.
    """
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_NAME
        and value.isprintable()
        and value == value.strip()
        and not value.startswith("@")  # which is how groups are told from users
        and value != "*"  # which stands for everybody
        and first_foreign(value) is None
        and unicodedata.is_normalized("NFC", value)
    )


def made_name(text: str) -> str | None:
    """Return the name that ``text`` is in normal form (NFC); None where it is that already, or no name."""
    normalised = unicodedata.normalize("NFC", text)
    return normalised if normalised != text and is_name(normalised) else None
