"""Notifies systemd of a daemon's state (Type=notify): ready, a status line, and the watchdog.

The protocol is a datagram of `KEY=value` lines to the socket that NOTIFY_SOCKET names; see
sd_notify(3). Without that variable, nothing is sent.

Invariant: only progress resets the watchdog, so a projector that hangs is restarted.
"""

import socket
from contextlib import suppress


class Notifier:
    """Sends to one socket; does nothing without one, or when no process listens."""

    def __init__(self, address: str | None) -> None:
        if address is not None and address.startswith("@"):
            address = f"\0{address[1:]}"  # in the abstract namespace
        self._address = address or None

    def send(self, **fields: str) -> None:
        """For example `send(READY="1", STATUS="at seq 42")`."""
        if self._address is None:
            return
        text = "\n".join(f"{key}={value}" for key, value in fields.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)  # a slow reader must not block the daemon
            channel.sendto(text.encode(), self._address)
