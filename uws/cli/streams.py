"""The standard streams: what is done where they are closed, full, not read, or know few characters."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from json import dumps
from typing import Any

import typer
from typer.core import TyperGroup

from .common import READ_ENOUGH

_AS_JSON_WOULD = "as JSON would"


class Commands(TyperGroup):
    """Commands that end with status 141 when whoever reads has read enough, as `head` does."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            leave_output()
            raise typer.Exit(READ_ENOUGH) from None
        except OSError as error:
            ended = error.__context__
            if not isinstance(ended, typer.Exit) or not ended.exit_code:
                raise
            leave_output()  # what was wrong is told already
            raise ended from None


@dataclass
class Debugging:
    """Whether somebody wants to see where an error comes from."""

    wanted: bool = False


def have_streams() -> None:
    """Have the three standard streams, whichever of them are closed, and write any character into them."""
    # Lowest first: a file that was opened in the place of one of them would be written by mistake.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: PTH123, SIM115 - for as long as the process
    codecs.register_error(_AS_JSON_WOULD, _escaped)
    # Python itself escapes what standard error has no characters for.
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors != _AS_JSON_WOULD:
        with suppress(OSError):  # it was a file once, and is a pipe now that cannot say where it is
            sys.stdout.reconfigure(errors=_AS_JSON_WOULD)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Return what an encoding has no characters for in such a way that JSON stays JSON."""
    assert isinstance(error, UnicodeEncodeError)
    return dumps(error.object[error.start : error.end])[1:-1], error.end


def leave_output() -> None:
    """Let go of what could not be written, or the interpreter tries once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
