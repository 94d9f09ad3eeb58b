"""A supervisor for each program, forked by one small launcher: they need no server, and outlive it.

Run as a script of its own that imports nothing but the standard library; `uws.execution.warm` is another
launcher, which starts programs in another way. A launcher says that it is ready, reads requests, a JSON
object a line, and forks a supervisor for each, which shares its memory. The supervisor puts on record who it
is, starts the program, waits until nothing is left of it, and puts on record how it ended. All that descends
from a program becomes a child of its supervisor when its own parent ends (PR_SET_CHILD_SUBREAPER, prctl(2)):
without children, nothing is left. What a supervisor leaves that is killed becomes the launcher's, and is
killed, too.

To a supervisor, SIGTERM means: send SIGTERM to all processes of the program. SIGUSR1: kill them.
Linux only.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

ROOM = 1024
"""Bytes of a record that are reserved for how the program ends: a full disk must not keep it secret."""
LEASE = "lease"
"""Stands for a limit that a program exceeds by running on when others may take its job for lost."""
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_EVERY = 0.025
"""Seconds between two looks at what a program with limits uses."""
_LONGEST_SLEEP = 1.0
"""Seconds between two looks at a lease, at most: it goes on in a machine that is suspended, sleeps do not."""
_DISK_SHARE = 0.05
"""The part of the time that may be spent on measuring what a job has on the disk."""
_ALL = signal.valid_signals()
_AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
_IGNORED = [signal.SIGPIPE, signal.SIGXFSZ]
"""What Python ignores, and programs do not expect to be ignored."""
_TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)

Request = dict[str, Any]
"""What the server asks for, with the descriptor to which to answer."""
Ends = tuple[int, int, int]
"""What is to be standard input, output and error of a program."""
Start = Callable[[Request, Ends, int], int]
"""Starts a program, which is not to have the descriptor given last, and returns its process id."""


def leave_the_server() -> None:
    """Be a launcher that has nothing to do with the server but its standard input and output."""
    os.setsid()  # what a terminal sends to the server is not for programs
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what of the server's came along
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what a supervisor leaves that is killed comes here


def launch(start: Start, requests: int = 0, answers: int = 1) -> None:
    """Say that programs can be started, and launch what is asked for until there is nobody to ask.

    Requests are read from one descriptor, and answered to the other.
    """
    woken, waking = os.pipe()
    for end in (woken, waking):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    gc.collect()
    gc.freeze()  # what is never touched again stays shared
    own = [woken, waking, *[requests] * (requests > 2)]
    launcher, ready = _Launcher(start, own), select.poll()
    ready.register(requests, select.POLLIN)
    ready.register(woken, select.POLLIN)
    _reply({"id": "", "answers": answers})
    begun = b""
    while True:
        for number, _ in ready.poll():
            if number == woken:
                os.read(woken, 4096)
                launcher.clear()
            elif came := os.read(number, 1 << 20):
                *lines, begun = (begun + came).split(b"\n")
                for line in lines:
                    launcher.do({**json.loads(line), "answers": answers})
            else:
                return


class _Launcher:
    """Forks supervisors, and kills what is left of programs whose supervisor is no more."""

    def __init__(self, start: Start, own: list[int]) -> None:
        self._start, self._own = start, own
        self._others = {*_children(os.getpid())}
        """What may live: supervisors, and what was there before."""
        self._settling: list[Request] = []
        """Who is to be told when nothing is left that has no supervisor."""

    def do(self, request: Request) -> None:
        """Fork a supervisor for a program; asked for none, answer when nothing is left without one."""
        if "argv" not in request:
            self._settling.append(request)
            self.clear()
            return
        try:
            pid = os.fork()
        except OSError as error:
            _reply(request, error, "the supervisor")
            return
        if pid == 0:
            _supervise(request, self._start, self._own)
        self._others.add(pid)

    def clear(self) -> None:
        """Kill whatever has become a child of this process; its end leads here again."""
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._others.discard(pid)
        except ChildProcessError:
            pass
        left = [pid for pid in _children(os.getpid()) if pid not in self._others]
        for pid in left:
            _signal(pid, signal.SIGKILL)
        while self._settling and not left:
            _reply(self._settling.pop())


def _supervise(request: Request, start: Start, launchers: list[int]) -> NoReturn:
    """Be the supervisor of one program. Whatever happens, the launcher's loop is never come back to.

    ``launchers`` are the descriptors that are the launcher's alone.
    """
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)  # nothing ends a supervisor but SIGKILL
        signal.set_wakeup_fd(-1)
        os.setsid()
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in launchers:
            os.close(number)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in {0, 1, 2} - {request["answers"]}:
            os.dup2(nowhere, number)
        _Supervisor(request, start, nowhere).run()
    except BaseException as error:
        _reply(request, error, "the supervisor")
    finally:
        os._exit(0)


class _Supervisor:
    def __init__(self, request: Request, start: Start, nowhere: int) -> None:
        self._request, self._start, self._nowhere = request, start, nowhere
        self._limits: dict[str, int] = request["limits"]
        self._lease: str | None = request.get("lease")
        self._until = 0.0
        self._program = 0
        self._status: int | None = None
        self._ended = 0
        self._memory = 0
        self._ending = self._killing = False
        self._exceeded: str | None = None
        self._disk_again = 0.0

    def run(self) -> None:
        record = _Record(self._request["record"])
        try:
            self._program = _prepared(self._request, self._start, self._nowhere, record.file)
        except _NotStarted as failure:
            record.end({"errno": failure.error.errno or errno.EINVAL, "what": failure.what, "ended": _now()})
            _reply(self._request, failure.error, failure.what)
            return
        _reply(self._request, who=record.who)
        os.dup2(self._nowhere, self._request["answers"])  # nobody waits for the end of it
        self._wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        if code:
            self._exceeded = self._exceeded or self._met(code, record.made)
        record.end(
            {
                "status": code,
                "ended": self._ended,
                "cpu": round(used.ru_utime + used.ru_stime, 3),
                "memory": max(used.ru_maxrss * 1024, self._memory),
                "exceeded": self._exceeded,
            }
        )

    def _wait(self) -> None:
        """Wait until the program has ended and nothing is left of it."""
        while not self._reap():
            # What a program leaves behind is killed, unless it was told to end and may clean up.
            left = self._status is not None and not self._ending
            if left or self._exceeded or self._killing:
                _clear()
            elif self._limits or self._lease:
                pause = (
                    _LOOK_EVERY if self._limits else min(_LONGEST_SLEEP, max(0.0, self._until - _uptime()))
                )
                received = signal.sigtimedwait(_AWAITED, pause)
                self._obey(received.si_signo if received else None)
                self._exceeded = self._too_much()
            else:
                self._obey(signal.sigwaitinfo(_AWAITED).si_signo)

    def _reap(self) -> bool:
        """Take note of who has ended; True when nobody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self._limits.get("disk") and not self._exceeded and self._on_disk():
                    self._exceeded = "disk"
                return True
            if pid == 0:
                return False
            if pid == self._program:
                self._status, self._ended = status, _now()

    def _obey(self, number: int | None) -> None:
        if number == signal.SIGTERM:
            self._ending = True
            for pid in _descendants():
                _signal(pid, signal.SIGTERM)
                _signal(pid, signal.SIGCONT)  # who was stopped hears of it, too
        elif number == signal.SIGUSR1:
            self._killing = True

    def _too_much(self) -> str | None:
        """Return the limit that the program exceeds, or that its server was not heard of for too long."""
        if self._lease and self._has_run_out(self._lease):
            return LEASE
        limits = self._limits
        if not limits:
            return None
        pids = _descendants()
        held = [*map(_memory_of, pids)]
        # What is shared may be the same for all.
        memory = sum(own for own, _ in held) + max((shared for _, shared in held), default=0)
        self._memory = max(self._memory, memory)
        if memory > limits.get("memory", memory):
            return "memory"
        if len(pids) > limits.get("processes", len(pids)):
            return "processes"
        if "cpu" in limits:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            if used.ru_utime + used.ru_stime + sum(map(_seconds_of, pids)) > limits["cpu"]:
                return "cpu"
        if "disk" in limits and time.monotonic() > self._disk_again:
            began = time.monotonic()
            exceeded = self._on_disk()
            now = time.monotonic()
            self._disk_again = now + (now - began) / _DISK_SHARE
            if exceeded:
                return "disk"
        return None

    def _has_run_out(self, lease: str) -> bool:
        """Whether it is later than the lease says, which is put off for as long as the server is in touch."""
        if (now := _uptime()) >= self._until:
            try:
                with open(lease) as file:
                    self._until = float(file.read())
            except (OSError, ValueError):
                pass
        return now >= self._until

    def _on_disk(self) -> bool:
        """Whether the job's files take more room than they may, or lie too deep for that to be found out."""
        files = _files(self._request["root"])
        return files is None or sum(file.st_blocks * 512 for file in files) > self._limits["disk"]

    def _met(self, code: int, began: int) -> str | None:
        """Return the limit of the system's own keeping that made a program fail, which ``began`` then.

        That is in nanoseconds since 1970 as file systems tell the time: their clock lags some milliseconds.
        """
        if code == -signal.SIGXFSZ:
            return "file_size"
        largest = self._limits.get("file_size")
        if largest and any(
            entry.st_size >= largest and entry.st_mtime_ns >= began  # else it was given
            for entry in _files(self._request["root"]) or ()
        ):
            return "file_size"
        return None


class _Record:
    """The file that tells who supervises a program and how it ended, a line for each."""

    def __init__(self, path: str) -> None:
        """Claim ``path``: whoever made it first is the only one to start a program. Raises `OSError`."""
        self._path = path
        self.file, draft = _draft(path)
        try:
            self.who: dict[str, Any] = {
                "pid": os.getpid(),
                "start": _start_of(os.getpid()),
                "boot": _BOOT,
                "file": os.fstat(self.file).st_ino,
                "began": _now(),
            }
            os.write(self.file, json.dumps(self.who).encode() + b"\n" + b" " * ROOM)
            # Python follows the link in /proc to the file only when a `src_dir_fd` is given (linkat(2)).
            os.link(draft or f"/proc/self/fd/{self.file}", path, src_dir_fd=self.file)
            self.made = os.fstat(self.file).st_mtime_ns
        finally:
            if draft:
                os.unlink(draft)

    def end(self, told: dict[str, Any]) -> None:
        """Add how the program ended, in one stroke. A record that the program has deleted is made again.

        Whatever the program may have written there goes.
        """
        if not os.fstat(self.file).st_nlink:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            self.file = _new(self._path)
            self.who["file"] = os.fstat(self.file).st_ino
        text = b"".join(json.dumps(each).encode() + b"\n" for each in (self.who, told))
        os.pwrite(self.file, text, 0)
        os.ftruncate(self.file, len(text))


def _draft(path: str) -> tuple[int, str]:
    """Open a new file beside ``path``, which has no name where the file system knows such (O_TMPFILE)."""
    try:
        return os.open(os.path.dirname(path), os.O_RDWR | os.O_TMPFILE, 0o600), ""
    except OSError:
        draft = f"{path}.{os.getpid()}"
        return os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), draft


class _NotStarted(Exception):
    def __init__(self, error: OSError, what: str) -> None:
        self.error, self.what = error, what


def _prepared(request: Request, start: Start, nowhere: int, private: int) -> int:
    """Make ready for the program, start it, and return its process id. Raises `_NotStarted`."""
    what = "the job's directory"
    try:
        out, err = _new(request["stdout"]), _new(request["stderr"])
        os.chdir(request["directory"])
        what = "the limits"
        # Of these, as of niceness, the supervisor has its part: there is no way past it that is as cheap.
        for name, kind in (("file_size", resource.RLIMIT_FSIZE), ("open_files", resource.RLIMIT_NOFILE)):
            if name in request["limits"]:
                resource.setrlimit(kind, (request["limits"][name],) * 2)
        if request["nice"]:
            os.nice(request["nice"])
        what = "the program"
        program = start(request, (nowhere, out, err), private)
        os.close(out)
        os.close(err)
    except ValueError:  # the limits of the server itself are lower
        raise _NotStarted(OSError(errno.EPERM, os.strerror(errno.EPERM)), what) from None
    except OSError as error:
        raise _NotStarted(error, what) from None
    return program


def spawn(request: Request, ends: Ends, private: int) -> int:
    """Start the program that is asked for; the system closes what is ``private``. Raises `OSError`."""
    environment = request["environment"]
    os.environ["PATH"] = environment.get("PATH", os.defpath)  # where the program is looked for
    return os.posix_spawnp(
        request["argv"][0],
        request["argv"],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(ends)],
        setsid=True,
        setsigmask=[],
        setsigdef=_IGNORED,
    )


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _new(path: str) -> int:
    """Open a new file in the place of what an earlier program may have put there: a pipe, or a link."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _reply(
    request: Request, error: BaseException | None = None, what: str = "", who: dict[str, Any] | None = None
) -> None:
    """Tell the server that the program was started, and under whom, or why not."""
    told: dict[str, Any] = {"id": request["id"], "who": who}
    if error:
        told |= {"errno": getattr(error, "errno", None) or errno.EINVAL, "what": what}
    try:
        os.write(request["answers"], json.dumps(told).encode() + b"\n")
    except OSError:  # the server has gone meanwhile, and finds it on record
        pass


def _clear() -> None:
    """Kill the children once; theirs are then ours, and are killed the next time."""
    children = _children(os.getpid())
    for pid in children:
        _signal(pid, signal.SIGKILL)
    if children:
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def _descendants() -> list[int]:
    """Return all processes that a program consists of."""
    found: list[int] = []
    ahead = _children(os.getpid())
    while ahead:
        pid = ahead.pop()
        found.append(pid)
        ahead += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    except OSError:
        pass  # it has just ended
    return found


def _memory_of(pid: int) -> tuple[int, int]:
    """Return the bytes of a process's memory that no file holds: its own, and what it may share."""
    try:
        lines = _read(f"/proc/{pid}/status").splitlines()
    except OSError:
        return 0, 0
    told = {name: value for name, _, value in (line.partition(b":") for line in lines)}
    own, shared = (int(told.get(name, b"0 kB").split()[0]) for name in (b"RssAnon", b"RssShmem"))
    return own * 1024, shared * 1024


def _seconds_of(pid: int) -> float:
    """Return the processor time of a process, and of its children that it has waited for."""
    try:
        return sum(map(int, _stat(pid)[11:15])) / _TICKS
    except OSError:
        return 0


def _stat(pid: int) -> list[bytes]:
    """Return the fields of proc(5)'s ``stat`` from the third on."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _start_of(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did."""
    return int(_stat(pid)[19])


def _read(path: str) -> bytes:
    """Return what a small file of the system's says; a tenth of what it takes to `open` it as text."""
    file = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(file, 65536), b""))
    finally:
        os.close(file)


_BOOT = _read("/proc/sys/kernel/random/boot_id").decode().strip()


def _files(root: str) -> list[os.stat_result] | None:
    """Return all files below a directory, None when some lie deeper than a path can tell."""
    found = []

    def untold(error: OSError) -> None:
        if error.errno == errno.ENAMETOOLONG:
            raise error

    try:
        for directory, _, names in os.walk(root, onerror=untold):
            for name in names:
                try:
                    found.append(os.lstat(os.path.join(directory, name)))
                except FileNotFoundError:
                    pass  # it has just been deleted
    except (OSError, RecursionError):
        return None
    return found


def _now() -> int:
    """Return the time in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


if __name__ == "__main__":
    leave_the_server()
    launch(spawn)
