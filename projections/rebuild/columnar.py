"""Converts the text of many signal lines to rows, column by column. Pure.

Nearly every entry of a log is a signal in the form that our writer gives it. Its column values are
then already the JSON text that the digest needs, and the checks of signals/payloads.py can be made
on whole columns. Other lines are left to `prepare` (signals/fold.py), one entry at a time.

Invariant: a row from here equals, byte for byte, the row that `prepare` gives.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import NamedTuple

import orjson

from eventlog.plumbing import SignalColumns
from projections.signals.payloads import FRACTION_MAX, ID_CHARS_MAX, PERCENT_MAX, SALT, to_json
from projections.signals.transitions import ACTIONS

_LINE = b"[%b,null,null,null,%b,null,%b]\n"  # of the digest
_VALUES = b"%b,%b,%b"  # of schema.INSERT_SIGNAL
_ACTIONS = frozenset(b'"%b"' % action.encode() for action in ACTIONS)
_EMPTY = b'""'
_ZERO = b"0.0"
_TIME = b'"0000-00-00T00:00:00.000000+00:00"'  # with zeros for its digits
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
# Further members of a signal whose text in the line is what `to_json` writes: no escapes, and
# numbers as Python writes them.
_CANONICAL_MEMBERS = re.compile(
    rb'(?:,"[^"\\]*+":(?:"[^"\\]*+"|-?(?:[1-9][0-9]{0,14}|0)(?![0-9.])|true|false|null'
    rb"|(?:[1-9][0-9]{0,6}+|0(?!\.0000))\.[0-9]{1,8}+(?<![0-9]0)))+"
)
_SALT_KEY = b',"%b":' % SALT.encode()
# The salt that our writer adds, behind all other members: 16 bytes in hex, between quotes.
_SALT_START = _SALT_KEY + b'"'
_SALT_TO = -(2 * 16 + 1)
_SALT_FROM = _SALT_TO - len(_SALT_START)


class ColumnarRows(NamedTuple):
    """Rows of `signals`, in order, and the lines that were not converted."""

    lines: Sequence[bytes]  # the digest line of each row
    values: Sequence[bytes]  # the values of each row, as JSON, comma-separated
    extras: Sequence[str | None]  # one for each row
    remaining: Sequence[bytes]  # log lines for `prepare`


NO_ROWS = ColumnarRows((), (), (), ())


def read_rows(signals: SignalColumns) -> ColumnarRows:
    """The rows of these signals, which are verified and have distinct signal_ids."""
    if not signals.line:
        return NO_ROWS
    extras = _extras(signals.members)
    if _TOO_DEEP not in extras and _are_canonical(signals):
        return ColumnarRows(*_encode_rows(signals), extras, ())
    return _convert_each(signals)


def _convert_each(signals: SignalColumns) -> ColumnarRows:
    """`read_rows` signal by signal, where some are not in canonical form."""
    each: list[ColumnarRows] = []
    for fields in zip(*signals, strict=True):
        signal = SignalColumns._make([field] for field in fields)
        extras = _extras(signal.members)
        if _TOO_DEEP in extras or not _are_canonical(signal):
            each.append(ColumnarRows((), (), (), signal.line))
        else:
            each.append(ColumnarRows(*_encode_rows(signal), extras, ()))
    return ColumnarRows._make(
        list(chain.from_iterable(column)) for column in zip(*each, strict=True)
    )


def _encode_rows(signals: SignalColumns) -> tuple[list[bytes], list[bytes]]:
    """The digest lines, and the values in the order of schema.INSERT_SIGNAL."""
    created_at = {
        moment: b'"%b %b"' % (moment[:10], moment[11:19]) for moment in set(signals.recorded_at)
    }
    columns = (
        *(signals.seq, signals.signal_id, signals.symbol, signals.action, signals.entry_price),
        *(signals.target_price, signals.stop_price, signals.confidence, signals.strategy),
        *(signals.asset_type, signals.data_source, signals.timestamp),
    )
    parts = list(
        zip(
            map(b",".join, zip(*columns, strict=True)),
            signals.sha256,
            map(created_at.__getitem__, signals.recorded_at),
            strict=True,
        )
    )
    return list(map(_LINE.__mod__, parts)), list(map(_VALUES.__mod__, parts))


def _are_canonical(signals: SignalColumns) -> bool:
    """Whether all values are in stored form; the checks of `payloads._stored_values`."""
    percents = list(map(float, {*signals.confidence} - {_ZERO}))
    return (
        max(map(len, signals.signal_id)) <= ID_CHARS_MAX + 2
        and not any(_EMPTY in c for c in (signals.signal_id, signals.symbol, signals.strategy))
        and _ACTIONS.issuperset(signals.action)
        and not any(
            _ZERO in c for c in (signals.entry_price, signals.target_price, signals.stop_price)
        )
        and min(percents, default=PERCENT_MAX) > FRACTION_MAX
        and max(percents, default=PERCENT_MAX) <= PERCENT_MAX
        and b"".join(signals.timestamp).translate(_ZEROS) == _TIME * len(signals.timestamp)
        and all(map(_is_valid_second, {timestamp[1:20] for timestamp in signals.timestamp}))
    )


def _is_valid_second(text: bytes) -> bool:
    """Whether this second exists: no 30th of February, no hour 24."""
    try:
        return text[11:13] != b"24" and bool(datetime.fromisoformat(text.decode()))
    except ValueError:
        return False


_TOO_DEEP = ""  # never the text of a JSON object


def _extras(members: Sequence[bytes]) -> list[str | None]:
    """The JSON of each signal's other keys; None without any; _TOO_DEEP where nested too deep."""
    if len(members) == 1:
        return [_extra(members[0])]
    texts = {member: _extra(member) for member in set(members)}
    return list(map(texts.__getitem__, members))


def _extra(members: bytes) -> str | None:
    # The last member is at the top level. Its text has no quote, so these bytes are its key.
    if members[_SALT_FROM:_SALT_TO] == _SALT_START and members[_SALT_TO:-1].isalnum():
        members = members[:_SALT_FROM]
    if not members:
        return None
    text = b"{%b}" % members[1:]
    if _CANONICAL_MEMBERS.fullmatch(members) and _SALT_KEY not in members:
        return text.decode()
    others = orjson.loads(text)
    others.pop(SALT, None)
    if not others:
        return None
    encoded = to_json(others)
    return _TOO_DEEP if encoded is None else encoded
