"""Opens a stream. The core works without the client of NATS, which is an extra.

Invariant: a missing package is an error that names the extra.
"""

from eventlog.errors import Unsupported
from eventlog.replica.engine import StreamEngine
from eventlog.replica.stream_rules import StreamSettings


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


def require_client() -> None:
    """Raises Unsupported where a package of the extra `nats` is missing."""
    try:
        import eventlog.replica.nats_stream  # noqa: F401
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"replication needs a package that is not installed: {error.name}",
            do="run `pip install 'signal-eventlog[nats]'`",
        ) from None
