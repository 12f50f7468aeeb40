"""The address that a server listens on, and the host names under which clients may address it.

A browser can be made to send requests to any address by a DNS name that an attacker controls. Such
a request has that name in its Host header, so only known names are answered.

Invariant: a DNS name that the operator did not give is never allowed, except `localhost`.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

PORT_MAX = 65_535
_DNS_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")  # a browser sends no other
LOCALHOST = "localhost"  # browsers resolve it to this machine without DNS


class Address(NamedTuple):
    """An address to listen on; port 0 lets the system choose a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parses `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    is_valid = host.isprintable() and not set(host) & set("[]/ ") and (":" in host) == is_bracketed
    if not (colon and host and is_valid and port.isascii() and port.isdecimal()):
        raise ValueError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:9464 or [::1]:9464")
    if int(port) > PORT_MAX:
        raise ValueError(f"port {port} is greater than {PORT_MAX}")
    return Address(host, int(port))


def host_names(address: Address, given: Iterable[str] = ()) -> frozenset[str]:
    """The names to allow: those that are given, the address's own, this machine's, localhost."""
    names = (*given, address.host, socket.gethostname(), LOCALHOST)
    return frozenset(normalize_name(name) for name in names)


def is_allowed_host(header: str, names: frozenset[str]) -> bool:
    """Whether a Host header, such as `localhost:9464`, has one of the names or an IP address.

    An IP address is always allowed: no DNS name leads there.
    """
    name = parse_host(header)
    return name is not None and (_is_ip_address(name) or name in names)


def parse_host(header: str) -> str | None:
    """The name or address in a Host header, without the port; None where there is none."""
    if header.startswith("["):
        name, bracket, port = header[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return None
        port = port[1:]
    else:
        name, _, port = header.partition(":")
    if port and not (port.isascii() and port.isdecimal()):
        return None
    return normalize_name(name)


def is_host_name(text: str) -> bool:
    """Whether text is a name that a Host header can have, without a port: DNS or an address."""
    return _is_ip_address(text) or _DNS_NAME.fullmatch(text) is not None


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def normalize_name(name: str) -> str:
    """A host name in the form in which names are compared."""
    return name.rstrip(".").lower()
