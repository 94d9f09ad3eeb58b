"""The URL of a database that has a log: whether it is right, before anybody connects."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit, urlunsplit

_EXAMPLE = "postgresql://uwsd@db.example/uwsd"
_URL = re.compile(r"postgres(?:ql)?://([^/?#\s]*)(/[^?#@\s]*)?(?:\?([^#@\s]*))?")
_USER = re.compile(r"[^@\[\]]*")
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|[^\[\]:]*)(?::(.*))?")
_ENCODE = (
    "the password, or another part, has a character that means something in a URL: "
    "percent-encode it (/ is %2F, # is %23, ? is %3F, @ is %40, [ is %5B, ] is %5D, % is %25)"
)
_TLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "gsslib": ("gssapi", "sspi"),
    "ssl_max_protocol_version": _TLS,
    "ssl_min_protocol_version": _TLS,
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_FILES = ("passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert")
_SECRETS = ("password", "sslpassword")
_OTHERS = ("database", "dbname", "host", "krbsrvname", "port", "service", "user")
_KNOWN = sorted((*_CHOICES, *_FILES, *_SECRETS, *_OTHERS))
_VARIABLES = {
    "PGGSSLIB": "gsslib",
    "PGHOST": "host",
    "PGPORT": "port",
    "PGSSLCERT": "sslcert",
    "PGSSLCRL": "sslcrl",
    "PGSSLKEY": "sslkey",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMODE": "sslmode",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGSSLROOTCERT": "sslrootcert",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}
"""What asyncpg looks for in the environment, and the options that each stands for."""
_MAY_BE_EMPTY = {"host", "port", "ssl_max_protocol_version", "ssl_min_protocol_version", *_FILES}


def named(url: str) -> str:
    """Return the address of a database, whose URL is right, without the password."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit((parts.scheme, f"{user}{address}", parts.path, "", ""))


def mistakes_in_url(url: str) -> Iterator[str]:
    """Say what is wrong with the URL of a database, with the files that it names, or with what it needs.

    What stands in the environment for what the URL leaves open is looked at, too.

    No part of a password is in what is said, wherever in the URL that has got to.
    """
    scheme, separator, _ = url.partition("://")
    if scheme not in ("postgres", "postgresql") or not separator:
        told = f", got {scheme}{separator}…" if separator and "@" not in scheme else ""
        yield f"expected the URL of a database such as {_EXAMPLE}{told}"
        return
    found = _URL.fullmatch(url)
    user, at, hosts = found[1].rpartition("@") if found else ("", "", "")
    if not found or not _USER.fullmatch(user):
        yield _ENCODE
        return
    # Without an @, what is behind a : or ? may be the password of who has forgotten the host.
    is_certain = bool(at) or ":" not in hosts
    in_hosts = [*_mistakes_in_hosts(hosts, is_told=is_certain)]
    yield from in_hosts or ([] if _is_url(url) else [_ENCODE])
    options = [part.partition("=") for part in found[3].split("&")] if found[3] else []
    is_told = is_certain and not any(key in _SECRETS for key, _, _ in options)
    for key, _, value in options:
        yield from _mistakes_in_option(unquote_plus(key), unquote_plus(value), is_told=is_told)
    given = {unquote_plus(key) for key, _, _ in options} | ({"host"} if hosts else set())
    yield from _mistakes_in_environment(given)
    if not (":" in user or os.environ.get("PGPASSWORD") or any(key == "password" for key, _, _ in options)):
        passfile = next((unquote_plus(value) for key, _, value in options if key == "passfile"), None)
        yield from _mistakes_in_passfile(passfile)
    if find_spec("asyncpg") is None:
        yield "a log in PostgreSQL needs asyncpg: install uwsd[postgres]"


def _is_url(text: str) -> bool:
    try:
        urlsplit(text)
    except ValueError:  # of letters that some normal form makes something else of
        return False
    return True


def _mistakes_in_hosts(hosts: str, *, is_told: bool) -> Iterator[str]:
    for host in hosts.split(","):
        got = f", got {host!r}" if is_told else ""
        if not (found := _HOST.fullmatch(host)) or (found[1] is not None and not _is_ipv6(found[1])):
            yield f"expected a host as in {_EXAMPLE}, or an IPv6 address in brackets, such as [::1]{got}"
        elif found[2] is not None and not _is_port(found[2]):
            yield f"expected a port between 1 and 65535 behind the host{got}; or: {_ENCODE}"


def _mistakes_in_option(key: str, value: str, *, is_told: bool) -> Iterator[str]:
    got = f", got {value!r}" if is_told else ""
    if key not in _KNOWN:
        what = f"there is no option {key!r}" if is_told else "there is an option that is none"
        yield f"{what} behind the ?; known are {', '.join(_KNOWN)}"
    elif key in _CHOICES and value not in _CHOICES[key]:
        yield f"{key}: expected one of {', '.join(_CHOICES[key])}{got}"
    elif key == "host":
        yield from (f"host: {mistake}" for mistake in _mistakes_in_hosts(value, is_told=is_told))
    elif key == "port" and not all(map(_is_port, value.split(","))):
        yield f"port: expected a number between 1 and 65535{got}"
    elif key in _FILES:
        try:
            Path(value).open("rb").close()
            if key == "sslrootcert":
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
        except ssl.SSLError:
            yield f"{key}: {value if is_told else 'the file'}: there is no certificate in it"
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "this is no name of a file"
            yield f"{key}: {value if is_told else 'the file'}: {why}"


def _mistakes_in_environment(given: Collection[str]) -> Iterator[str]:
    """Say what is wrong with variables for options that are not ``given``; a port is read all the same."""
    for variable, option in _VARIABLES.items():
        value = os.environ.get(variable)
        if value is None or (option in given and option != "port") or (not value and option in _MAY_BE_EMPTY):
            continue
        for mistake in _mistakes_in_option(option, value, is_told=True):
            yield f"{variable} in the environment: {mistake.removeprefix(f'{option}: ')}"


def _mistakes_in_passfile(given: str | None) -> Iterator[str]:
    """Say when a file with passwords is one that is not read, as others may read it."""
    try:
        path = Path(given or os.environ.get("PGPASSFILE") or "~/.pgpass").expanduser()
        mode = path.stat().st_mode
    except (OSError, ValueError, RuntimeError):  # there is none, or nobody has a home
        return
    if mode & 0o077:
        yield f"passfile: {path} is open to others (mode {mode & 0o777:04o}), and is not used so: chmod 600"


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535
