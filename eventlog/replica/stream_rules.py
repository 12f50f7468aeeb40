"""The names of a stream, its configuration, and the rules that it must meet.

A stream `EVENTLOG_<name>` holds one message per line, with the subject `eventlog.<name>.line`. It
must never forget a message, and an acknowledgement must mean that a quorum has synced the message.
A stream or a server that breaks a rule gets nothing.

Invariant: `stream_config` meets every rule of `broken_rules`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from eventlog.errors import EventLogError

NAME_PATTERN = re.compile(r"[a-z0-9_-]{1,32}")
REPLICAS_MIN = 3  # the fewest servers of which one may be lost
REPLICAS_MAX = 5  # of JetStream
MESSAGE_BYTES_MAX = 66 << 10  # a line of 65,535 bytes and its headers
SINGLE_KEY = "eventlog.single"  # metadata of a stream that was created with --allow-single
SINGLE_VALUE = "allowed"

# A header of a message: the stream's last sequence that it follows. Else the server refuses it.
EXPECTED_LAST_SEQUENCE = "Nats-Expected-Last-Sequence"
SEGMENT_HEADER = "Eventlog-Segment"  # the first seq of the segment that holds the line


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Where a stream is, and how to log in. Paths, never keys."""

    name: str
    urls: tuple[str, ...]
    nkey_file: str = ""
    creds_file: str = ""
    ca_file: str = ""
    monitor_urls: tuple[str, ...] = ()  # of the servers' monitoring endpoints; none: unchecked

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise EventLogError(
                f"EVENTLOG_STREAM is no name of a stream (got {self.name[:80]!r})",
                do="use 1 to 32 of a-z, 0-9, _ and -",
            )
        if not self.urls:
            raise EventLogError(
                "EVENTLOG_NATS_URL is not set",
                do="set it to the address of the server, such as nats://127.0.0.1:4222; separate "
                "several by commas",
            )
        if self.nkey_file and self.creds_file:
            raise EventLogError(
                "EVENTLOG_NATS_NKEY_FILE and EVENTLOG_NATS_CREDS_FILE are both set",
                do="unset one of them",
            )

    @property
    def stream(self) -> str:
        """The name of the stream on the server."""
        return f"EVENTLOG_{self.name}"

    @property
    def subject(self) -> str:
        """The subject of its messages."""
        return f"eventlog.{self.name}.line"

    @property
    def where(self) -> str:
        """The stream and its servers, for messages. A user or password in a URL is left out."""
        hosts = (urlsplit(url).netloc.rpartition("@")[2] or url for url in self.urls)
        return f"{self.stream} at {', '.join(hosts)}"


def stream_config(settings: StreamSettings, *, replicas: int) -> dict[str, object]:
    """The configuration with which a stream is created. Below REPLICAS_MIN it is marked single."""
    return {
        "name": settings.stream,
        "subjects": [settings.subject],
        "num_replicas": replicas,
        "max_msg_size": MESSAGE_BYTES_MAX,
        "max_consumers": -1,
        "duplicate_window": 120_000_000_000,  # unused: no message has an id
        "allow_direct": False,  # answers from a server that may lag
        "metadata": {SINGLE_KEY: SINGLE_VALUE} if replicas < REPLICAS_MIN else {},
        **{key: wanted for key, wanted, _ in _RULES},
    }


_RULES: tuple[tuple[str, object, str], ...] = (
    ("retention", "limits", "other kinds of retention delete messages that were read"),
    ("storage", "file", "a stream in memory is lost when the servers restart"),
    ("max_msgs", -1, "a limit deletes lines or refuses new ones"),
    ("max_bytes", -1, "a limit deletes lines or refuses new ones"),
    ("max_age", 0, "a limit of age deletes lines"),
    ("max_msgs_per_subject", -1, "a limit deletes lines"),
    ("discard", "new", "a full stream must refuse lines, not delete old ones"),
    ("deny_delete", True, "a client could delete one line"),
    ("deny_purge", True, "a client could delete all lines"),
    ("allow_rollup_hdrs", False, "one message could delete all lines before it"),
    ("allow_msg_ttl", False, "a line could expire"),
    ("compression", "none", "servers lost acknowledged lines of compressed streams when killed"),
    ("allow_atomic", True, "lines after a refused one could be stored"),
)
_ABSENT: dict[str, object] = {"max_age": 0, "compression": "none"}  # else False where left out
_FED_BY = ("mirror", "sources", "subject_transform")


def broken_rules(config: Mapping[str, object], settings: StreamSettings) -> list[str]:
    """What is wrong with the configuration that the server reports, one sentence part each."""
    return list(_broken_rules(config, settings))


def _broken_rules(config: Mapping[str, object], settings: StreamSettings) -> Iterator[str]:
    for key, wanted, reason in _RULES:
        found = config.get(key, _ABSENT.get(key, False))
        if found != wanted:
            yield f"{key} is {_text(found)} and must be {_text(wanted)}: {reason}"
    if config.get("subjects") != [settings.subject]:
        yield f"its subjects must be {settings.subject} alone: message N would not be line N"
    for key in _FED_BY:
        if config.get(key):
            yield f"{key} is set: message N would not be line N"
    size = config.get("max_msg_size", -1)
    if isinstance(size, int) and 0 <= size < MESSAGE_BYTES_MAX:
        yield f"max_msg_size is {size} and must be {MESSAGE_BYTES_MAX}: a long line would not fit"
    replicas = config.get("num_replicas", 1)
    if isinstance(replicas, int) and replicas < REPLICAS_MIN and not is_single(config):
        yield (
            f"num_replicas is {replicas} and must be at least {REPLICAS_MIN}: the loss of one "
            "server could lose acknowledged lines"
        )


def replicas_of(config: Mapping[str, object]) -> int:
    """How many servers are to hold all of the stream.

    Where it was created with --allow-single, that stays 1 also after an operator has raised
    `num_replicas`: the leader calls a new server current as soon as that follows the newest
    messages, long before it has the older ones, and no client can see when it has them.
    """
    replicas = config.get("num_replicas", 1)
    is_raised = is_single(config) and isinstance(replicas, int) and replicas >= REPLICAS_MIN
    return replicas if isinstance(replicas, int) and not is_raised else 1


def is_single(config: Mapping[str, object]) -> bool:
    """Whether the stream was created with --allow-single: its lines are not replicated."""
    metadata = config.get("metadata")
    return isinstance(metadata, Mapping) and metadata.get(SINGLE_KEY) == SINGLE_VALUE


def sync_rule(monitored: Mapping[str, object]) -> str | None:
    """What is wrong with a server, by the object of its monitoring endpoint `/varz`.

    The default of nats-server is to sync every two minutes: a power loss of the servers would lose
    lines that a quorum had acknowledged. A client cannot see it.
    """
    jetstream = monitored.get("jetstream")
    config = jetstream.get("config") if isinstance(jetstream, Mapping) else None
    if isinstance(config, Mapping) and config.get("sync_always") is True:
        return None
    name = monitored.get("server_name")
    return (
        f"sync_interval of server {name} must be always: a power loss could lose acknowledged lines"
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
