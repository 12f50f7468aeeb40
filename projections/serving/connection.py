"""One HTTP connection: uvicorn's protocol for h11, with the deadlines that it lacks.

uvicorn limits neither the time in which the head of a request must arrive nor the time for which a
client reads nothing, and its limit of connections turns away every further client. Here each phase
of a connection has a deadline, and at the limit a new connection closes the one that has waited
longest for a request.

Invariant: a connection is in one phase, and a client cannot stay in any but an open stream that it
reads.
"""

import asyncio
from contextlib import suppress
from enum import Enum, auto
from http import HTTPStatus

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from projections.serving.limits import Limits

LINGER_S_MAX = 1.0  # time for a client to read the answer before the connection is closed
# Defaults for every answer: no browser runs it, shows it in a frame, or keeps it.
SAFE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
CONNECTION = "eventlog.connection"  # the key of the connection in the state of an ASGI scope


class Phase(Enum):
    """The state of a connection."""

    IDLE = auto()  # the last answer is complete; uvicorn's timer of keep-alive closes it
    HEAD = auto()  # the head of a request is arriving
    PENDING = auto()  # the application works, the answer has not started
    ANSWERING = auto()  # the answer has started; a stream stays here


WAITING = (Phase.IDLE, Phase.HEAD)


class Connections:
    """The open connections of a server, at most `connections_max`."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self.open: set[Connection] = set()
        self.emptied = asyncio.Event()  # set when the last one ends
        self._waiting: dict[Connection, None] = {}  # those without a request, the oldest first

    def admit(self, connection: "Connection") -> bool:
        """Adds a connection, in place of the oldest that waits. False if all are busy."""
        if len(self.open) >= self._connections_max:
            if not self._waiting:
                return False
            next(iter(self._waiting)).abort()
        self.open.add(connection)
        return True

    def update(self, connection: "Connection") -> None:
        """Notes a new phase."""
        self._waiting.pop(connection, None)
        if connection.phase in WAITING:
            self._waiting[connection] = None

    def remove(self, connection: "Connection") -> None:
        """Forgets a connection that has ended."""
        self.open.discard(connection)
        self._waiting.pop(connection, None)
        if not self.open:
            self.emptied.set()


class Connection(H11Protocol):
    """The protocol of one connection."""

    def __init__(
        self, config: Config, state: ServerState, connections: Connections, limits: Limits
    ) -> None:
        super().__init__(config, state, {CONNECTION: self}, asyncio.get_running_loop())
        self.phase = Phase.HEAD
        self.is_lost = False
        self._connections = connections
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None  # of the phase
        self._stall_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None  # the application, until the answer is whole

    # -- called by the application's wrapper

    def begin(self, task: "asyncio.Task[None] | None") -> None:
        """A head is complete, and `task` answers it."""
        self._task = task
        self._enter(Phase.PENDING)

    def start_answer(self) -> None:
        """The answer starts."""
        self._enter(Phase.ANSWERING)

    def complete(self) -> None:
        """The answer is about to be whole."""
        self._task = None
        # Bytes that have arrived meanwhile are the start of the next head.
        self._enter(Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE)

    def finish(self) -> None:
        """Ends the connection after the answer in progress, or at once if there is none."""
        if self.phase in WAITING and not self.transport.get_write_buffer_size():
            self.abort()
        else:
            self.shutdown()

    def abort(self) -> None:
        """Ends the connection at once, and cancels the application."""
        self._connections.remove(self)
        self.transport.abort()

    # -- called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_LingeringTransport(transport, self._limits.stall_s_max))
        if self._connections.admit(self):
            self._enter(Phase.HEAD)
        else:
            self.transport.write(_status_response(HTTPStatus.SERVICE_UNAVAILABLE))
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # read and discarded, see _LingeringTransport
        if self.phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if self.phase is not Phase.PENDING:
            return None  # asyncio closes the connection
        # `printf ... | nc` ends its side after the request, and still wants the answer.
        self.shutdown()  # no further request
        self._stall_timer = self._abort_after(
            self._limits.answer_s_max + self._limits.stall_s_max
        )  # else a stream would not notice that its client has gone
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self._abort_after(self._limits.stall_s_max)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._connections.remove(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._task is not None:
            self._task.cancel()

    # -- called by uvicorn

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the same text for each cause
        """Answers a head that h11 refuses: by its size or by its form."""
        is_too_large = len(self.conn.trailing_data[0]) > self._limits.head_bytes_max
        status = (
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_large else HTTPStatus.BAD_REQUEST
        )
        self.transport.write(_status_response(status))
        self.transport.close()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if phase is Phase.HEAD:
            self._timer = self._abort_after(self._limits.head_s_max)
        if self in self._connections.open:
            self._connections.update(self)

    def _abort_after(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.abort)


class _LingeringTransport(asyncio.Transport):
    """A transport whose `close` lets the client read the answer.

    Closing a socket with unread input resets it, and the client would lose the answer. So `close`
    ends our side only; input is discarded until the client ends its side, or for LINGER_S_MAX.
    """

    def __init__(self, transport: asyncio.Transport, stall_s_max: float) -> None:
        super().__init__()
        self._transport = transport
        self._stall_s_max = stall_s_max
        self._is_closing = False

    def close(self) -> None:
        if self.is_closing():
            return
        self._is_closing = True
        with suppress(OSError):  # the client has reset the connection: asyncio will notice
            self._transport.write_eof()
        self._transport.resume_reading()
        unsent = self._transport.get_write_buffer_size()
        wait_s = self._stall_s_max if unsent else LINGER_S_MAX
        asyncio.get_running_loop().call_later(wait_s, self._transport.abort)

    def abort(self) -> None:
        self._is_closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.is_closing():
            self._transport.write(data)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        if not self.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


def _status_response(status: HTTPStatus) -> bytes:
    """An answer without an application, after which the connection is closed."""
    body = f"{status.phrase}\n"
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": len(body),
        "Connection": "close",
        **SAFE_HEADERS,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n{body}".encode()
