"""Which client a request comes from, also where a proxy that is believed has passed it on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Networks = Sequence[IPv4Network | IPv6Network]


def is_among(address: str | None, networks: Networks) -> bool:
    """Whether an address is in one of these networks."""
    try:
        here = _address(address or "")
    except ValueError:
        return False
    return any(here in network for network in networks)


def address_behind(address: str | None, proxies: Networks, told: Iterable[str]) -> str | None:
    """Return for which address the one that has connected asks: for its own, unless it is a proxy's.

    Each proxy adds to the list that was ``told`` (X-Forwarded-For) where it has a request from, so that it is
    believed from its end on, as long as those who say so are ``proxies``.
    """
    here, left = address, [entry.strip() for line in told for entry in line.split(",")]
    while left and is_among(here, proxies):
        try:
            here = str(_address(left.pop()))
        except ValueError:
            break
    return here


def network_of(address: str | None) -> str:
    """Return what counts as one client: of IPv6 it has a whole network of addresses (RFC 6177)."""
    if address is None or ":" not in address:
        return address or ""
    return str(ip_network((address.partition("%")[0], 64), strict=False))


def _address(text: str) -> IPv4Address | IPv6Address:
    """Raises `ValueError`."""
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
