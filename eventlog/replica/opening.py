"""Opens a stream. The core works without the client of NATS, which is an extra.

Invariant: a missing package is an error that names the extra.
"""

from typing import TYPE_CHECKING

from eventlog.errors import Unsupported
from eventlog.replica.engine import StreamEngine
from eventlog.replica.stream_rules import StreamSettings

if TYPE_CHECKING:
    from eventlog.replica.nats_connection import NatsConnection

APPEND_INBOX = "_INBOX.append"  # where replies to appends come: an account needs no other


async def open_stream(settings: StreamSettings) -> StreamEngine:
    """Connects to the stream of these settings.

    Raises StreamUnavailable, StreamUnfit where a server does not sync each message, and Unsupported
    without the extra `nats`.
    """
    require_client()
    from eventlog.replica.nats_stream import NatsStream

    return await NatsStream.connect(settings)


async def create_stream(settings: StreamSettings, *, replicas: int) -> bool:
    """Creates the stream by the rules; False where one that meets them is there already.

    Raises what `open_stream` raises, and StreamUnfit where there is another one of that name.
    """
    require_client()
    from eventlog.replica.nats_stream import NatsStream

    stream = await NatsStream.connect(settings)
    try:
        return await stream.create(replicas=replicas)
    finally:
        await stream.close()


async def open_append_connection(settings: StreamSettings) -> "NatsConnection":
    """A connection on which appends are requested, or answered.

    Raises StreamUnavailable, StreamRefused, and Unsupported without the extra `nats`.
    """
    require_client()
    from eventlog.replica.nats_connection import NatsConnection

    return await NatsConnection.connect(settings, APPEND_INBOX)


def require_client() -> None:
    """Raises Unsupported where a package of the extra `nats` is missing."""
    try:
        import eventlog.replica.nats_connection  # noqa: F401
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"replication needs a package that is not installed: {error.name}",
            do="run `pip install 'signal-eventlog[nats]'`",
        ) from None
