"""Columnar parser: splits many signal lines into columns at once, and verifies them.

A Python loop over lines costs as much as hashing them. So one regular expression splits many
lines, and checks run on whole columns. The canonical form is built from the raw bytes of a line:
if it gives the stored sha256, numbers and texts need no parsing. Lines in any other layout are
returned unparsed.

Invariant: the lines that `read_columns` returns follow the chain, in order, and each signal in the
columns matches its hash; otherwise it returns None and the full rules decide.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple

from eventlog.format.line import CHAIN_BYTES, HEADER_PATTERN, LINE_BYTES_MAX
from eventlog.format.scan import Tip
from eventlog.schema.stored import (
    CANONICAL_FORMAT,
    NUMBER_PATTERN,
    PLAIN_ASCII,
    RECORDED_AT_PATTERN,
    are_extra_members,
)

# Loose where a whole column is checked later, which is cheaper: the check that it holds only plain
# characters also excludes escapes and newlines.
_STRING_PATTERN = rb'"[^"]*+"'
# Each line: a signal in our writer's layout, with a group for each column, or any other line.
_LINES_PATTERN = re.compile(
    rb'((?:\{"v":1,"seq":([0-9]++),"batch":([0-9]++),"recorded_at":"([^"]*+)",'
    rb'"event":"signal","signal_id":(%(text)b),"symbol":(%(text)b),"action":(%(text)b),'
    rb'"entry_price":(%(number)b),"target_price":(%(number)b),"stop_price":(%(number)b),'
    rb'"confidence":(%(number)b),"strategy":(%(text)b),"asset_type":(%(text)b),'
    rb'"data_source":(%(text)b),"timestamp":(%(text)b)(.*+)|.*+)\n)'
    % {b"text": _STRING_PATTERN, b"number": NUMBER_PATTERN}
)
# Offsets, from its end, in the text between the timestamp of a signal and the newline.
_HASH_TO = -(CHAIN_BYTES - 1)
_HASH_FROM = _HASH_TO - 66  # with its quotes
_MEMBERS_TO = _HASH_FROM - len(b',"sha256":')
_NO_GROUPS = (b"",) * (_LINES_PATTERN.groups - 1)  # of a line of any other kind


class SignalColumns(NamedTuple):
    """Signals by column; each value is the JSON text in its line."""

    line: Sequence[bytes]  # whole, newline included
    seq: Sequence[bytes]
    batch: Sequence[bytes]
    recorded_at: Sequence[bytes]  # without quotes
    signal_id: Sequence[bytes]
    symbol: Sequence[bytes]
    action: Sequence[bytes]
    entry_price: Sequence[bytes]
    target_price: Sequence[bytes]
    stop_price: Sequence[bytes]
    confidence: Sequence[bytes]
    strategy: Sequence[bytes]
    asset_type: Sequence[bytes]
    data_source: Sequence[bytes]
    timestamp: Sequence[bytes]
    members: Sequence[bytes]  # the other keys with their values, each after a comma
    sha256: Sequence[bytes]


NO_SIGNALS = SignalColumns(*[()] * len(SignalColumns._fields))


class RecordedAtRun(NamedTuple):
    """Consecutive entries that were recorded at the same time."""

    seq_from: int
    seq_to: int
    recorded_at: str


class ParsedLines(NamedTuple):
    """Lines that follow the given tip."""

    tip: Tip
    recorded_times: Sequence[RecordedAtRun]
    signals: SignalColumns  # those in our writer's layout, verified
    others: Sequence[bytes]  # the other lines, of which only the order and the chain are verified


def read_columns(data: bytes, tip: Tip) -> ParsedLines | None:
    """Parses `data`, at least one whole line, that follows `tip`. None where the full rules must
    decide.
    """
    found = _LINES_PATTERN.findall(data)
    columns = _parse_columns(found, tip)
    if columns is None:
        # Lines with non-ASCII text and the like become `others`; the rest stays columnar.
        laid_out = [row if _has_our_layout(row) else (row[0], *_NO_GROUPS) for row in found]
        if laid_out != found:
            columns = _parse_columns(laid_out, tip)
    return columns


def _parse_columns(found: Sequence[tuple[bytes, ...]], tip: Tip) -> ParsedLines | None:
    columns = list(zip(*found, strict=True))
    lines, seqs, batches, recorded_times = columns[:4]
    others: list[bytes] = []
    if b"" in seqs:
        others = [row[0] for row in found if not row[1]]
        heads = [row[1:4] if row[1] else _head(row[0]) for row in found]
        seqs, batches, recorded_times = zip(*heads, strict=True)
        columns = list(zip(*[row for row in found if row[1]], strict=True))
    chain = _chain(lines, tip.chain)
    signals = _signals(columns)
    in_order = _recorded_at_runs(seqs, batches, recorded_times, tip)
    if (
        chain is None
        or signals is None
        or in_order is None
        or max(map(len, lines)) > LINE_BYTES_MAX
    ):
        return None
    tip = Tip(in_order[-1].seq_to, int(batches[-1]), in_order[-1].recorded_at, chain)
    return ParsedLines(tip, in_order, signals, others)


def _head(line: bytes) -> tuple[bytes, ...]:
    """The seq, batch and recorded_at of a line; values that fit nowhere where it has none."""
    found = HEADER_PATTERN.match(line)
    return found.groups()[:3] if found is not None else (b"0", b"0", b"")


def _chain(lines: Sequence[bytes], chain: str) -> str | None:
    """The chain of the last line, if each continues the one before it."""
    before = [chain.encode(), *[line[-67:-3] for line in lines]]
    ends = [
        f',"chain":"{sha256(stored + line[:-CHAIN_BYTES]).hexdigest()}"}}\n'
        for stored, line in zip(before, lines, strict=False)
    ]
    if "".join(ends).encode() != b"".join([line[-CHAIN_BYTES:] for line in lines]):
        return None
    return before[-1].decode()


def _recorded_at_runs(
    seqs: Sequence[bytes], batches: Sequence[bytes], recorded_times: Sequence[bytes], tip: Tip
) -> list[RecordedAtRun] | None:
    """The recorded times of the lines; None where seq, batch or time is out of order."""
    first = tip.seq + 1
    if list(seqs) != list(map(b"%d".__mod__, range(first, first + len(seqs)))):
        return None
    found: list[RecordedAtRun] = []
    batch, recorded_at = b"%d" % tip.batch, tip.recorded_at.encode()
    seq = first
    for (line_batch, recorded_at_bytes), same in groupby(zip(batches, recorded_times, strict=True)):
        if line_batch not in (batch, seqs[seq - first]):
            return None
        if recorded_at_bytes != recorded_at and (
            recorded_at_bytes < recorded_at or not RECORDED_AT_PATTERN.fullmatch(recorded_at_bytes)
        ):
            return None
        batch, recorded_at = line_batch, recorded_at_bytes
        count = len(list(same))
        found.append(RecordedAtRun(seq, seq + count - 1, recorded_at_bytes.decode()))
        seq += count
    return found


def _signals(columns: Sequence[Sequence[bytes]]) -> SignalColumns | None:
    """The columns of lines in the layout of signals; None where one of them is invalid."""
    if not columns:
        return NO_SIGNALS
    *columns, ends = columns
    # fmt: off
    (signal_id, symbol, action, entry, target, stop, confidence,
     strategy, asset_type, data_source, timestamp) = columns[4:]
    # fmt: on
    hashed_columns = (
        action,
        confidence,
        entry,
        signal_id,
        stop,
        strategy,
        symbol,
        target,
        timestamp,
    )
    canonicals = list(map(CANONICAL_FORMAT.__mod__, zip(*hashed_columns, strict=True)))
    computed = [f',"sha256":"{sha256(text).hexdigest()}"' for text in canonicals]
    members = [end[:_MEMBERS_TO] for end in ends]
    if (
        "".join(computed).encode() != b"".join([end[_MEMBERS_TO:_HASH_TO] for end in ends])
        or b"".join([*canonicals, *{*asset_type, *data_source}]).translate(None, PLAIN_ASCII)
        or not all(map(are_extra_members, set(members)))
    ):
        return None
    hashes = [end[_HASH_FROM:_HASH_TO] for end in ends]
    return SignalColumns._make([*columns, members, hashes])


def _has_our_layout(row: tuple[bytes, ...]) -> bool:
    """Whether a line that matches the layout of signals satisfies its other conditions."""
    *texts, end = row[4:]
    return not b"".join(texts).translate(None, PLAIN_ASCII) and are_extra_members(end[:_MEMBERS_TO])
