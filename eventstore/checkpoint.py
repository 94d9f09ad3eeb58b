"""Signed checkpoints: where a log ended once, in a text that can be held against the log later.

A checkpoint is a note in the form of C2SP signed-note, its text in that of C2SP tlog-checkpoint. Where the
latter has the root of a Merkle tree stands the hash of the chain at the head.
"""

from __future__ import annotations

import os
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ._errors import EventStoreError
from ._types import Head
from .publishing import published

_ED25519 = b"\x01"
"""The signature type, signed-note, "Signature types"."""
_MAX_SIZE = 1 << 18
"""Bytes of a note: room for the 16 signatures that a reader must accept, post-quantum ones too."""
_MAX_POSITION = (1 << 63) - 1

_NAME = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")
_ORIGIN = re.compile(rb"origin: (.*)\n")  # text before the key itself, as RFC 7468, section 2, allows
_POSITION = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE = re.compile(rf"— ({_NAME.pattern}) (\S+)")


class CheckpointError(EventStoreError):
    """A checkpoint or its key is not what it should be."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class VerifierKey(msgspec.Struct, frozen=True):
    """What shows that a checkpoint was signed by the log called ``name``; ``public`` is its raw public key.

    `str` gives the text that `parse` reads (signed-note, "Verifier keys"): not secret, but worth as much as
    the way it came.
    """

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<name>+<key id>+<key>``. Raises `CheckpointError`."""
        name, _, rest = text.partition("+")
        id_, _, encoded = rest.partition("+")
        typed = _decode(encoded)
        if not _NAME.fullmatch(name) or len(typed) != 33 or typed[:1] != _ED25519:
            raise CheckpointError(f"not an Ed25519 verifier key, <name>+<key id>+<base64>: {text!r}")
        key = cls(name, typed[1:])
        if id_ != key.id.hex():
            raise CheckpointError(f"the id of this verifier key should be {key.id.hex()}: {text!r}")
        return key

    @property
    def id(self) -> bytes:
        """Four bytes that, with the name, tell this key from others (signed-note, "Signatures")."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Return whether ``signature`` is this key's, of exactly ``text``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_encode(_ED25519 + self.public)}"


class SigningKey:
    """A log's Ed25519 key."""

    def __init__(self, private: Ed25519PrivateKey, origin: str) -> None:
        self._private = private
        self._verifier = VerifierKey(origin, private.public_key().public_bytes_raw())

    @classmethod
    def load(cls, path: Path, origin: str | None = None) -> Self:
        """Return the key in ``path``: PKCS #8 in PEM, after a line ``origin: <name>``.

        The name is that of the log; where there is no such line, it is ``origin``. Blocks on the disk. Raises
        `CheckpointError`, also for a file that others than its owner may read.
        """
        pem = _read_secret(path)
        named = _ORIGIN.match(pem)
        name = named[1].decode(errors="replace") if named else origin
        if name is None:
            raise CheckpointError(
                f"{path} does not say whose key it is: its first line should be origin: <name>"
            )
        return cls(_private_key(path, pem), _checked_name(name))

    @classmethod
    def load_or_create(cls, path: Path, origin: str) -> Self:
        """Return the key in ``path``, after putting a new one of the log ``origin`` there if there is none.

        All who call this at the same time get the same key, and it is on disk then. Blocks on the disk.
        Raises what `load` does.
        """
        _checked_name(origin)
        if not os.path.lexists(path):
            created = Ed25519PrivateKey.generate()
            pem = created.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            _publish(path, f"origin: {origin}\n".encode() + pem, 0o600)
        return cls.load(path, origin)

    @property
    def verifier(self) -> VerifierKey:
        """The key for those who are to check signatures."""
        return self._verifier

    def sign(self, text: bytes) -> bytes:
        """Return the 64 bytes of the signature (RFC 8032) of ``text``."""
        return self._private.sign(text)


class Checkpoint(msgspec.Struct, frozen=True):
    """The log ``origin`` ended at ``head`` at ``time`` (UTC), by the clock of whoever signed that.

    ``extensions`` are further lines that were signed with it.
    """

    origin: str
    head: Head
    time: datetime
    extensions: tuple[str, ...] = ()

    def sign(self, key: SigningKey) -> str:
        """Return the signed note: the text, an empty line and a line with the signature.

        Raises `CheckpointError` when ``key`` is another log's, or when nobody could read back what this says.
        """
        lines = (self.origin, str(self.head.position), _encode(self.head.hash), _format_time(self.time))
        text = "".join(f"{line}\n" for line in (*lines, *self.extensions))
        if _read(text) != self:
            raise CheckpointError(f"not a checkpoint that can be written: {self}")
        by = key.verifier
        if by.name != self.origin:
            raise CheckpointError(f"the key is that of {by.name}, and the checkpoint is of {self.origin}")
        return f"{text}\n— {by.name} {_encode(by.id + key.sign(text.encode()))}\n"


def open_checkpoint(note: str | bytes, key: VerifierKey) -> Checkpoint:
    """Return what ``note`` says once ``key`` has shown that its log said it.

    Signatures by other keys are passed over. Raises `CheckpointError` when the note is not in the form, has
    no signature by ``key`` or a wrong one, or is of another log than the key.
    """
    text, signatures = _split(note)
    own = [signature for signature in signatures if (signature.name, signature.id) == (key.name, key.id)]
    if not own:
        others = ", ".join(f"{signature.name}+{signature.id.hex()}" for signature in signatures)
        raise CheckpointError(f"signed by other keys only: {others}; not by {key.name}+{key.id.hex()}")
    if not all(key.verify(text.encode(), signature.value) for signature in own):
        raise CheckpointError(f"the signature by {key.name} is wrong: this is not what was signed")
    checkpoint = _read(text)
    if checkpoint.origin != key.name:
        raise CheckpointError(f"the key is that of {key.name}, and the checkpoint is of {checkpoint.origin}")
    return checkpoint


def read_checkpoint(note: str | bytes) -> Checkpoint:
    """Return what ``note`` says, whoever says it. Raises `CheckpointError` when it is not in the form."""
    return _read(_split(note)[0])


def write_checkpoint(directory: Path, note: str, position: int) -> Path:
    """Put ``note`` into ``directory``, in a file for all to read, and return ``<position:016d>.checkpoint``.

    The file is there as a whole or not at all, and it is on disk then. One of the same head that is there
    already stays. Blocks on the disk. Raises `CheckpointError` when it cannot be written, and when the file
    that is there is of another head.
    """
    path = directory / f"{position:016d}.checkpoint"
    if not _publish(path, note.encode(), 0o644):
        with _blaming(path):
            there = path.read_bytes()
        if there.split(b"\n")[1:3] != note.encode().split(b"\n")[1:3]:
            raise CheckpointError(
                f"{path} is a checkpoint of another head: two logs, or one that was rewritten"
            )
    return path


# The form


def _checked_name(origin: str) -> str:
    if not _NAME.fullmatch(origin):
        raise CheckpointError(f"{origin!r} is no name for a log: no spaces, no +, not empty")
    return origin


class _Signature(NamedTuple):
    name: str
    id: bytes
    value: bytes


def _split(note: str | bytes) -> tuple[str, list[_Signature]]:
    """Take a note apart into its text and its signatures (signed-note, "Format")."""
    try:
        data = note.encode() if isinstance(note, str) else note
        lines = data.decode().split("\n")
    except UnicodeError as error:
        raise CheckpointError("the note is not UTF-8") from error
    if len(data) > _MAX_SIZE:
        raise CheckpointError(f"the note is longer than {_MAX_SIZE} bytes")
    for number, line in enumerate(lines, start=1):
        if any(character < " " for character in line):
            raise _fault(number, "a control character")
    if lines.pop():
        raise _fault(len(lines) + 1, "no newline at the end")
    if "" not in lines:
        raise _fault(len(lines) + 1, "missing; an empty line and signatures are expected")
    last_empty = len(lines) - 1 - lines[::-1].index("")
    text, signed = lines[:last_empty], lines[last_empty + 1 :]
    if not signed:
        raise _fault(len(lines) + 1, "missing; a signature is expected")
    signatures = [_read_signature(number, line) for number, line in enumerate(signed, start=last_empty + 2)]
    return "".join(f"{line}\n" for line in text), signatures


def _read_signature(number: int, line: str) -> _Signature:
    match = _SIGNATURE.fullmatch(line)
    value = _decode(match[2]) if match else b""
    if match is None or len(value) <= 4:
        raise _fault(number, "not a signature, — <key name> <base64>")
    return _Signature(match[1], value[:4], value[4:])


def _read(text: str) -> Checkpoint:
    """Read the text of a note (tlog-checkpoint, "Note text"), whose fourth line is the time."""
    lines = text.removesuffix("\n").split("\n")
    if "" in lines:
        raise _fault(lines.index("") + 1, "empty")
    if len(lines) < 4:
        raise _fault(len(lines) + 1, "missing; origin, position, hash and time are expected")
    origin, position, hash_, time = lines[:4]
    if not _NAME.fullmatch(origin):
        raise _fault(1, "not an origin, which has no spaces and no +")
    if not _POSITION.fullmatch(position) or int(position) > _MAX_POSITION:
        raise _fault(2, "not a position, a decimal number without leading zeros")
    head = Head(int(position), _decode(hash_))
    if len(head.hash) != 32:
        raise _fault(3, "not the base64 of 32 bytes")
    return Checkpoint(origin, head, _read_time(time), tuple(lines[4:]))


def _read_time(line: str) -> datetime:
    try:
        time = datetime.fromisoformat(line.removeprefix("time "))
        if _format_time(time) == line:
            return time
    except (ValueError, OverflowError):
        pass
    raise _fault(4, "not a time, such as: time 2026-11-22T20:00:00.000000Z")


def _format_time(time: datetime) -> str:
    return f"time {time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _fault(line: int, what: str) -> CheckpointError:
    return CheckpointError(f"line {line}: {what}")


def _encode(data: bytes) -> str:
    return b64encode(data).decode()


def _decode(text: str) -> bytes:
    """Decode base64 (RFC 4648, section 4), or return nothing for any but the one right way to write it."""
    try:
        data = b64decode(text)
    except ValueError:
        return b""
    return data if _encode(data) == text else b""


# Files


def _read_secret(path: Path) -> bytes:
    # Not blocking, for it may be a pipe, to which nobody writes.
    with _blaming(path), os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is no regular file")
        content = file.read(_MAX_SIZE)
    if (mode := status.st_mode & 0o777) & 0o077:
        raise CheckpointError(f"{path} is open to others than its owner, mode {mode:04o}: it should be 0600")
    return content


def _private_key(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return key


def _no_key(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is no key: it should be an Ed25519 key, PKCS #8 in PEM, without a password"
    )


def _publish(path: Path, data: bytes, mode: int) -> bool:
    """Make a file, durable, as a whole or not at all. Return False when there is one already."""
    with _blaming(path):
        try:
            with published(path, mode) as file:
                file.write(data)
        except FileExistsError:
            return False
    return True


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn errors of the system into a `CheckpointError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
