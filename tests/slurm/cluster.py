"""A real Slurm for tests, on this machine, where its programs and what starts it are there."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.harness import SHARED
from tests.processes import children, spared

STARTS = SHARED / "slurm"
PROGRAMS = "munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel"
ACCOUNTING = "slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults", "sacct"
NODES = 3
_SETTINGS = """
MinJobAge=30
SlurmdTimeout=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
KillWait=2
MessageTimeout=3
"""
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@cache
def missing(*more: str) -> str | None:
    """Say what there is not of what Slurm needs here, and of ``more``; None when all is there."""
    if os.geteuid() != 0:
        return "Slurm is started by root alone"
    if not (STARTS / "start-slurm.sh").is_file():
        return f"there is no {STARTS}"
    absent = [program for program in PROGRAMS + more if shutil.which(program, path=_PATH) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@dataclass
class Slurm:
    """A cluster of three nodes. What starts it is told by its environment where it is."""

    directory: Path
    port: int
    accounting: bool = False
    was_harmed: bool = False
    """Whether a daemon was killed: it may end jobs then that have the number of one from before."""

    @property
    def conf(self) -> Path:
        return self.directory / "slurm.conf"

    def start(self) -> None:
        """Start what does not run of it, and have all nodes take jobs."""
        self._script("start-slurm.sh", *(["--acct"] if self.accounting else []))
        self._spare()

    def stop(self) -> None:
        self._script("stop-slurm.sh", "--keep-munge", "--purge")

    def pid(self, daemon: str) -> int:
        """Return the process of ``slurmctld``, or of the slurmd of a node."""
        path = "ctld/slurmctld.pid" if daemon == "slurmctld" else f"run/slurmd-{daemon}.pid"
        return int((self.directory / path).read_text())

    def kill(self, daemon: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a daemon, and return when it has ended."""
        self.was_harmed = True
        _end(self.pid(daemon), number)

    def forget(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Have slurmctld lose all that it knows of jobs, whether it ends in order or not."""
        self.kill("slurmctld", number)
        for file in (self.directory / "ctld").glob("job_state*"):
            file.unlink()
        self.start()

    def saved(self, number: str) -> None:
        """Return when slurmctld has written down what it knows of jobs now; one of this id runs, or waits."""
        mark = f"saved {time.monotonic_ns()}"
        self.run("scontrol", "update", f"jobid={number}", f"admincomment={mark}")
        self._written("job_state", lambda file: mark.encode() in file.read_bytes())

    def down(self) -> None:
        """Have no job started from now on, and return when slurmctld has written that down."""
        before = time.time()
        self.run("scontrol", "update", "partitionname=main", "state=down")
        self._written("part_state", lambda file: file.stat().st_mtime >= before)

    def up(self) -> None:
        self.run("scontrol", "update", "partitionname=main", "state=up")

    def _written(self, name: str, holds: Callable[[Path], bool]) -> None:
        """Wait until a file of slurmctld's state is as it should be: it writes every few seconds."""
        for _ in range(600):
            with suppress(FileNotFoundError):
                if holds(self.directory / "ctld" / name):
                    return
            time.sleep(0.05)
        raise TimeoutError(f"slurmctld does not write {name}")

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it says."""
        ended = subprocess.run(
            command, env={"PATH": _PATH, "SLURM_CONF": str(self.conf)}, check=True, text=True,
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        return ended.stdout.strip()

    def empty(self) -> None:
        """End all jobs, and return when none is left, and all nodes take jobs again."""
        with suppress(subprocess.CalledProcessError):
            self.run("squeue", "-h")
            self.run("scancel", "--me")
        self.start()
        self.run("scancel", "--me")
        while self.run("squeue", "-h", "--me") or _supervisors():
            time.sleep(0.05)
        for node in range(1, NODES + 1):
            if "DRAIN" in self.run("scontrol", "show", "node", f"n{node}"):
                self.run("scontrol", "update", f"nodename=n{node}", "state=resume")
        if self.was_harmed:
            self.stop()
            self.start()
            self.was_harmed = False

    def next_id(self) -> int:
        """Return the id that the next job is given."""
        said = self.run("scontrol", "show", "config")
        return int(next(line for line in said.splitlines() if line.startswith("NEXT_JOB_ID")).split("=")[1])

    def names(self) -> list[str]:
        """Return the names of all jobs that Slurm knows, ended ones too."""
        return [
            name.strip() for name in self.run("squeue", "-h", "--me", "-t", "all", "-o", "%j").split("\n")
        ]

    def _script(self, name: str, *options: str) -> None:
        settings = self.directory.with_suffix(".extra")
        settings.write_text(_SETTINGS)
        subprocess.run(
            [STARTS / name, *options],
            env={
                "PATH": _PATH, "SLURM_DEV_DIR": str(self.directory), "SLURM_DEV_PORT": str(self.port),
                "SLURM_DEV_EXTRA": str(settings), "SLURM_DEV_NODES": str(NODES),
            },
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _spare(self) -> None:
        """Leave its daemons, which serve many tests, out of what a test must end."""
        spared.update(pid for pid, command in children().items() if "slurmstepd" not in command)


def _supervisors() -> list[int]:
    """Return Slurm's own supervisors of jobs."""
    return [pid for pid, command in children().items() if "slurmstepd" in command]


@contextmanager
def _munge(starting: Callable[[], None]) -> Iterator[None]:
    """Have munged run from ``starting`` on, which all clusters of a machine share; the last one ends it."""
    gate, users = (Path(tempfile.gettempdir(), f"uwsd-tests-munge.{name}") for name in ("gate", "users"))
    ours = users.with_suffix(".ours")
    with users.open("a") as used:
        with _locked(gate):
            if subprocess.run(["munge", "-n"], check=False, capture_output=True).returncode:
                ours.touch()
            starting()
            fcntl.flock(used, fcntl.LOCK_SH)
        try:
            yield
        finally:
            with _locked(gate), suppress(BlockingIOError):
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else uses it
                if ours.exists():
                    ours.unlink()
                    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself
                        _end(int(Path("/run/munge/munged.pid").read_text()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end(pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to a daemon, and return when it has ended."""
    os.kill(pid, number)
    while _runs(pid):
        children()
        time.sleep(0.01)


@contextmanager
def slurm(*, accounting: bool = False) -> Iterator[Slurm]:
    """Start a cluster, and take it away at the end."""
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    directory.chmod(0o755)
    before = os.environ.get("SLURM_CONF")
    cluster = Slurm(directory / "dev", _free_ports(NODES + 3), accounting)
    os.environ["SLURM_CONF"] = str(cluster.conf)
    try:
        with _munge(cluster.start):
            yield cluster
            cluster.stop()
    finally:
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(directory)


def _free_ports(count: int) -> int:
    """Return the third of as many ports on end that nobody has."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first + 2


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
