"""What is said to Alpine, and what its answers mean: the table of the wire contract. Pure.

    201 success                     Stored
    201 duplicate, 409              Duplicate: success too
    400, 413, 422                   Rejected: it will never take this signal as it is
    500                             Unavailable, FAILING: its trouble, or this signal's for ever
    429, 408, other 5xx, no answer  Unavailable, DOWN: its trouble, or the network's
    401, 403, 404, 3xx, other 4xx   Unavailable, REFUSED: the key or the address is wrong

Invariant: every status has exactly one meaning, and what is kept of an answer is short, printable
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

BODY_CHARS_MAX = 500  # of an answer that is kept with a parked signal
REDACTED_BYTES_MAX = 1 << 16  # a secret is taken out of so much, before it is cut to what is shown
RETRY_AFTER_S_MAX = 60.0  # what a server may ask for; more is its operator's mistake
REASONING_CHARS_MIN = 20  # Alpine answers 500 to a shorter one, and writes its own for none

# Whose trouble an answer tells of.
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
    """Alpine has it already: success too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Alpine will never take this signal as it is."""

    status: int
    body: str  # cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """It did not pass now; `kind` is one of REFUSED, FAILING, DOWN."""

    kind: str
    status: int | None  # None: no answer
    detail: str
    retry_after_s: float = 0.0  # what the server asked for


SendResult = Stored | Duplicate | Rejected | Unavailable


def classify_response(
    status: int, data: bytes, retry_after: str | None, *, now_s: float, secret: bytes = b""
) -> SendResult:
    """What the answer to a signal means.

    `now_s`: seconds since 1970, for a Retry-After date. `secret` is not shown, should it be there.
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
    # Somebody else answers at this address, a proxy or a portal: the next try will tell.
    detail = f"the answer is not Alpine's: {describe_response(status, data, secret)}"
    return Unavailable(kind=DOWN, status=status, detail=detail)


def retry_after_seconds(text: str | None, *, now_s: float) -> float:
    """Retry-After, as seconds or as a date, from 0 to RETRY_AFTER_S_MAX; 0 for nonsense."""
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
    """The request for a signal's payload. Raises KeyError for one that is no whole signal."""
    fields = {key: payload[key] for key in _REQUIRED}
    fields["verification_hash"] = payload["sha256"]
    # A key that Alpine does not ask for must not cost the signal: what it could only refuse (too
    # short, of another type) is left out.
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
    """An answer in a few words."""
    text = printable_body(data, secret)
    return f"{status} {text}" if text else str(status)


def printable_body(data: bytes, secret: bytes = b"") -> str:
    """What is kept of a body: its beginning, printable, and without the secret."""
    text = _redact(secret, data[:REDACTED_BYTES_MAX].decode("utf-8", "replace"))
    return "".join(char if char.isprintable() else " " for char in text[:BODY_CHARS_MAX])


def _redact(secret: bytes, text: str) -> str:
    """A server may show the headers that it got: as text, in JSON, HTML, a URL, or as Python does.

    Headers are often read as latin-1.
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
    longest_first = sorted(forms, key=len, reverse=True)  # one may hold another
    return re.sub("|".join(map(re.escape, longest_first)), "***", text, flags=re.IGNORECASE)
