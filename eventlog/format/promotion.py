"""The entry `promoted`: from its seq on another home is the primary of a stream.

    {...,"event":"promoted","epoch":2,"host":"b","id":"<32 hex digits>","chain":"..."}

`id` is random. It differs for two homes of one host, so that each knows whether the entry in the
stream is its own.

Invariant: only `eventlog promote` makes such an entry; validation refuses the event.
"""

from typing import NamedTuple

import orjson

from eventlog.format.line import BadLine, decode, encode
from eventlog.format.scan import Tip

PROMOTED = "promoted"
_EVENT_KEY = b',"event":"promoted",'


class Promotion(NamedTuple):
    """One promotion."""

    epoch: int  # 2 for the first one of a stream
    host: str  # the name by which people know the new primary


def encode_promotion(promotion: Promotion, promotion_id: str, recorded_at: str, tip: Tip) -> bytes:
    """The line of a promotion that follows `tip`, as a batch of its own."""
    fields = {"epoch": promotion.epoch, "host": promotion.host, "id": promotion_id}
    seq = tip.seq + 1
    body = orjson.dumps(fields)[1:-1]
    return encode(PROMOTED, body, seq, seq, max(recorded_at, tip.recorded_at), tip.chain)[0]


def promotion_of(line: bytes) -> Promotion | None:
    """The promotion that a line records; None for any other line."""
    if _EVENT_KEY not in line:
        return None
    try:
        entry = decode(line)
    except BadLine:
        return None
    epoch, host = entry.payload.get("epoch"), entry.payload.get("host")
    if entry.event != PROMOTED or type(epoch) is not int or not isinstance(host, str):
        return None
    return Promotion(epoch, host)
