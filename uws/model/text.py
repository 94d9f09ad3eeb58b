"""Text that an XML 1.0 document can carry (section 2.2), escaped or not."""

from __future__ import annotations

import re

_FOREIGN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def first_foreign(text: str) -> str | None:
    """Return the first character of ``text`` that XML cannot carry, None when it can carry all."""
    found = _FOREIGN.search(text)
    return found[0] if found else None


def made_fit(text: str) -> str:
    """Return ``text`` with U+FFFD in place of what XML cannot carry."""
    return _FOREIGN.sub("\ufffd", text)
