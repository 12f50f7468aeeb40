"""Requests to append, and their replies, as messages.

A request is JSON Lines, one item per line, as `eventlog append` reads them; a header says what a
refused item does to the others. A reply is one JSON object:

    {"epoch":1,"results":[RECEIPT or {"error":ERROR}, ...]}     one per item; see `policy`
    {"epoch":1,"error":ERROR}                                   for all items

RECEIPT has the fields of a receipt. ERROR has `type`, `what`, `where`, `do` and, where the error
has them, `field`, `signal_id` and other attributes. `epoch` is that of the home that replies.

Pure.

Invariant: a decoded receipt or error equals the one that was encoded.
"""

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from eventlog import errors
from eventlog.append.batch import ALL, EACH, PREFIX, Receipt
from eventlog.errors import EventLogError, printable_value
from eventlog.schema.facts import SIGNAL
from eventlog.schema.validation import ValidatedItem

POLICY_HEADER = "Eventlog-Policy"
POLICIES = (ALL, PREFIX, EACH)  # of `append.batch`; without the header: ALL
QUEUE = "eventlog"  # of the servers of one stream: each request comes to one of them
# One request at a time is bounded: a reply has about 350 bytes per item, and a server of NATS takes
# messages of 1 MiB unless it is configured otherwise.
REQUEST_ITEMS_MAX = 1000
REQUEST_BYTES_MAX = 512 << 10
_ITEM_BYTES_MORE = 100  # of an item in a request, beyond its body: the event, and punctuation

Result = Receipt | EventLogError


class BadReply(Exception):
    """A reply that cannot be understood."""


class Reply(NamedTuple):
    """What a server answers."""

    epoch: int
    results: tuple[Result, ...]  # with ALL one per item; with PREFIX up to the first error
    error: EventLogError | None = None  # for all items; then there are no results


def append_subject(stream: str) -> str:
    """The subject on which the server of a stream answers."""
    return f"eventlog.{stream}.append"


def item_bytes(item: ValidatedItem) -> int:
    """The size of an item in a request, at most."""
    return len(item.body) + _ITEM_BYTES_MORE


def encode_item(item: ValidatedItem) -> bytes:
    """The line of a request. The server, which validates it again, makes the same body of it.

    What the caller left out and a retry may bring in another way is left out here as well.
    """
    if item.event != SIGNAL:
        event = orjson.dumps(item.event)
        return b'{"event":%b%b}' % (event, b"," + item.body if item.body else b"")
    fields = orjson.loads(b"{%b}" % item.body)
    del fields["sha256"]  # the server computes it
    if not item.timestamp_given:
        del fields["timestamp"]
    return orjson.dumps(fields)


def encode_reply(reply: Reply) -> bytes:
    """A reply as a message."""
    if reply.error is not None:
        return orjson.dumps({"epoch": reply.epoch, "error": _error_fields(reply.error)})
    results = [
        result._asdict() if isinstance(result, Receipt) else {"error": _error_fields(result)}
        for result in reply.results
    ]
    return orjson.dumps({"epoch": reply.epoch, "results": results})


def decode_reply(data: bytes) -> Reply:
    """The reply in a message. Raises BadReply."""
    try:
        found = orjson.loads(data)
        epoch = found["epoch"]
        if type(epoch) is not int:
            raise TypeError("epoch is no number")
        if "error" in found:
            return Reply(epoch, (), _error(found["error"]))
        return Reply(epoch, tuple(_result(each) for each in found["results"]))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        what = f"the reply cannot be understood: {error} (got {printable_value(repr(data[:80]))})"
        raise BadReply(what) from error


def _result(found: Mapping[str, object]) -> Result:
    if "error" in found:
        return _error(found["error"])
    receipt = Receipt(**found)  # type: ignore[arg-type]  # checked below
    if type(receipt.seq) is not int or type(receipt.duplicate) is not bool:
        raise TypeError("a receipt has another type")
    return receipt._replace(warnings=tuple(receipt.warnings))


def _error_fields(error: EventLogError) -> dict[str, object]:
    """What an error says. Attributes of its class are text or numbers."""
    known = {key: value for key, value in vars(error).items() if isinstance(value, str | int)}
    return {"type": type(error).__name__, **known}


def _error(found: object) -> EventLogError:
    """The error of a reply, as an instance of its class; of EventLogError where it is not known."""
    if not isinstance(found, dict):
        raise TypeError("error is no object")
    name, attributes = found["type"], {k: v for k, v in found.items() if k != "type"}
    if not all(isinstance(value, str | int) for value in attributes.values()):
        raise TypeError("an error has another type")
    kind = getattr(errors, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, EventLogError)):
        kind = EventLogError
    # As it is unpickled: the constructors of some classes put the text together.
    error = kind.__new__(kind, *(str(attributes[key]) for key in ("what", "where", "do")))
    vars(error).update(attributes)
    return error
