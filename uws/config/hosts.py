"""Hosts, as a configuration names them."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv6Address, ip_address

_HOST = re.compile(r"([\w-][\w.-]*|\[([0-9A-Fa-f:.]+)\])(?::(\d{1,5}))?", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether a host, as it stands in a URL, is this machine itself."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """Return the URL of a server that listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_host(entry: str) -> bool:
    """Whether this is a host as it stands in a URL, with a port or without."""
    found = _HOST.fullmatch(entry)
    with suppress(ValueError):
        if found and found[2]:
            IPv6Address(found[2])
        return found is not None and int(found[3] or 0) <= 65535
    return False
