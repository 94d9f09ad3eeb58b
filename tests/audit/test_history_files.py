"""The file of a history: not one bit of it can be changed unnoticed, whoever verifies it."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStoreError, Head, Metadata
from eventstore.checkpoint import Checkpoint, SigningKey
from tests.audit.logs import ANNA, ECHO, ORIGIN, RESULT, export, key_of, log_again, log_in, verify
from tests.daemon import Ended, run
from uws.admin import DoesNotHold
from uws.audit import sign_head
from uws.audit.proof import verify_history
from uws.cli.histories import verify_history_file
from uws.model import Failure, UWSError
from uws.model import events as e

VERIFIER = Path(__file__).parents[2] / "docs" / "verify-history.mjs"
NAMES = ("README.txt", "history.jsonl", "history.html", "checkpoint")
Lines = list[dict[str, Any]]


NODE = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


async def node(path: Path, key: SigningKey) -> Ended:
    """Verify a file with the program of the documentation."""
    return await run("node", VERIFIER, path, str(key.verifier))


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A log in which the events of one job lie between those of others, an erased one among them."""
    async with log_in(tmp_path / "var") as log:
        await log.run("a", parameters={"word": ("wörd",)})
        await log.append("a", e.JobDestroyed(reason="destroyed on request"), by=ANNA)
        await log.store.erase("job/a", reason="asked for", metadata=Metadata(actor="grace"))
        await log.create("b", parameters={"word": ("wörd \u202e",)})
        await log.run("c")
        await log.append("b", e.JobAborted(reason="aborted on request"), by=Metadata(actor="grace"))
    return log.data


@pytest.fixture
async def path(data: Path, tmp_path: Path) -> Path:
    """The history of two jobs, with an earlier checkpoint."""
    async with log_again(data) as log:
        note = sign_head(key_of(data), await log.store.head(), datetime(2026, 3, 1, tzinfo=UTC))
        (tmp_path / "kept.checkpoint").write_text(note)
        await log.run("d")
        await log.append("b", e.JobDestroyed(reason="its destruction time came"))
    return await export(data, tmp_path / "jobs.zip", "a", "b", "--through", tmp_path / "kept.checkpoint")


@NODE
async def test_the_program_of_the_documentation_accepts_what_was_exported(
    data: Path, path: Path, tmp_path: Path
) -> None:
    ended = await node(path, key_of(data))
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("15 events verified, job a, job b\nsigned at ")
    assert "up to position 14 as it was at 2026-03-01" in ended.out
    alone = await export(data, tmp_path / "alone.zip", "d")
    ended = await node(alone, key_of(data))
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("5 events verified, job d\nsigned at ")
    assert "up to" not in ended.out
    assert len(VERIFIER.read_text().splitlines()) < 80


async def test_every_zip_program_opens_it(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == [*NAMES]
        assert all(member.compress_type == zipfile.ZIP_STORED for member in file.infolist())


def places_in(content: bytes) -> list[int]:
    """Return places of bytes in all parts of the file, of its contents and of what is around them."""
    with zipfile.ZipFile(BytesIO(content)) as file:
        places = {*range(file.start_dir, len(content), 23), len(content) - 1}
        for member in file.infolist():
            begin = member.header_offset + 30 + len(member.filename)
            end = begin + member.file_size
            places |= {*range(member.header_offset, begin, 9), begin, (begin + end) // 2, end - 1}
    return sorted(places)


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


@NODE
async def test_the_program_of_the_documentation_rejects_a_flipped_bit_wherever_it_is(
    data: Path, path: Path, tmp_path: Path
) -> None:
    content, changed = path.read_bytes(), tmp_path / "changed.zip"
    for number, place in enumerate(places_in(content)):
        changed.write_bytes(flipped(content, place, number % 8))
        ended = await node(changed, key_of(data))
        assert (ended.status, ended.out) == (1, ""), f"byte {place}"
        assert len(ended.err.splitlines()) == 1, ended.err


async def test_the_command_rejects_a_flipped_bit_and_says_where(
    data: Path, path: Path, tmp_path: Path
) -> None:
    content, changed = path.read_bytes(), tmp_path / "changed.zip"
    for number, place in enumerate(places_in(content)[::10]):
        changed.write_bytes(flipped(content, place, number % 8))
        ended = await verify(changed, "--key", str(key_of(data).verifier))
        assert (ended.status, ended.out) == (1, ""), f"byte {place}"
        assert ended.err.startswith((f"{changed}: ", "position ")), ended.err
        assert len(ended.err.splitlines()) == 1, ended.err
    changed.write_bytes(content.replace(b"aborted on request", b"aborted in request", 1))
    ended = await verify(changed)
    assert ended.err == "position 14: payload or metadata are not those that were recorded\n"
    changed.write_bytes(
        content.replace(b"<title>History", b"<title>Mystery", 1).replace(b"<title>Hist", b"<title>Myst", 1)
    )
    ended = await verify(changed)
    assert ended.err == f"{changed}: history.html was changed\n"


async def test_no_bit_of_it_can_be_flipped_unnoticed(data: Path, path: Path, tmp_path: Path) -> None:
    content, changed, key = path.read_bytes(), tmp_path / "changed.zip", key_of(data).verifier
    for place in {*range(0, len(content), 11), *places_in(content)}:
        changed.write_bytes(flipped(content, place, place % 8))
        with pytest.raises((UWSError, EventStoreError)):
            verify_history(changed, key)


@pytest.mark.parametrize("cut", [0, 2, 100, -1])
async def test_a_file_that_was_cut_off_is_refused(path: Path, tmp_path: Path, cut: int) -> None:
    half = tmp_path / "half.zip"
    half.write_bytes(path.read_bytes()[:cut])
    ended = await verify(half)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"{half}: ")
    longer = tmp_path / "longer.zip"
    longer.write_bytes(path.read_bytes() + b" ")
    assert (await verify(longer)).status == 1


async def test_any_other_zip_file_is_no_history(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("README.txt", "Dear diary")
    ended = await verify(tmp_path / "other.zip")
    assert (ended.status, ended.err) == (
        1, f"{tmp_path / 'other.zip'}: byte 0: this is not how README.txt begins\n",
    )  # fmt: skip


async def test_the_signature_of_another_server_is_refused(data: Path, path: Path, tmp_path: Path) -> None:
    other = SigningKey.load_or_create(tmp_path / "key", ORIGIN)
    ended = await verify(path, "--key", str(other.verifier))
    assert (ended.status, ended.out) == (1, "")
    assert "signed by other keys only" in ended.err


# Files that are signed, and do not hold


def made(members: dict[str, bytes]) -> bytes:
    """Return the ZIP file of these members, from the words of the documentation."""
    front, back = b"", b""
    for name, content in members.items():
        measures = struct.pack("<III", zlib.crc32(content), len(content), len(content))
        fixed = struct.pack("<5H", 20, 0, 0, 0, 33)
        place = struct.pack("<II", 0, len(front))
        front += b"PK\3\4" + fixed + measures + struct.pack("<2H", len(name), 0) + name.encode() + content
        back += b"PK\1\2" + struct.pack("<H", 20) + fixed + measures
        back += struct.pack("<5H", len(name), 0, 0, 0, 0) + place + name.encode()
    end = struct.pack("<4HIIH", 0, 0, len(members), len(members), len(back), len(front), 0)
    return front + back + b"PK\5\6" + end


def signed(path: Path, key: SigningKey, head: Head, lines: Lines) -> None:
    """Change the events of a file, and sign it anew."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in NAMES}
    path.write_bytes(signed_file(members, key, head, lines))


def signed_file(members: dict[str, bytes], key: SigningKey, head: Head, lines: Lines) -> bytes:
    """Return a file with these events, signed, and with the other members as they are."""
    members = dict(members) | {"history.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines)}
    del members["checkpoint"]
    listed = "".join(f"{sha256(content).hexdigest()}  {name}\n" for name, content in members.items())
    extension = f"history {sha256(listed.encode()).hexdigest()}"
    note = Checkpoint(ORIGIN, head, datetime(2026, 3, 2, tzinfo=UTC), (extension,)).sign(key)
    return made({**members, "checkpoint": note.encode()})


def lines_of(path: Path) -> Lines:
    with zipfile.ZipFile(path) as file:
        return [json.loads(line) for line in file.read("history.jsonl").splitlines()]


def number(value: int) -> bytes:
    return struct.pack(">qq", 8, value)


def field(value: bytes) -> bytes:
    return struct.pack(">q", len(value)) + value


def sealed(lines: Lines) -> None:
    """Give all events the digests and hashes that follow from what they hold."""
    last: dict[str, Any] = {}
    for event in lines[1:]:
        if event.get("salt"):
            held = (
                bytes.fromhex(event["salt"]),
                event.get("metadata", "").encode(),
                event.get("data", "").encode(),
            )
            event["digest"] = sha256(b"".join(map(field, held))).hexdigest()
        previous = bytes.fromhex(event.get("previous") or last["hash"])
        texts = b"".join(field(event[name].encode()) for name in ("stream", "id", "type"))
        event["hash"] = sha256(
            field(previous) + number(event["position"]) + number(event["version"]) + number(event["time"])
            + field(bytes.fromhex(event["digest"])) + texts
        ).hexdigest()  # fmt: skip
        last = event


def find(lines: Lines, kind: str) -> int:
    return next(n for n, line in enumerate(lines) if line.get("type") == kind)


def change_payload(lines: Lines) -> None:
    event = lines[find(lines, "JobAborted")]
    event["data"] = event["data"].replace("on request", "for no reason")


def change_actor(lines: Lines) -> None:
    event = lines[find(lines, "JobAborted")]
    event["metadata"] = event["metadata"].replace("grace", "anna")


def change_time(lines: Lines) -> None:
    lines[find(lines, "JobAborted")]["time"] += 1


def change_envelope(lines: Lines) -> None:
    lines[find(lines, "JobCompleted")]["type"] = "JobFailed"


def take_out(lines: Lines) -> None:
    del lines[find(lines, "JobAborted")]


def take_the_last_but_one(lines: Lines) -> None:
    """Leave a gap in the versions of a job, with a hash that fits."""
    last = lines[-1]
    last["version"] += 1
    sealed(lines)


def turn_round(lines: Lines) -> None:
    lines[-1], lines[-2] = lines[-2], lines[-1]


def begin_before_the_first(lines: Lines) -> None:
    lines[1]["previous"] = "11" * 32
    sealed(lines)


def lead_elsewhere(lines: Lines) -> None:
    """Follow the rules, on the way to another hash than the one that was kept."""
    change_payload(lines)
    sealed(lines)


def break_the_chain(lines: Lines) -> None:
    """Begin anew between the events and the checkpoint."""
    event = lines[find(lines, "JobAborted")]
    event["previous"] = lines[find(lines, "JobAborted") - 1]["hash"]


def hide_a_job(lines: Lines) -> None:
    lines[0]["jobs"].append("nobody")


def call_it_otherwise(lines: Lines) -> None:
    lines[0]["format"] = "uwsd-history/2"


def change_nothing(lines: Lines) -> None:
    sealed(lines)


def change_the_end(lines: Lines) -> None:
    """Have the last event where the checkpoint is, and another one than that saw."""
    lines[-1]["position"], lines[-1]["previous"] = 1000, "11" * 32
    sealed(lines)


FORGERIES = [
    change_payload, change_actor, change_time, change_envelope, take_out, take_the_last_but_one, turn_round,
    begin_before_the_first, lead_elsewhere, break_the_chain, hide_a_job, change_the_end, call_it_otherwise,
    change_nothing,
]  # fmt: skip


@NODE
@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
async def test_what_does_not_hold_is_refused_whoever_signs_it(
    data: Path, path: Path, forge: Callable[[Lines], None]
) -> None:
    lines = lines_of(path)
    forge(lines)
    signed(path, key_of(data), Head(1000, bytes(32)), lines)
    ended = await verify(path, "--key", str(key_of(data).verifier))
    if forge is change_nothing:
        assert (ended.status, (await node(path, key_of(data))).status) == (0, 0)
        return
    assert (ended.status, ended.out) == (1, ""), ended
    ended = await node(path, key_of(data))
    assert (ended.status, ended.out) == (1, ""), ended


def forget_the_erasure(lines: Lines) -> None:
    event = lines[find(lines, "$erased")]
    event["data"] = event["data"].replace('"through":5', '"through":4')
    sealed(lines)


def declare_otherwise(lines: Lines) -> None:
    event = lines[find(lines, "ServiceDeclared")]
    event["data"] = event["data"].replace("Echo", "Ecco")
    sealed(lines)


def add_another_stream(lines: Lines) -> None:
    event = dict(lines[find(lines, "ServiceDeclared")], position=99, type="QueuePaused", stream="queue")
    lines.append(event)
    sealed(lines)


def hold_nonsense(lines: Lines) -> None:
    event = lines[find(lines, "JobAborted")]
    event["data"] = "nonsense"
    sealed(lines)


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (forget_the_erasure, "events of job a are empty, and no erasure is on record"),
        (declare_otherwise, "the declaration is not the one of its digest"),
        (add_another_stream, "it belongs to none of the jobs"),
        (hold_nonsense, "of the events: "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_the_events_say_must_hold_together(
    data: Path, tmp_path: Path, forge: Callable[[Lines], None], told: str
) -> None:
    path = await export(data, tmp_path / "jobs.zip", "a", "b")
    lines = lines_of(path)
    forge(lines)
    signed(path, key_of(data), Head(1000, bytes(32)), lines)
    ended = await verify(path, "--key", str(key_of(data).verifier))
    assert (ended.status, ended.out) == (1, "")
    assert told in ended.err
    assert "Traceback" not in ended.err


def date_far(time: int) -> Callable[[Lines], None]:
    def date(lines: Lines) -> None:
        lines[find(lines, "JobAborted")]["time"] = time
        sealed(lines)

    return date


def occur_far(lines: Lines) -> None:
    event = lines[find(lines, "JobAborted")]
    event["metadata"] = json.dumps({"occurred": 10**30})
    sealed(lines)


def call_it_what_nobody_knows(lines: Lines) -> None:
    lines[find(lines, "JobAborted")]["type"] = "JobEnchanted"
    sealed(lines)


def nest_deeply(lines: Lines) -> None:
    lines[find(lines, "JobAborted")]["data"] = '{"spell":' + "[" * 100_000 + "]" * 100_000 + "}"
    sealed(lines)


IMPOSSIBLE = {
    "late": date_far(2**62), "early": date_far(-(2**62)), "occurred": occur_far,
    "unknown": call_it_what_nobody_knows, "deep": nest_deeply,
}  # fmt: skip


@pytest.mark.parametrize("forge", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
async def test_what_cannot_be_is_told_with_its_line_where_it_was_signed_and_not_looked_at_else(
    data: Path, tmp_path: Path, forge: Callable[[Lines], None]
) -> None:
    path = await export(data, tmp_path / "jobs.zip", "b")
    lines, key = lines_of(path), str(key_of(data).verifier)
    forge(lines)
    with zipfile.ZipFile(path) as file:
        note = file.read("checkpoint")
    signed(path, key_of(data), Head(1000, bytes(32)), lines)
    for options in ((), ("--key", key)):
        ended = await verify(path, *options)
        assert (ended.status, ended.out) == (1, ""), ended.err
        assert ended.err.startswith(f"{path}: line {len(lines)} of the events: ")
        assert len(ended.err.splitlines()) == 1, ended.err
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in NAMES}
    path.write_bytes(made({**members, "checkpoint": note}))
    ended = await verify(path, "--key", key)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"{path}: it is not what was signed: checkpoint does not say ")


KEY = SigningKey(Ed25519PrivateKey.generate(), ORIGIN)
STORY = [
    ("service/echo", e.ServiceDeclared(
        service="echo", digest=ECHO.digest, declaration=ECHO.canonical.decode())),
    ("job/a", e.JobCreated(
        service="echo", declaration=ECHO.digest, execution_duration=60, owner="anna",
        destruction=datetime(2027, 1, 1, tzinfo=UTC), parameters={"word": ("wörd",)})),
    ("job/a", e.JobQueued()),
    ("job/a", e.JobStarted(declaration=ECHO.digest)),
    ("job/a", e.StopRequested(reason="abort")),
    ("job/a", e.JobFailed(results=(RESULT,), failure=Failure(message="no"), exit_code=3)),
    ("job/a", e.JobDestroyed(reason="destroyed on request")),
]  # fmt: skip
NUMBERS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def story() -> Lines:
    """Return the lines of the history of a job, with digests and hashes yet to come."""
    lines: Lines = [{"format": "uwsd-history/1", "jobs": ["a"]}]
    versions: Counter[str] = Counter()
    for position, (stream, event) in enumerate(STORY, start=1):
        encoded = e.encode(event, ANNA)
        versions[stream] += 1
        lines.append({
            "position": position, "stream": stream, "version": versions[stream], "id": f"{position}",
            "type": encoded.type, "time": 1_800_000_000_000_000 + position, "salt": "ab" * 16,
            "metadata": json.dumps(msgspec.to_builtins(encoded.metadata)), "data": encoded.data.decode(),
        })  # fmt: skip
    lines[1]["previous"] = "00" * 32
    return lines


@st.composite
def forged(draw: st.DrawFn) -> Lines:
    """Return a history in which some fields say something else, and every hash is right."""
    lines = story()
    for event in draw(st.lists(st.sampled_from(lines[1:]), min_size=1, max_size=3)):
        kind = draw(st.sampled_from(["time", "type", "data", "metadata", "stream", "version"]))
        if kind in ("data", "metadata"):
            held = json.loads(event[kind])
            known = st.sampled_from([*held, "schema", "occurred", "source", "actor", "results", "reason"])
            held[draw(known)] = draw(VALUES)
            event[kind] = json.dumps(held)
        else:
            event[kind] = draw({
                "time": NUMBERS, "version": NUMBERS, "stream": st.sampled_from(["job/a", "queue"]),
                "type": st.sampled_from([*sorted(e.EVENT_TYPES)]) | st.text(),
            }[kind])  # fmt: skip
    sealed(lines)
    return lines


@given(forged())
@settings(deadline=None)
def test_whatever_a_signed_history_says_is_told_and_never_a_traceback(lines: Lines) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "file.zip")
        others = dict.fromkeys(NAMES, b"")
        path.write_bytes(signed_file(others, KEY, Head(1000, bytes(32)), lines))
        with suppress(DoesNotHold):
            verify_history_file(path, KEY.verifier, [], Path(directory), None)


def test_the_history_that_is_forged_there_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, path = story(), tmp_path / "file.zip"
    sealed(lines)
    path.write_bytes(signed_file(dict.fromkeys(NAMES, b""), KEY, Head(1000, bytes(32)), lines))
    verify_history_file(path, KEY.verifier, [], None, None)
    assert capsys.readouterr().out.startswith("job a: ERROR, destroyed\n")


@given(st.binary(max_size=300), st.integers(0, 3))
def test_whatever_is_in_a_member_is_told_and_never_a_traceback(content: bytes, which: int) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "file.zip")
        path.write_bytes(made({name: content if n == which else b"" for n, name in enumerate(NAMES)}))
        with pytest.raises((UWSError, EventStoreError)):
            verify_history(path)
