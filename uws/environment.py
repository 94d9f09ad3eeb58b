"""What programs see of the server's environment."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ")
"""The variables of the server's own environment that programs see."""


def base_environment(declared: Mapping[str, str]) -> dict[str, str]:
    """Return what the programs of a service see for every job, with what is ``declared``.

    ``PATH`` begins with the directory of the server's own Python, so that ``python`` in a declaration is
    the one that the server runs on.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = [str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]
    return {**inherited, "PATH": os.pathsep.join(path), **declared}


def job_environment(
    declared: Mapping[str, str], *, job_id: str, results: str, parameters: str, progress: str
) -> dict[str, str]:
    """Return all that a job's program sees of an environment."""
    return {
        **base_environment(declared),
        "UWS_JOB_ID": job_id,
        "UWS_RESULTS": results,
        "UWS_PARAMETERS": parameters,
        "UWS_PROGRESS": progress,
    }


OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
"""How many files this process might open when it was started, and at most: so it is for programs."""


def raise_open_files() -> None:
    """Let this process open as many files as it may."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES[1], OPEN_FILES[1]))
