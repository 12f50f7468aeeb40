"""The limits on time and memory that one client, and all clients together, can cost a server.

Invariant: each limit is positive, so that none can be switched off.
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one server. The defaults fit a few monitors and probes."""

    # One more closes the one that has waited longest for a request. Far below the 1,024 files that
    # a process may have open by default, which the daemon shares.
    connections_max: int = 64
    head_bytes_max: int = 8 * 1024  # a monitor sends about 300
    body_bytes_max: int = 8 * 1024  # the endpoints of the daemon read none
    head_s_max: float = 10.0  # from connecting, or the first byte, to the end of the head
    answer_s_max: float = 10.0  # from the head to the start of the answer; the body is read in it
    stall_s_max: float = 10.0  # for a client that reads nothing of an answer or stream
    keep_alive_s_max: float = 75.0  # above the usual intervals of a scrape, 15 and 60 s

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= 0:
                raise ValueError(f"{each.name} must be greater than 0")
