"""Whether a host is this machine.

Invariant: a host counts as this machine only if its name or address proves it.
"""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
