"""What all commands share: the consoles, the settings, and how errors are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from eventstore import EventStoreError
from uws.model import DeclarationError, UWSError

FAILED = 1
"""The exit status when what was to be shown does not hold."""
USAGE = 2
"""The exit status for a wrong declaration or option, or surroundings in which a command cannot work."""

# What operators write is printed as it is: no markup, no emoji.
out = Console(markup=False, emoji=False, highlight=False)
err = Console(markup=False, emoji=False, highlight=False, stderr=True)


@contextmanager
def reported() -> Iterator[None]:
    """Print what is wrong with a declaration or its surroundings, one a line, and end with status 2."""
    try:
        yield
    except DeclarationError as error:
        problems = list(error.problems)
    except (UWSError, EventStoreError) as error:
        problems = [str(error)]
    except OSError as error:
        problems = [f"{error.filename or 'the system'}: {error.strerror or error}"]
    else:
        return
    for problem in problems:
        err.print(problem, style="red", soft_wrap=True)
    raise typer.Exit(USAGE)
