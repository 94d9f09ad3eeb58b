"""`make bench-guard`: how many instructions hot paths take, held against the counts that are committed.

Unlike times, counts do not depend on what else the machine does. valgrind counts them (``--tool=callgrind``),
as it does so wherever it is installed, while processors tell theirs to few virtual machines. Marks in
`benchmarks.hot_paths` separate what is counted from all else.

Counts are those of one build of Python, of libraries and of a machine. Where any of these is not as it was,
the revision that committed the counts is counted here instead.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer

from benchmarks import hot_paths
from benchmarks.options import DIRECTORY, Directory, new_app
from benchmarks.servers import ended_in_order
from benchmarks.tables import Figures, Line, new_console, show

PATHS = hot_paths.PATHS
ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "benchmarks" / "guard.json"
TOLERANCE = 0.1
COUNTER = "valgrind"
MARK = "getpgid"
"""What `hot_paths.mark` calls."""
NOW = "now"

app = new_app()


class Counts(msgspec.Struct):
    """Instructions of one operation of each path, and what they depend on besides the code."""

    environment: dict[str, str]
    instructions: dict[str, int]


@app.command()
def main(
    commit: Annotated[bool, typer.Option("--commit", help="Write guard.json, for you to commit.")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Count this one, too, and compare with it.")
    ] = None,
    directory: Directory = DIRECTORY,
) -> None:
    """Count; the exit status is 1 when a path takes over a tenth more. Needs valgrind, and takes minutes."""
    if shutil.which(COUNTER) is None:
        raise typer.BadParameter("valgrind, which counts, is not installed: on Debian, apt install valgrind")
    if not (commit or against or COMMITTED.exists()):
        raise typer.BadParameter(f"there is no {COMMITTED} to compare with: write one with --commit")
    with ended_in_order(), TemporaryDirectory(dir=directory) as scratch:
        now = count("this tree", ROOT, Path(scratch) / NOW)
        if commit:
            COMMITTED.write_bytes(msgspec.json.format(msgspec.json.encode(now)) + b"\n")
            print(f"{COMMITTED} is written")
            return
        title, base = "committed", None if against else committed_for(now)
        if base is None:
            revision = against or last_committed()
            title = revision[:12]
            base = count(
                title, unpacked(revision, Path(scratch) / "tree"), Path(scratch) / "base"
            ).instructions
    if not compare(title, base, now.instructions):
        raise typer.Exit(1)


# Counting


def count(what: str, tree: Path, scratch: Path) -> Counts:
    """Count the code of ``tree``. Raises `RuntimeError` when it cannot be gone through."""
    print(f"counting {what}", flush=True)
    place = scratch / "place"
    place.mkdir(parents=True)
    command = [
        COUNTER,
        "--quiet",
        "--tool=callgrind",
        f"--dump-before={MARK}",
        f"--callgrind-out-file={scratch}/out.%p",
        sys.executable,
        "-P",  # else the directory of the script comes before the tree
        hot_paths.__file__,
        str(place),
        *PATHS,
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command, env=environment, cwd=scratch, stderr=subprocess.PIPE, text=True, errors="replace",
        process_group=0,
    ) as process:  # fmt: skip
        try:
            said = process.communicate()[1]
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # what is counted has processes of its own
            raise
    if process.returncode != 0:
        raise RuntimeError(f"{what} ended with {process.returncode}: {said[-3000:]}")
    told = msgspec.json.decode((place / hot_paths.TOLD).read_bytes(), type=list[tuple[str, int]])
    rounds = defaultdict[str, list[float]](list)
    for number, (name, times) in enumerate(told):
        rounds[name].append(instructions(scratch / f"out.{process.pid}.{2 * number + 2}") / times)
    spreads = {name: (max(those[1:]) - min(those[1:])) / median(those[1:]) for name, those in rounds.items()}
    widest = max(spreads, key=lambda name: spreads[name])
    print(f"rounds of a path differ by {spreads[widest]:.1%} at most ({widest})")
    return Counts(environment_here(), {name: round(median(those[1:])) for name, those in rounds.items()})


def instructions(dump: Path) -> int:
    """Return the sum of all that callgrind has counted since the dump before."""
    if not dump.exists():
        raise RuntimeError(f"valgrind has not seen that {MARK} was called: {dump.name} is missing")
    [total] = re.findall(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE)
    return int(total)


def environment_here() -> dict[str, str]:
    """Return what counts depend on besides the code."""
    command = [COUNTER, "--version"]
    of_counter = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    has_avx2 = re.search(r"^flags\s*:.*\bavx2\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "machine": platform.machine() + (" with AVX2" if has_avx2 else ""),
        "python": f"{platform.python_version()}, {platform.python_compiler()}",
        "C library": " ".join(platform.libc_ver()),
        "SQLite": sqlite3.sqlite_version,
        COUNTER: of_counter,
        **libraries(),
    }


def libraries() -> dict[str, str]:
    """Return the versions of all that is required, without extras, and of what these require."""
    found: dict[str, str] = {}
    wanted = requires("uwsd") or []
    while wanted:
        required, _, condition = wanted.pop().partition(";")
        name = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", required)[0]).lower()
        if name not in found and "extra" not in condition:
            with suppress(PackageNotFoundError):  # for another system, or another Python
                found[name] = version(name)
                wanted += requires(name) or []
    return dict(sorted(found.items()))


# Comparing


def committed_for(now: Counts) -> Mapping[str, int] | None:
    """Return the committed counts, or None after saying why they are not for here."""
    committed = msgspec.json.decode(COMMITTED.read_bytes(), type=Counts)
    differing = [
        f"{name} {committed.environment.get(name, 'none')} there, {here} here"
        for name, here in now.environment.items()
        if committed.environment.get(name) != here
    ]
    if not differing:
        return committed.instructions
    print(f"the committed counts are not for here: {'; '.join(differing)}")
    return None


def last_committed() -> str:
    """Return the revision that committed the counts."""
    if not (revision := git("log", "-1", "--format=%H", "--", str(COMMITTED)).decode().strip()):
        raise typer.BadParameter(
            f"no revision has {COMMITTED.name}: name another with --against, or --commit"
        )
    return revision


def unpacked(revision: str, directory: Path) -> Path:
    """Write the files of a revision to a directory, and return it."""
    directory.mkdir()
    command = ["tar", "--extract", "--directory", str(directory)]
    subprocess.run(command, input=git("archive", "--format=tar", revision), check=True)
    return directory


def git(*words: str) -> bytes:
    """Return what git writes. Raises `typer.BadParameter` with what it complains of."""
    command = ["git", "-C", str(ROOT), *words]
    try:
        ended = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        raise typer.BadParameter("git, which has other revisions, is not installed") from None
    if ended.returncode != 0:
        raise typer.BadParameter(ended.stderr.decode(errors="replace").strip())
    return ended.stdout


def compare(title: str, base: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Print both; return whether no path takes too many, and all are known."""
    figures = Figures(lambda: {}, {name: {NOW: number} for name, number in now.items()})
    for name, number in base.items():
        figures[name][title] = number
    lines = [Line(name, "instructions", ratio=1 + TOLERANCE) for name in PATHS]
    reached = show(new_console(), "one operation of each path", "path", lines, [title, NOW], figures)
    unknown = [name for name in PATHS if name not in base]
    fewer = [name for name in PATHS if name in base and now[name] < base[name] * (1 - TOLERANCE)]
    if unknown:
        print(f"not counted there: {', '.join(unknown)}; commit the new counts, with --commit")
    if fewer:
        print(
            f"better by more than {TOLERANCE:.0%}: {', '.join(fewer)}; commit the new counts, with --commit"
        )
    return reached and not unknown


if __name__ == "__main__":
    app()
