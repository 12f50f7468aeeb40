"""The digest of the signals table: the SHA-256 over its rows.

Invariant: equal tables give equal digests, on every machine.
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from itertools import islice
from json.encoder import encode_basestring_ascii as _quoted
from math import inf
from typing import TypeAlias

# A row of SELECT_SIGNALS, in the order of COLUMNS.
TableRow: TypeAlias = tuple[
    *tuple[int, str, str, str],
    *tuple[float, float, float, float],
    *tuple[str, str, str, str],
    *tuple[str | None, float | None, float | None],  # outcome, exit_price, profit_loss_pct
    *tuple[str, str | None, str],  # sha256, order_id, created_at
]
DIGEST_ROWS = 1_000  # hashed at a time, about 400 KB: hashing then costs almost nothing per row


def digest_line(row: TableRow) -> str:
    """The line of a row in the digest: `json.dumps(row, separators=(",", ":"))` and a newline.

    -0.0 is written as 0.0. The fast path takes two thirds of the time of `json.dumps`, since the
    digest is a large part of a rebuild; unusual rows are left to `json.dumps`. Only Python writes
    floats: orjson's text for them has changed between releases.
    """
    # fmt: off
    (seq, signal_id, symbol, action, entry, target, stop, confidence, strategy,
     asset_type, source, timestamp, outcome, exit_price, pct, sha, order, created_at) = row
    # fmt: on
    try:
        # Not zero, which may be -0.0, and not infinite, which JSON cannot hold. The 1.0 makes text
        # raise TypeError, where an integer would repeat the text.
        if 0.0 < 1.0 * entry * target * stop * confidence < inf:
            return (
                f"[{seq:d},{_quoted(signal_id)},{_quoted(symbol)},{_quoted(action)},{entry!r},"
                f"{target!r},{stop!r},{confidence!r},{_quoted(strategy)},{_quoted(asset_type)},"
                f"{_quoted(source)},{_quoted(timestamp)},"
                f"{'null' if outcome is None else _quoted(outcome)},"
                f"{'null' if exit_price is None else _json_value(exit_price)},"
                f"{'null' if pct is None else _json_value(pct)},{_quoted(sha)},"
                f"{'null' if order is None else _quoted(order)},{_quoted(created_at)}]\n"
            )
    except TypeError:
        pass  # another program wrote a value of another type, which SQLite allows
    return f"[{','.join([_json_value(value) for value in row])}]\n"


def digest(rows: Iterable[TableRow]) -> str:
    """SHA-256, in hex, over the digest lines of the rows of SELECT_SIGNALS."""
    hasher = sha256()
    source = iter(rows)
    while lines := [digest_line(row) for row in islice(source, DIGEST_ROWS)]:
        hasher.update("".join(lines).encode())
    return hasher.hexdigest()


def _json_value(value: float | str | None) -> str:
    if isinstance(value, float) and -inf < value < inf:
        return repr(value + 0.0)  # -0.0 + 0.0 is 0.0
    return json.dumps(value)
