"""The processes of functions: ``python -m uws.functions call|describe MODULE:NAME``."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

import msgspec

from .calling import call
from .finding import NoFunction, extend_path, find
from .helper import Answer
from .signature import describe


def main() -> None:
    """Call a function as a job, or write how it is to standard output, as JSON."""
    extend_path()
    match sys.argv[1:]:
        case ["call", reference]:
            sys.exit(call(reference))
        case ["describe", reference]:
            out = os.dup(1)
            os.dup2(2, 1)  # what a module prints when it is imported is no answer
            with os.fdopen(out, "wb") as answer:
                answer.write(msgspec.json.encode(_look(reference)))
            os._exit(0)  # whatever the module has started
        case _:
            sys.exit("expected: call or describe, and a function as package.module:name")


def _look(reference: str) -> Answer:
    try:
        return Answer(description=describe(find(reference)))
    except NoFunction as error:
        return Answer(failure=str(error))
    except BaseException as error:  # a module may do anything
        said = "".join(traceback.format_exception_only(error)).strip().splitlines()
        return Answer(failure=f"importing {reference.partition(':')[0]} failed{_place(error)}: {said[-1]}")


def _place(error: BaseException) -> str:
    """Return where in the module's files an error came up."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" in {Path(error.filename).name}, line {error.lineno}"
    own = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen ")
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)
    ]
    return f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


if __name__ == "__main__":
    main()
