"""The wire contract of Alpine: the body of a request, and the meaning of each answer. Pure.

    201 success                     Stored
    201 duplicate, 409              Duplicate: also success
    400, 413, 422                   Rejected: it will never accept this signal as it is
    500                             Unavailable, FAILING: an outage, or a poison message
    429, 408, other 5xx, no answer  Unavailable, DOWN: an outage of server or network
    401, 403, 404, 3xx, other 4xx   Unavailable, REFUSED: the key or the address is wrong

Invariant: every status has exactly one meaning; the stored part of an answer is short, printable
and without the key that was sent.
"""

import html
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import orjson

BODY_CHARS_MAX = 500  # of an answer, stored with a parked signal
REDACTED_BYTES_MAX = 1 << 16  # the key is removed from so much, before the text is shortened
RETRY_AFTER_S_MAX = 60.0  # more is a mistake of the server's operator
REASONING_CHARS_MIN = 20  # Alpine answers 500 to a shorter one, and fills in a missing one

# Kinds of Unavailable.
REFUSED = "refused"
FAILING = "failing"
DOWN = "down"

_REJECTED_STATUSES = frozenset({400, 413, 422})  # 413: this signal is too long for it
_DOWN_STATUSES = frozenset({408, 425, 429})

_REQUIRED = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
    *("confidence", "strategy", "asset_type", "data_source", "timestamp", "sha256"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Alpine stored it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Alpine has it already: also success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Alpine will never accept this signal as it is."""

    status: int
    body: str  # shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """The signal did not pass now; `kind` is one of REFUSED, FAILING, DOWN."""

    kind: str
    status: int | None  # None: no answer
    detail: str
    retry_after_s: float = 0.0  # the pause that the server asked for


SendResult = Stored | Duplicate | Rejected | Unavailable


def classify_response(
    status: int, data: bytes, retry_after: str | None, *, now_s: float, secret: bytes = b""
) -> SendResult:
    """Classifies the answer to a signal.

    `now_s`: seconds since 1970, for a Retry-After date. `secret` is removed from the text.
    """
    if 200 <= status < 300:
        return _classify_success(status, data, secret)
    if status == 409:
        return Duplicate()
    if status in _REJECTED_STATUSES:
        return Rejected(status=status, body=printable_body(data, secret))
    if status == 500:
        return Unavailable(
            kind=FAILING, status=status, detail=describe_response(status, data, secret)
        )
    is_down = status > 500 or status in _DOWN_STATUSES
    return Unavailable(
        kind=DOWN if is_down else REFUSED,
        status=status,
        detail=describe_response(status, data, secret),
        retry_after_s=retry_after_seconds(retry_after, now_s=now_s) if is_down else 0.0,
    )


def _classify_success(status: int, data: bytes, secret: bytes) -> SendResult:
    reply_status = None
    with suppress(orjson.JSONDecodeError, AttributeError):
        reply_status = orjson.loads(data).get("status")
    if status == 201 and reply_status == "success":
        return Stored()
    if reply_status == "duplicate":
        return Duplicate()
    # Another service answers at this address, such as a proxy: a later try may reach Alpine.
    detail = f"the answer is not Alpine's: {describe_response(status, data, secret)}"
    return Unavailable(kind=DOWN, status=status, detail=detail)


def retry_after_seconds(text: str | None, *, now_s: float) -> float:
    """Parses Retry-After (seconds, or a date) into 0 to RETRY_AFTER_S_MAX; 0 if it is invalid."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, TypeError, OverflowError):
            return 0.0
    if seconds != seconds:  # "nan" is a float, too
        return 0.0
    return min(max(0.0, seconds), RETRY_AFTER_S_MAX)


def body_of(payload: Mapping[str, object]) -> bytes:
    """The request body for a signal's payload. Raises KeyError if a required field is missing."""
    fields = {key: payload[key] for key in _REQUIRED}
    fields["verification_hash"] = payload["sha256"]
    # An optional field that Alpine would refuse (too short, of another type) is left out, so that
    # the signal itself passes.
    reasoning = payload.get("reasoning")
    if isinstance(reasoning, str) and len(reasoning) >= REASONING_CHARS_MIN:
        fields["reasoning"] = reasoning
    regime = payload.get("regime")
    if isinstance(regime, str):
        fields["regime"] = regime
    agreement = payload.get("consensus_agreement")
    if isinstance(agreement, int | float) and not isinstance(agreement, bool):
        fields["consensus_agreement"] = agreement
    sources = payload.get("sources_count")
    if isinstance(sources, int) and not isinstance(sources, bool):
        fields["sources_count"] = sources
    return orjson.dumps(fields)


def describe_response(status: int, data: bytes, secret: bytes = b"") -> str:
    """Status and body of an answer, for an error text."""
    text = printable_body(data, secret)
    return f"{status} {text}" if text else str(status)


def printable_body(data: bytes, secret: bytes = b"") -> str:
    """The beginning of a body, printable, and without the secret."""
    text = _redact(secret, data[:REDACTED_BYTES_MAX].decode("utf-8", "replace"))
    return "".join(char if char.isprintable() else " " for char in text[:BODY_CHARS_MAX])


def _redact(secret: bytes, text: str) -> str:
    """Removes the secret, in each form in which a server may repeat the headers it received.

    Those are plain text, JSON, HTML, a URL, or a Python repr; headers are often read as latin-1.
    """
    if not secret:
        return text
    read = {secret.decode("utf-8", "replace"), secret.decode("latin-1")}
    escaped = {
        json.dumps(key, ensure_ascii=to_ascii)[1:-1] for key in read for to_ascii in (False, True)
    }
    in_html = {html.escape(key, quote=quotes) for key in read for quotes in (False, True)}
    in_html |= {key.replace("&#x27;", "&#39;").replace("&quot;", "&#34;") for key in in_html}
    as_bytes = {quote(secret, safe=""), quote(secret), repr(secret)[2:-1]}
    forms = read | escaped | in_html | as_bytes
    longest_first = sorted(forms, key=len, reverse=True)  # one form may contain another
    return re.sub("|".join(map(re.escape, longest_first)), "***", text, flags=re.IGNORECASE)
