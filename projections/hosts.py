"""Which hosts are this machine.

Invariant: a host that is not surely this machine is another one.
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
