"""Which addresses are anybody's to ask: those of the public Internet.

The list is that of the IANA special-purpose address registries (RFC 6890) and of multicast, written out, so
that it does not change with the version of Python.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host, this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by the customers of a provider (CGNAT)
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, and what clouds tell their machines
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_UNICAST = IPv6Network("2000::/3")
"""All of IPv6 that is given out; loopback, link-local, local, multicast and the rest lie outside."""
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which leads to any IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
_IPV4_WITHIN = tuple(map(IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))
"""Where the last four bytes are the IPv4 address that is meant: mapped addresses, and NAT64."""


def is_public(text: str) -> bool:
    """Whether this is the numeric address of one host of the public Internet.

    Of an IPv6 address that stands for an IPv4 one, that one counts; which other prefixes a network uses for
    NAT64 cannot be known here.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if not any(address in network for network in _IPV4_WITHIN):
            return address in _UNICAST and not any(address in network for network in _NOT_PUBLIC_6)
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    return not any(address in network for network in _NOT_PUBLIC_4)
