"""Programs in a sandbox of bubblewrap's: https://github.com/containers/bubblewrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from uws.files import JobDirectory

PROGRAM = "bwrap"
_PROCESSES = 2
"""Bubblewrap's own, beside those of the program."""


def sandboxed(argv: Sequence[str], directory: JobDirectory, limits: Mapping[str, int]) -> list[str]:
    """Return what runs ``argv`` without a network, where it can write into its job's directory alone.

    It sees the system as it is, but can change nothing of it; of the server's data it sees its own job's.
    What it keeps in memory as files (``/tmp``, ``/dev/shm``) is no more than ``limits`` grant of either.
    """
    most = [limits[name] for name in ("memory", "disk") if name in limits]
    data = directory.root.parent.parent
    own = [
        argument
        for path in (directory.work, directory.results, directory.progress)
        for argument in ("--bind", path, path)
    ]
    given = [
        argument
        for path in (directory.uploads, directory.parameters)
        if path.exists()  # not every job has uploads
        for argument in ("--ro-bind", path, path)
    ]
    return _bubblewrap(data, most, [*map(str, own + given)], directory.work, argv)


def trial() -> list[str]:
    """Return what runs ``true`` as programs are run, with nothing of anybody's in it."""
    return _bubblewrap(Path("/tmp"), [1_000_000], [], Path("/"), ["true"])  # noqa: S108 - one of its own


def _bubblewrap(
    data: Path, most: Sequence[int], binds: Sequence[str], work: Path, argv: Sequence[str]
) -> list[str]:
    size = ("--size", str(min(most))) if most else ()
    return [
        PROGRAM, "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
        *size, "--tmpfs", "/tmp", *size, "--tmpfs", "/dev/shm",  # noqa: S108 - those of the sandbox alone
        "--cap-drop", "ALL",  # which a server that is root has
        "--tmpfs", str(data), *binds, "--remount-ro", str(data), "--remount-ro", "/dev",
        "--chdir", str(work), "--", *argv,
    ]  # fmt: skip


def with_room(limits: Mapping[str, int]) -> dict[str, int]:
    """Return the limits of a program and of what keeps it in its sandbox."""
    own = {"processes": limits["processes"] + _PROCESSES} if "processes" in limits else {}
    return {**limits, **own}
