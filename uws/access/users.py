"""The users file: who has a password here, and which groups he is in."""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from weakref import WeakValueDictionary

import msgspec
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError

from uws.beneath import check_ours
from uws.clock import Clock, SystemClock
from uws.model import Unavailable, UsageError, UWSError, did_you_mean
from uws.model.text import LONGEST_NAME, SERVER_NAME, is_name, made_name

SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 1024
"""Characters; shorter ones are guessed (NIST SP 800-63B section 5.1.1.2), but good where they are set."""
_AT_ONCE = 2
"""Passwords that are verified at a time, each with 64 MiB of memory and the better part of 0.1 s."""
_WAITING = 50
_REMEMBERED, _FOR = 1000, timedelta(minutes=5)


_LONG_AGO = datetime.min.replace(tzinfo=UTC)
LARGEST = 1 << 24
"""Bytes of a users file."""


class UsersUnreadable(UWSError):
    """The users file cannot be read, or is not what `Users` has written."""


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry. ``changed`` is when the password was set: sessions from before that are over."""

    password: Annotated[str, msgspec.Meta(pattern=r"^\$argon2id\$")]
    changed: datetime
    groups: tuple[str, ...] = ()


Record = Callable[[User | None], None]
"""Told what becomes of an entry, before it is so."""
_turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
_entries = msgspec.json.Decoder(dict[str, User])
_hasher = PasswordHasher()  # Argon2id, with the parameters of RFC 9106 for little memory


def _nowhere(entry: User | None) -> None:
    pass


class Users:
    """The users in a file, which is read again when it has changed.

    While what is there cannot be used, those known last stay. Raises `UsersUnreadable` when none are known.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._seen: tuple[int, ...] = ()
        self._users: dict[str, User] | None = None
        self._reading = asyncio.Lock()
        self.problem: str | None = None
        """Why what is there cannot be used."""
        self.is_missing: bool = False
        """Whether there is no file."""
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        self._verified: OrderedDict[bytes, datetime] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self.turn: asyncio.Lock = _turns.setdefault(path.absolute(), asyncio.Lock())
        """For whoever changes the file: nobody but one process has the data directory."""
        self.was_read: asyncio.Event = asyncio.Event()
        """Set when the file was read again, be it in vain."""

    def all(self) -> dict[str, User]:
        """Return all users by name; none when there is no file."""
        if (seen := self._look()) != self._seen:
            self._read(seen)
            self.was_read.set()
        return self._known()

    async def current(self) -> dict[str, User]:
        """Do what `all` does, while others go on."""
        async with self._reading:
            if (seen := self._look()) != self._seen:
                await asyncio.to_thread(self._read, seen)
                self.was_read.set()
        return self._known()

    def find(self, name: str) -> User | None:
        """Return a user, None when there is none of this name."""
        return self.all().get(name)

    def _known(self) -> dict[str, User]:
        if self._users is None:
            raise UsersUnreadable(self.problem or f"{self._path}: not read yet")
        return self._users

    def _look(self) -> tuple[int, ...]:
        """Return what changes when the file does."""
        try:
            status = self._path.stat()
        except OSError as error:
            return (error.errno or 0,)
        # The time of its inode, too, with which its mode and its owner change.
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _read(self, seen: tuple[int, ...]) -> None:
        try:
            self._users, self.problem, self.is_missing = self._users_there(), None, False
        except FileNotFoundError:
            self._users, self.is_missing = {}, True
            self.problem = f"{self._path}: there is no users file: uwsd user add makes it"
        except (msgspec.DecodeError, UnicodeDecodeError, UsageError, UsersUnreadable) as error:
            self._fail(f"no users file: {error}")
        except OSError as error:
            self._fail(error.strerror or str(error))
        self._seen = seen

    def _fail(self, reason: str) -> None:
        self.problem = f"{self._path}: {reason}"
        if self.is_missing:  # that there are none was true of no file, and not of this one
            self.is_missing = False
            self._users = None

    def _users_there(self) -> dict[str, User]:
        # Not blocking, for it may be a pipe, to which nobody writes.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsersUnreadable("this is no regular file")
            check_ours(self._path, status)
            with open(descriptor, "rb", closefd=False) as file:
                raw = file.read(LARGEST + 1)
        finally:
            os.close(descriptor)
        if len(raw) > LARGEST:
            raise UsersUnreadable(f"it is larger than {LARGEST} bytes")
        users = _entries.decode(raw)
        for name, user in users.items():
            check_name(name, "user")
            check_hash(name, user.password)
        return users

    async def remembered(self, name: str, password: str) -> User | None:
        """Return the user of whom this password was verified some minutes ago at most."""
        user = (await self.current()).get(name)
        until = self._verified.get(self._proof(name, password, user))
        return user if until and self._clock.now() < until else None

    def remembered_until(self, name: str, password: str) -> datetime:
        """Return the end of the time for which a password is `remembered`, as the users are known now."""
        user = (self._users or {}).get(name)
        return self._verified.get(self._proof(name, password, user), _LONG_AGO)

    @property
    def seen(self) -> tuple[int, ...]:
        """What the file was when it was read last; see `is_as`."""
        return self._seen

    def is_as(self, seen: tuple[int, ...] | None) -> bool:
        """Whether the file is still what was ``seen``, and the users are those in it."""
        return self._seen == seen == self._look()

    async def verify(self, name: str, password: str) -> User | None:
        """Return the user who has this password; None, which takes as long, also where there is none.

        What was verified is `remembered`, by a digest under a key of this process. Raises `Unavailable` when
        too many wait for an answer already.
        """
        user = (await self.current()).get(name)
        if self._waiting >= _WAITING:
            raise Unavailable("too many passwords are being verified")
        self._waiting += 1
        try:
            async with self._slots:
                known = user.password if user else ""
                right = await asyncio.to_thread(self._fits, known, password[:LONGEST_PASSWORD])
        finally:
            self._waiting -= 1
        if not right or not user or len(password) > LONGEST_PASSWORD:
            return None
        self._verified[self._proof(name, password, user)] = self._clock.now() + _FOR
        while len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return user

    def _proof(self, name: str, password: str, user: User | None) -> bytes:
        known = user.password if user else ""
        return hmac.digest(self._secret, b"\0".join(map(_bytes, (name, password, known))), sha256)

    def _fits(self, known: str, password: str) -> bool:
        nobodys = of_nobody()  # made for whoever comes first, so that it says nothing of him
        try:
            return _hasher.verify(known or nobodys, password.encode("utf-8", "surrogateescape"))
        except (Argon2Error, InvalidHashError):
            return False

    def add(self, name: str, password: str, groups: tuple[str, ...], record: Record = _nowhere) -> None:
        """Make a user. Raises `UsageError` when there is one of this name; so do the others for none."""
        check_name(name, "user")
        for group in groups:
            check_name(group, "group")
        with self._changing(name, record) as users:
            if name in users:
                raise UsageError(f"there is a user {name} already; for another password: uwsd user passwd")
            users[name] = User(password=password, changed=self._clock.now(), groups=groups)

    def set_password(self, name: str, password: str, record: Record = _nowhere) -> None:
        """Give a user another password; his sessions are over."""
        with self._changing(name, record) as users:
            old = _existing(name, users)
            # By this time sessions tell with which password they were made.
            changed = max(self._clock.now(), old.changed + timedelta(microseconds=1))
            users[name] = msgspec.structs.replace(old, password=password, changed=changed)

    def set_groups(self, name: str, groups: tuple[str, ...], record: Record = _nowhere) -> None:
        """Have a user in these groups, and no others."""
        for group in groups:
            check_name(group, "group")
        with self._changing(name, record) as users:
            users[name] = msgspec.structs.replace(_existing(name, users), groups=groups)

    def remove(self, name: str, record: Record = _nowhere) -> None:
        """Take a user out; his tokens and sessions are over."""
        with self._changing(name, record) as users:
            _existing(name, users)
            del users[name]

    @contextmanager
    def _changing(self, name: str, record: Record) -> Iterator[dict[str, User]]:
        """Give the users to change one of, and put them in place of the file: whole, or not at all."""
        users = dict(self.all())
        if self.problem and not self.is_missing:
            raise UsersUnreadable(self.problem)
        yield users
        record(users.get(name))
        new = self._path.with_name(f"{self._path.name}.new")
        new.unlink(missing_ok=True)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "wb") as writing:
            writing.write(msgspec.json.format(msgspec.json.encode(users)) + b"\n")
            writing.flush()
            os.fsync(file)
        new.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def digest_of(user: User | None) -> str | None:
    """Return what the log has of an entry, None for none."""
    return None if user is None else sha256(msgspec.json.encode(user)).hexdigest()


@cache
def of_nobody() -> str:
    """Return what a password is held against where there is no user: nobody has it."""
    return _hasher.hash(secrets.token_hex())


def hashed(password: str) -> str:
    """Return what the file holds of a password. Raises `UsageError` for one that nobody can have."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD or "\0" in password:
        raise UsageError(
            f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters: shorter ones are guessed"
        )
    try:
        return _hasher.hash(password)
    except UnicodeEncodeError:  # which has the password
        raise UsageError("a password is text in UTF-8") from None


def check_hash(name: str, known: str) -> None:
    """Raise `UsageError` for what is no Argon2id hash of a user's password."""
    try:
        extract_parameters(known)
        known.encode("ascii")
    except (InvalidHashError, UnicodeEncodeError):
        raise UsageError(f"the password of {name} is no Argon2id hash") from None


def check_name(name: str, what: str) -> None:
    """Raise `UsageError` for a name that no user, or no group, can have (RFC 7617: no colon)."""
    if (normalised := made_name(name)) is not None:
        raise UsageError(
            f"{name!a} can be no {what}: in Unicode's normal form (NFC) it is {normalised} "
            f"({normalised!a}): take that"
        )
    if not is_name(name) or ":" in name:
        raise UsageError(
            f"{name!r} can be no {what}: expected 1 to {LONGEST_NAME} printable characters, "
            "no ':', no '@' first"
        )
    if what == "user" and name == SERVER_NAME:
        raise UsageError(f"{name} can be no {what}: so the server itself is called in the log")


def _existing(name: str, users: dict[str, User]) -> User:
    try:
        return users[name]
    except KeyError:
        raise UsageError(f"there is no user {name}{did_you_mean(name, users)}") from None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def problem_of(path: Path) -> str | None:
    """Return why what is at ``path`` cannot be used as users file: also where there is none."""
    users = Users(path, SystemClock())
    with suppress(UsersUnreadable):
        users.all()
    return users.problem
