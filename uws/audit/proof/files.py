"""Single jobs out of the log in one file, which can be verified where there is nothing else.

The file is a ZIP of which every byte follows from its members (`stored_zip`): a text that says how to verify
it, the events (`eventstore.excerpt`) after a line that says whose they are, a page that shows them, and a
checkpoint, whose signature covers the other three. docs/proof.md has it to the byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from errno import ENOTDIR
from functools import partial
from hashlib import file_digest, sha256
from itertools import chain
from pathlib import Path, PurePath
from typing import NamedTuple

import msgspec

from eventstore import EventLog, Head
from eventstore.checkpoint import Checkpoint, SigningKey, VerifierKey, open_checkpoint, read_checkpoint
from eventstore.excerpt import check_held, excerpt
from eventstore.publishing import published
from uws.audit.archiving import check_pruning
from uws.audit.checkpoints import sign_head
from uws.audit.past import Past
from uws.model import Result, UsageError
from uws.model import events as e

from .history import FORMAT, PINNING, Header, History, HistoryError, check_links, examine, read_header
from .page import write_page
from .stored_zip import Member, adding, chunks, directory, lines, read_members

README, EVENTS, PAGE, CHECKPOINT = "README.txt", "history.jsonl", "history.html", "checkpoint"
_LONGEST_NOTE = 1 << 18
_MANY = 500


class Proven(NamedTuple):
    """A history file, and what it was held against: its checkpoint, and an earlier one where it leads to one.

    They are ``signed`` where a key has shown that.
    """

    history: History
    checkpoint: Checkpoint
    through: Checkpoint | None
    signed: bool


def extension(members: Sequence[Member]) -> str:
    """Return the line with which a checkpoint signs what else is in its file."""
    listed = "".join(f"{member.sha256}  {member.name}\n" for member in members)
    return f"history {sha256(listed.encode()).hexdigest()}"


async def export_histories(
    log: EventLog,
    path: Path,
    jobs: Iterable[str],
    key: SigningKey,
    now: datetime,
    *,
    through: str,
    progress: Callable[[int], None],
) -> Proven:
    """Write all that is in ``log`` of ``jobs`` into a new file, for its owner alone to read.

    With the note ``through``, an earlier checkpoint of the log, the file shows that nothing of the jobs was
    changed since then. Before it is signed, the chain of the whole log is verified, and that it holds what
    was written; ``progress`` is told of that. Cancelled or failed, there is no file. Raises `JobNotFound`,
    `UsageError`, `eventstore.ChainBroken`, `eventstore.checkpoint.CheckpointError`, `OSError`.
    """
    if os.path.lexists(path):
        raise _exists(path)
    earlier = open_checkpoint(through, key.verifier) if through else None
    found = await _found(log, jobs)
    header = Header(format=FORMAT, jobs=sorted(found, key=lambda job: found[job][0]), through=through)
    members: list[Member] = []
    try:
        with published(path) as file:
            with adding(file, README, members) as sink:
                sink.write(_readme(header).encode())
            with adding(file, EVENTS, members) as sink:
                sink.write(msgspec.json.encode(header) + b"\n")
                declared = await _declared(log, found)
                positions = _positions(found, declared, earlier)
                streams = {*map(e.job_stream, found)}
                async for line in excerpt(
                    log, positions, whole=lambda event: event.stream in streams or event.position in declared
                ):
                    sink.write(line)
            history = examine(lines(file, members[-1]), through=earlier.head if earlier else None)
            with adding(file, PAGE, members) as sink:
                write_page(sink, history, lambda: lines(file, members[1]))
            end = await _verified(log, history, earlier, key.verifier, progress)
            note = sign_head(key, end, now, extension(members))
            with adding(file, CHECKPOINT, members) as sink:
                sink.write(note.encode())
            file.write(directory(members))
    except FileExistsError:
        raise _exists(path) from None
    except OverflowError as error:
        raise UsageError(f"{path}: {error}; export fewer jobs, or through an earlier checkpoint") from None
    return Proven(history, open_checkpoint(note, key.verifier), earlier, signed=True)


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path}: there is such a file already; histories are never overwritten")


async def _found(log: EventLog, jobs: Iterable[str]) -> dict[str, list[int]]:
    """Return where the events of each job stand."""
    head, found = await log.head(), {}
    for job in jobs:
        positions = await log.positions(e.job_stream(job))
        found[job] = [position for position in positions if position <= head.position]
        if not found[job]:
            raise await Past(log).unknown(job)
    return found


async def _declared(log: EventLog, found: Mapping[str, Sequence[int]]) -> set[int]:
    """Return where the declarations stand that jobs were made and started under, as far as they do."""
    pinned: dict[str, set[str]] = {}
    for positions in found.values():
        service = ""
        for begin in range(0, len(positions), _MANY):
            for event in await log.read_at(positions[begin : begin + _MANY]):
                if event.type not in PINNING or event.erased:
                    continue
                happened = e.decode(event)
                service = happened.service if isinstance(happened, e.JobCreated) else service
                if isinstance(happened, e.JobCreated | e.JobStarted):
                    pinned.setdefault(service, set()).add(happened.declaration)
    declared = set()
    for service, digests in pinned.items():
        for event in await log.read_stream(e.service_stream(service)):
            if event.type == e.ServiceDeclared.__name__ and not event.erased:
                digest = e.decode_declaration(event).digest
                if digest in digests:
                    digests.remove(digest)
                    declared.add(event.position)
    return declared


def _positions(
    found: Mapping[str, Sequence[int]], declared: Collection[int], earlier: Checkpoint | None
) -> Iterable[int]:
    """Return where all that belongs into a history stands. Raises `UsageError`."""
    chosen = sorted({*declared, *chain.from_iterable(found.values())})
    if earlier is None:
        return chosen
    last = earlier.head.position
    for job, positions in found.items():
        if positions[0] > last:
            raise UsageError(
                f"--through: the checkpoint is of position {last}, and job {job} began at {positions[0]}: "
                "it shows nothing of it; give a later one"
            )
    first = min(positions[0] for positions in found.values())
    before = (position for position in chosen if position < first)
    after = (position for position in chosen if position > last)
    return chain(before, range(first, last + 1), after)


async def _verified(
    log: EventLog, history: History, earlier: Checkpoint | None, key: VerifierKey,
    progress: Callable[[int], None],
) -> Head:  # fmt: skip
    """Return the head of the log, once it is verified and holds what stands in the history."""
    verified = await log.verify(contains=[earlier.head] if earlier else (), progress=progress)
    check_pruning(verified, key)
    await check_held(log, history.ends)
    return verified.head


_README = """\
This file shows what happened to

{jobs}

as it stands in the log of a job server. It holds

  {page:<15}the history for people: open it in a browser, it needs no network
  {events:<15}the same for programs: every event with what proves it, one a line
  {checkpoint:<15}the signature of all of it by the server: a signed note, in text

How to verify it: ask whoever runs the server for its verifier key, by another way than this file came,
and type

  uwsd audit verify FILE --key VKEY

That recomputes the digest of every event and the chain of hashes, and checks the signature. Without that
program: the last line of {checkpoint} before the empty one has the digest that was signed, after the
word "history". It is what this prints, where the file was unpacked:

  sha256sum {readme} {events} {page} | sha256sum

docs/proof.md of the project has all of it to the byte, and a verifier in eighty lines of JavaScript.
"""


def _readme(header: Header) -> str:
    jobs = "\n".join(f"  job {job}" for job in header.jobs)
    return _README.format(jobs=jobs, readme=README, events=EVENTS, page=PAGE, checkpoint=CHECKPOINT)


# Verification


def verify_history(path: Path, key: VerifierKey | None = None, *, contains: Iterable[Head] = ()) -> Proven:
    """Read a history file to its end and show that all of it is as it was when it was signed.

    What the events say is looked at when they are what was signed, and not before. Without a ``key`` that is
    not shown to be the work of any server. ``contains`` must be in it, too. Raises `HistoryError`,
    `eventstore.ChainBroken`, `eventstore.checkpoint.CheckpointError`; `OSError`.
    """
    opened = partial(open_checkpoint, key=key) if key else read_checkpoint
    with path.open("rb") as file:
        try:
            *signed, note = read_members(file, (README, EVENTS, PAGE, CHECKPOINT))
            events = signed[1]
            if not events.intact:
                check_links(lines(file, events))  # says at which position
            for member in (*signed, note):
                if not member.intact:
                    raise ValueError(f"{member.name} was changed")
            if note.size > _LONGEST_NOTE:
                raise ValueError(f"{CHECKPOINT} is longer than {_LONGEST_NOTE} bytes")
            checkpoint = opened(b"".join(chunks(file, note)))
            if extension(signed) not in checkpoint.extensions:
                raise ValueError(f"it is not what was signed: {CHECKPOINT} does not say {extension(signed)}")
            header = read_header(next(lines(file, events), b""))
            through = opened(header.through) if header.through else None
            history = examine(
                lines(file, events), contains=contains, through=through.head if through else None
            )
            last, end = history.ends[-1], checkpoint.head
            if last.position > end.position or (last.position == end.position and last != end):
                raise ValueError(f"position {last.position} is not what its checkpoint saw, or later")
        except (HistoryError, msgspec.MsgspecError, ValueError) as error:
            raise HistoryError(f"{path}: {error}") from None
    return Proven(history, checkpoint, through, signed=key is not None)


class Compared(NamedTuple):
    """A recorded result, the file that was held against it, and what is wrong with that, if anything."""

    job: str
    result: Result
    path: Path
    fault: str


def compare_results(history: History, directory: Path) -> Iterator[Compared]:
    """Hold the files in ``directory`` against the results on record.

    They lie there under the path that is on record, the file's name alone or the result's id; those of
    several jobs in a directory for each, named for its id. Raises `OSError`.
    """
    if not directory.is_dir():
        raise NotADirectoryError(ENOTDIR, "there is no such directory", str(directory))
    for job in history.jobs.values():
        below = directory / job.id if len(history.jobs) > 1 else directory
        for result in job.results:
            recorded = PurePath(result.path)
            named = [below / recorded.name, below / PurePath(result.id).name]
            if not recorded.is_absolute() and ".." not in recorded.parts:
                named.insert(0, below / recorded)
            path = next((path for path in named if path.is_file()), below / recorded.name)
            yield Compared(job.id, result, path, _fault(path, result))


def _fault(path: Path, result: Result) -> str:
    if not path.is_file():
        return "it is not there"
    with path.open("rb") as file:
        found, size = file_digest(file, "sha256").hexdigest(), file.tell()
    if size != result.size:
        return f"it was altered: it has {size} bytes, recorded are {result.size}"
    return "" if found == result.sha256 else f"it was altered: its SHA-256 is {found}"
