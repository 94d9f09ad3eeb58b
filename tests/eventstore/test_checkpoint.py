"""Checkpoints: what a key has signed is what is read, and nothing else is."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import string
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import ChainBroken, Head, MemoryEventStore, NewEvent
from eventstore.checkpoint import (
    Checkpoint,
    CheckpointError,
    SigningKey,
    VerifierKey,
    open_checkpoint,
    write_checkpoint,
)

ORIGIN = "uws.example/log"
HEAD = Head(1234567, bytes(range(32)))
TIME = datetime(2026, 11, 22, 20, 0, 0, 5, UTC)
CHECKPOINT = Checkpoint(ORIGIN, HEAD, TIME)
TEXT = f"{ORIGIN}\n1234567\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\ntime 2026-11-22T20:00:00.000005Z\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "signing.key"


@pytest.fixture(scope="module")
def key(path: Path) -> SigningKey:
    return SigningKey.load_or_create(path, ORIGIN)


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that says no name."""
    path = tmp_path_factory.mktemp("unnamed") / "signing.key"
    write_key(path, Ed25519PrivateKey.generate())
    return path


@pytest.fixture
def other(tmp_path: Path) -> SigningKey:
    return SigningKey.load_or_create(tmp_path / "other.key", "other.example")


def line(key: SigningKey, text: str, name: str | None = None) -> str:
    """A signature line, from the words of the specification."""
    verifier = key.verifier
    signature = b64encode(verifier.id + key.sign(text.encode())).decode()
    return f"— {name or verifier.name} {signature}\n"


def reason(note: str | bytes, key: SigningKey) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(note, key.verifier)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


# What is signed is what is read

names = st.text(st.characters(min_codepoint=0x21, exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: "+" not in name and not any(map(str.isspace, name))
)
heads = st.builds(Head, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
times = st.datetimes(timezones=st.just(UTC))


@settings(deadline=None)
@given(origin=names, head=heads, time=times)
def test_a_checkpoint_comes_back_as_it_was_signed(
    origin: str, head: Head, time: datetime, unnamed: Path
) -> None:
    named = SigningKey.load(unnamed, origin)
    checkpoint = Checkpoint(origin, head, time)
    note = checkpoint.sign(named)
    told = VerifierKey.parse(str(named.verifier))
    assert open_checkpoint(note, told) == open_checkpoint(note.encode(), told) == checkpoint


def test_a_note_is_to_the_byte_what_the_documentation_says(key: SigningKey) -> None:
    note = CHECKPOINT.sign(key)
    name, id_, encoded = str(key.verifier).split("+", 2)
    typed = b64decode(encoded)
    assert (name, typed[:1], len(typed)) == (ORIGIN, b"\x01", 33)
    assert bytes.fromhex(id_) == sha256(ORIGIN.encode() + b"\x0a" + typed).digest()[:4]
    text, _, rest = note.partition("\n\n")
    assert f"{text}\n" == TEXT
    dash, signer, value = rest.removesuffix("\n").split(" ")
    assert (dash, signer, rest[-1]) == ("\N{EM DASH}", ORIGIN, "\n")
    raw = b64decode(value)
    assert raw[:4].hex() == id_
    Ed25519PublicKey.from_public_bytes(typed[1:]).verify(raw[4:], TEXT.encode())


OPENSSL = r"""
printf '\60\52\60\5\6\3\53\145\160\3\41\0' > key.der
printf %s "$VKEY" | cut -d+ -f3- | base64 -d | tail -c 32 >> key.der
sed '/^$/,$d' note > text
tail -n 1 note | cut -d' ' -f3 | base64 -d | tail -c 64 > signature
openssl pkeyutl -verify -rawin -pubin -keyform DER -inkey key.der -in text -sigfile signature
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_openssl_verifies_a_note_as_documented(key: SigningKey, tmp_path: Path) -> None:
    note = CHECKPOINT.sign(key)
    for written, status in ((note, 0), (note.replace("1234567", "1234568"), 1)):
        (tmp_path / "note").write_text(written)
        environment = {**os.environ, "VKEY": str(key.verifier)}
        done = subprocess.run(
            ["sh", "-c", OPENSSL], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr


async def test_an_opened_checkpoint_shows_whether_a_log_was_rewritten(key: SigningKey) -> None:
    store, rewritten = MemoryEventStore(), MemoryEventStore()
    for text in (b"1", b"2"):
        await store.append("a", [NewEvent(type="Said", data=text)])
        await rewritten.append("a", [NewEvent(type="Said", data=text)])
    note = Checkpoint(ORIGIN, await store.head(), TIME).sign(key)
    await store.append("a", [NewEvent(type="Said", data=b"3")])
    seen = open_checkpoint(note, key.verifier).head
    await store.verify(contains=[seen])
    with pytest.raises(ChainBroken, match="position 2"):
        await rewritten.verify(contains=[seen])
    await store.close()
    await rewritten.close()


# Known answers

# signed-note 1.1.0, "Verifier keys"
SPECIFIED_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPECIFIED_SIGNATURE = (
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
)
# RFC 8032, section 7.1, TEST 2
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNED = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_the_note_of_the_specification_is_signed_by_its_key_but_no_checkpoint() -> None:
    key = VerifierKey.parse(SPECIFIED_KEY)
    assert (str(key), key.name, key.id.hex()) == (SPECIFIED_KEY, "example.com/foo", "530d903a")
    signature = f"— example.com/foo {SPECIFIED_SIGNATURE}\n"
    with pytest.raises(CheckpointError, match=r"^line 2: missing"):
        open_checkpoint(f"This is an example message.\n\n{signature}", key)
    with pytest.raises(CheckpointError, match=r"^the signature by example.com/foo is wrong"):
        open_checkpoint(f"This is an example massage.\n\n{signature}", key)


def test_signatures_are_those_of_rfc_8032(tmp_path: Path) -> None:
    write_key(tmp_path / "key", Ed25519PrivateKey.from_private_bytes(SECRET))
    key = SigningKey.load_or_create(tmp_path / "key", ORIGIN)
    assert key.sign(b"\x72") == SIGNED
    assert key.verifier == VerifierKey(ORIGIN, PUBLIC)


# Nothing else is read


def changes(text: str) -> Iterator[str]:
    """All texts that differ from ``text`` in one character: another one, one less, one more, two swapped."""
    others = string.printable + "\0\x7f\x85\xa0–—é\ufeff\ud800"
    for place, character in enumerate(text):
        before, after = text[:place], text[place + 1 :]
        yield before + after
        for another in others:
            yield f"{before}{another}{after}"
        for more in ("\n", " ", "=", "0", "\r", "\ufeff"):
            yield f"{before}{more}{character}{after}"
        yield f"{before}{after[:1]}{character}{after[1:]}"
    for more in others:
        yield f"{text}{more}"


def test_no_note_with_one_character_changed_is_accepted(key: SigningKey) -> None:
    note = CHECKPOINT.sign(key)
    accepted = [changed for changed in changes(note) if changed != note and opens(changed, key.verifier)]
    assert accepted == []


def opens(note: str, key: VerifierKey) -> bool:
    try:
        open_checkpoint(note, key)
    except CheckpointError:
        return False
    return True


def test_no_verifier_key_with_one_character_changed_is_accepted(key: SigningKey) -> None:
    text = str(key.verifier)
    for changed in changes(text):
        if changed != text:
            with pytest.raises(CheckpointError):
                VerifierKey.parse(changed)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_verifier_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(CheckpointError, match=r"^not an Ed25519 verifier key, <name>\+<key id>\+<base64>: "):
        VerifierKey.parse(str(VerifierKey(ORIGIN, bytes(size))))


@settings(deadline=None)
@given(note=st.one_of(st.text(), st.binary()))
def test_whatever_is_no_checkpoint_is_refused_as_such(note: str | bytes, key: SigningKey) -> None:
    reason(note, key)


@pytest.mark.parametrize(
    ("note", "told"),
    [
        (b"", "line 1: missing; an empty line and signatures are expected"),
        (b"a", "line 1: no newline at the end"),
        (b"a\nb\n", "line 3: missing; an empty line and signatures are expected"),
        (b"a\n\n", "line 3: missing; a signature is expected"),
        (b"a\r\n\n", "line 1: a control character"),
        (b"a\n\nb\tc\n", "line 3: a control character"),
        (b"a\xff\n", "the note is not UTF-8"),
        ("a\ud800\n", "the note is not UTF-8"),
        (b"a" * (1 << 18) + b"\n", "the note is longer than 262144 bytes"),
        ("a\n\n-- b.example AAAAAAA=\n", "line 3: not a signature, — <key name> <base64>"),
        ("a\n\n— b.example AAAAAAA=\nb\n", "line 4: not a signature, — <key name> <base64>"),
        ("a\n\n— b.example AAAAAAA=", "line 3: no newline at the end"),
        ("a\n\n— b.example AAAAAAB=\n", "line 3: not a signature, — <key name> <base64>"),
        ("a\n\n— b.example AAAAAA==\n", "line 3: not a signature, — <key name> <base64>"),
        ("a\n\n— b+c AAAAAAA=\n", "line 3: not a signature, — <key name> <base64>"),
        ("a\n\n— b.example  AAAAAAA=\n", "line 3: not a signature, — <key name> <base64>"),
    ],
)
def test_a_fault_in_the_form_of_a_note_is_reported_with_its_line(
    note: str | bytes, told: str, key: SigningKey
) -> None:
    assert reason(note, key) == told


TIME_EXPECTED = "line 4: not a time, such as: time 2026-11-22T20:00:00.000000Z"
POSITION_EXPECTED = "line 2: not a position, a decimal number without leading zeros"
HASH_EXPECTED = "line 3: not the base64 of 32 bytes"


@pytest.mark.parametrize(
    ("number", "written", "told"),
    [
        (1, "uws example", "line 1: not an origin, which has no spaces and no +"),
        (1, "uws+example", "line 1: not an origin, which has no spaces and no +"),
        (1, "uws\N{NO-BREAK SPACE}example", "line 1: not an origin, which has no spaces and no +"),
        (1, "", "line 1: empty"),
        (1, "b.example", f"the key is that of {ORIGIN}, and the checkpoint is of b.example"),
        (2, "01", POSITION_EXPECTED),
        (2, "-1", POSITION_EXPECTED),
        (2, "+1", POSITION_EXPECTED),
        (2, "1_0", POSITION_EXPECTED),
        (2, "1١", POSITION_EXPECTED),
        (2, "9223372036854775808", POSITION_EXPECTED),
        (2, "9" * 5000, POSITION_EXPECTED),
        (3, b64encode(bytes(31)).decode(), HASH_EXPECTED),
        (3, b64encode(bytes(33)).decode(), HASH_EXPECTED),
        (3, "A" * 42 + "B=", HASH_EXPECTED),
        (3, "A" * 43, HASH_EXPECTED),
        (3, "_" * 43 + "=", HASH_EXPECTED),
        (4, "time 2026-11-22T20:00:00Z", TIME_EXPECTED),
        (4, "time 2026-11-22T20:00:00.000000", TIME_EXPECTED),
        (4, "time 2026-11-22T20:00:00.000000+00:00", TIME_EXPECTED),
        (4, "time 2026-02-30T20:00:00.000000Z", TIME_EXPECTED),
        (4, "time 0001-01-01T00:00:00.000000+01:00", TIME_EXPECTED),
        (4, "2026-11-22T20:00:00.000000Z", TIME_EXPECTED),
        (4, "else", TIME_EXPECTED),
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_reported_with_the_line(
    number: int, written: str, told: str, key: SigningKey
) -> None:
    lines = TEXT.splitlines()
    lines[number - 1] = written
    text = "".join(f"{line}\n" for line in lines)
    assert reason(f"{text}\n{line(key, text)}", key) == told


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_signed_text_that_ends_too_soon_is_reported_with_the_line(kept: int, key: SigningKey) -> None:
    text = "".join(TEXT.splitlines(keepends=True)[:kept])
    told = f"line {kept + 1}: missing; origin, position, hash and time are expected"
    assert reason(f"{text}\n{line(key, text)}", key) == told


def test_extension_lines_that_are_not_understood_do_no_harm_but_are_signed(key: SigningKey) -> None:
    text = f"{TEXT}rows 12\ntime after time\n"
    note = f"{text}\n{line(key, text)}"
    extended = msgspec.structs.replace(CHECKPOINT, extensions=("rows 12", "time after time"))
    assert open_checkpoint(note, key.verifier) == extended
    assert extended.sign(key) == note
    assert "is wrong" in reason(note.replace("rows 12", "rows 13"), key)
    text = f"{TEXT}\nrows 12\n"
    assert reason(f"{text}\n{line(key, text)}", key) == "line 5: empty"


# Signatures


def test_signatures_of_other_keys_are_passed_over_and_one_of_the_known_key_is_needed(
    key: SigningKey, other: SigningKey
) -> None:
    own = line(key, TEXT)
    others = [
        line(other, TEXT),
        line(other, "another text\n"),
        line(other, TEXT, name=ORIGIN),  # the same name, another id
        line(key, TEXT, name="other.example"),  # the same id, another name
        f"— witness.example/ü {b64encode(bytes(5000)).decode()}\n",
    ] * 5
    for place in (0, 7, len(others)):
        note = f"{TEXT}\n" + "".join([*others[:place], own, *others[place:]])
        assert open_checkpoint(note, key.verifier) == CHECKPOINT
    assert open_checkpoint(f"{TEXT}\n{own}{own}", key.verifier) == CHECKPOINT
    id_, id_of_other = key.verifier.id.hex(), other.verifier.id.hex()
    assert reason(f"{TEXT}\n" + "".join(others[:4]), key) == (
        f"signed by other keys only: other.example+{id_of_other}, other.example+{id_of_other}, "
        f"{ORIGIN}+{id_of_other}, other.example+{id_}; not by {ORIGIN}+{id_}"
    )


def test_one_wrong_signature_of_the_known_key_spoils_the_note(key: SigningKey) -> None:
    right, wrong = line(key, TEXT), line(key, "another text\n")
    short = f"— {ORIGIN} {b64encode(key.verifier.id + bytes(63)).decode()}\n"
    for signatures in (wrong, short, right + wrong, wrong + right, short + right):
        told = f"the signature by {ORIGIN} is wrong: this is not what was signed"
        assert reason(f"{TEXT}\n{signatures}", key) == told


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", HEAD, TIME),
        Checkpoint("uws.example\n9", HEAD, TIME),
        Checkpoint("uws\ud800", HEAD, TIME),
        Checkpoint(ORIGIN, Head(-1, HEAD.hash), TIME),
        Checkpoint(ORIGIN, Head(2**63, HEAD.hash), TIME),
        Checkpoint(ORIGIN, Head(1, bytes(20)), TIME),
        Checkpoint(ORIGIN, HEAD, TIME.replace(tzinfo=None)),
        Checkpoint("other.example", HEAD, TIME),
    ],
)
def test_what_could_not_be_opened_is_not_signed(checkpoint: Checkpoint, key: SigningKey) -> None:
    assert CHECKPOINT.sign(key)
    with pytest.raises(CheckpointError):
        checkpoint.sign(key)


# The key's file


def write_key(
    path: Path, key: PrivateKeyTypes, encryption: KeySerializationEncryption | None = None, mode: int = 0o600
) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    path.write_bytes(pem)
    path.chmod(mode)


def write_half_a_key(path: Path) -> None:
    write_key(path, Ed25519PrivateKey.generate())
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_a_new_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    key = SigningKey.load_or_create(path, ORIGIN)
    assert os.listdir(tmp_path) == ["signing.key"]
    assert mode(path) == 0o600
    written = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(written, Ed25519PrivateKey)
    assert written.public_key().public_bytes_raw() == key.verifier.public
    again = SigningKey.load_or_create(path, ORIGIN)
    assert open_checkpoint(CHECKPOINT.sign(again), key.verifier) == CHECKPOINT
    assert SigningKey.load(path).verifier == key.verifier


def test_a_log_keeps_its_name(tmp_path: Path) -> None:
    key = SigningKey.load_or_create(tmp_path / "key", "a.example")
    assert SigningKey.load_or_create(tmp_path / "key", "b.example").verifier == key.verifier
    assert SigningKey.load(tmp_path / "key", "c.example").verifier.name == "a.example"


def test_a_key_from_elsewhere_gets_the_name_that_is_given(tmp_path: Path) -> None:
    write_key(tmp_path / "key", Ed25519PrivateKey.generate())
    assert SigningKey.load_or_create(tmp_path / "key", "a.example").verifier.name == "a.example"
    with pytest.raises(CheckpointError, match="its first line should be origin: <name>"):
        SigningKey.load(tmp_path / "key")


def test_a_key_is_not_made_by_looking_for_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="key: No such file or directory"):
        SigningKey.load(tmp_path / "key")
    assert os.listdir(tmp_path) == []


NO_KEY = "is no key: it should be an Ed25519 key, PKCS #8 in PEM, without a password"
WRONG_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing in it": (lambda path: path.touch(0o600), f" {NO_KEY}"),
    "half a key": (write_half_a_key, f" {NO_KEY}"),
    "of another kind": (lambda path: write_key(path, generate_private_key(SECP256R1())), f" {NO_KEY}"),
    "with a password": (
        lambda path: write_key(path, Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")),
        f" {NO_KEY}",
    ),
    "for the group": (
        lambda path: write_key(path, Ed25519PrivateKey.generate(), mode=0o640),
        " is open to others than its owner, mode 0640: it should be 0600",
    ),
    "for all": (
        lambda path: write_key(path, Ed25519PrivateKey.generate(), mode=0o604),
        " is open to others than its owner, mode 0604: it should be 0600",
    ),
    "a directory": (lambda path: path.mkdir(), ": Is a directory"),
    "leads nowhere": (lambda path: path.symlink_to("nowhere"), ": No such file or directory"),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_file_that_cannot_be_a_key_is_named_and_left(what: str, tmp_path: Path) -> None:
    make, told = WRONG_FILES[what]
    make(tmp_path / "key")
    before = os.lstat(tmp_path / "key")
    with pytest.raises(CheckpointError) as caught:
        SigningKey.load_or_create(tmp_path / "key", ORIGIN)
    assert caught.value.reason == f"{tmp_path / 'key'}{told}"
    assert os.listdir(tmp_path) == ["key"]
    after = os.lstat(tmp_path / "key")
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_mode,
    )


def test_nobody_else_can_open_a_key_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    fchmod = os.fchmod

    def noting_fchmod(descriptor: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", noting_fchmod)
    before = os.umask(0)
    try:
        SigningKey.load_or_create(tmp_path / "key", ORIGIN)
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_key_needs_a_directory_and_a_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/key: No such file or directory$"):
        SigningKey.load_or_create(tmp_path / "nowhere" / "key", ORIGIN)
    for origin in ("", "a b", "a+b", "a\n", "\ud800"):
        with pytest.raises(CheckpointError, match="is no name for a log"):
            SigningKey.load_or_create(tmp_path / "key", origin)
    assert os.listdir(tmp_path) == []


def test_processes_that_start_together_have_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from eventstore.checkpoint import SigningKey\n"
        "print(flush=True); input()\n"
        "print(SigningKey.load_or_create(Path(sys.argv[1]), 'a.example').verifier)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "key")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = {process.communicate()[0] for process in processes}
    assert told == {f"{SigningKey.load_or_create(tmp_path / 'key', 'a.example').verifier}\n"}
    assert os.listdir(tmp_path) == ["key"]


def test_who_comes_second_takes_the_key_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[SigningKey] = []
    link = os.link

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        first.append(SigningKey.load_or_create(target, ORIGIN))
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    second = SigningKey.load_or_create(tmp_path / "key", ORIGIN)
    assert first[0].verifier == second.verifier
    assert os.listdir(tmp_path) == ["key"]


# The checkpoint's file


@pytest.mark.usefixtures("umask")
def test_a_written_checkpoint_can_be_read_by_all_and_opened(tmp_path: Path, key: SigningKey) -> None:
    path = write_checkpoint(tmp_path, CHECKPOINT.sign(key), HEAD.position)
    assert path == tmp_path / "0000000001234567.checkpoint"
    assert os.listdir(tmp_path) == [path.name]
    assert mode(path) == 0o644
    assert open_checkpoint(path.read_bytes(), key.verifier) == CHECKPOINT


def test_a_checkpoint_that_is_there_stays_and_one_of_another_head_is_refused(
    key: SigningKey, other: SigningKey, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("checkpoints")
    note = CHECKPOINT.sign(key)
    path = write_checkpoint(directory, note, HEAD.position)
    later = Checkpoint("other.example", HEAD, TIME.replace(year=2027)).sign(other)
    assert write_checkpoint(directory, later, HEAD.position) == path
    assert path.read_text() == note
    rewritten = Checkpoint(ORIGIN, Head(HEAD.position, bytes(32)), TIME).sign(key)
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(directory, rewritten, HEAD.position)
    assert caught.value.reason == (
        f"{path} is a checkpoint of another head: two logs, or one that was rewritten"
    )
    assert path.read_text() == note
    assert os.listdir(directory) == [path.name]


def test_a_directory_that_is_not_there_is_named_and_not_made(tmp_path: Path, key: SigningKey) -> None:
    """It may be a disk that is not mounted."""
    with pytest.raises(
        CheckpointError, match=r"nowhere/0000000001234567.checkpoint: No such file or directory$"
    ):
        write_checkpoint(tmp_path / "nowhere", CHECKPOINT.sign(key), HEAD.position)
    assert os.listdir(tmp_path) == []


# Disks


@pytest.fixture(params=["key", "checkpoint"])
def write(request: pytest.FixtureRequest, key: SigningKey) -> Callable[[Path], object]:
    if request.param == "key":
        return lambda directory: SigningKey.load_or_create(directory / "key", ORIGIN)
    return lambda directory: write_checkpoint(directory, CHECKPOINT.sign(key), HEAD.position)


def test_a_file_is_on_disk_before_it_has_its_name_and_its_name_is_then(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves, from the order of system calls."""
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        target = os.fstat(descriptor)
        done.append("directory" if stat.S_ISDIR(target.st_mode) else f"{target.st_size > 0} {target.st_ino}")

    def noting_link(source: Path, target: Path) -> None:
        link(source, target)
        done.append("named")

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "link", noting_link)
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    assert done == [f"True {path.stat().st_ino}", "named", "directory"]


def test_a_full_disk_is_told_and_nothing_is_left_on_it(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"/(key|0+1234567.checkpoint): No space left on device$"):
        write(tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_event_store_needs_no_cryptography() -> None:
    program = "import sys, eventstore; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
