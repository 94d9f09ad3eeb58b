"""Histories in words: what a program's command line was, and characters that nobody sees."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from uws.model import Job, Service, UWSError, make_user_uws_job_class

RESULTS, PARAMETERS, UPLOADS = "results", "parameters.json", "uploads"
"""Where the files of a job are, below its directory."""


def visible(text: str) -> str:
    """Return ``text`` with escapes, as in ``\\u202e``, for all that is not printed or changes what is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def command_line(job: Job, declaration: str) -> list[str]:
    """Return the words of the command that runs for ``job`` under the text of a declaration.

    Files are named as they lie below the job's directory. Raises `ValueError` that says why it cannot be
    told.
    """
    try:
        service = msgspec.json.decode(declaration, type=Service)
        typed = make_user_uws_job_class(service).from_values(job.parameters, UPLOADS)
        return typed.argv(job_id=job.id, results=RESULTS, parameters=PARAMETERS)
    except (UWSError, msgspec.MsgspecError, ValueError) as error:
        raise ValueError(str(error)) from None


def quoted(argv: Sequence[str]) -> str:
    """Return a command line as one would type it into a shell, on one line whatever is in it."""
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in argv)


def _escaped(word: str) -> str:
    return "$'" + visible(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"
