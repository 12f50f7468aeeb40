"""Scanner: splits bytes into chained lines, and distinguishes torn from corrupt.

A bad line is *torn* when it can belong to the batch that was being written when power was lost: it
was never acknowledged, so a writer may cut it. It is *corrupt* when there is evidence that a later
batch was written, because a batch is written only when the one before is durable.

Evidence is a line header at any byte after the start of the first bad line, whose bytes up to the
next newline are a well-formed line (its chain cannot be checked once a line before it is damaged)
and whose batch is greater than the first missing seq. Lines of one batch may reach the disk in any
order, so a line of the same batch is no evidence.

Invariant: `scan` accepts only lines that continue the chain it was given.
"""

import re
from hashlib import sha256
from typing import NamedTuple

import orjson

from eventlog.format.line import (
    CHAIN_BYTES,
    CHAIN_START,
    HEADER_PATTERN,
    LINE_BYTES_MAX,
    LOST_PREFIX,
    BadLine,
    parse_header,
    stored_chain,
)

CHAIN_UNKNOWN = ""  # after an accepted gap: the next line is not checked against a chain

_EVIDENCE_PATTERN = re.compile(rb'\{"v":1,"seq":([1-9][0-9]{0,19}),"batch":([1-9][0-9]{0,19}),')


class Tip(NamedTuple):
    """The last good entry, which the next line must follow."""

    seq: int
    batch: int
    recorded_at: str
    chain: str


TIP_START = Tip(0, 0, "", CHAIN_START)


class ScanResult(NamedTuple):
    """Result of a scan. Without a `problem`, bytes beyond `bytes_good` are an unfinished line."""

    lines: list[bytes]  # newline included
    bytes_good: int
    tip: Tip
    problem: str | None


def tip_of(line: bytes) -> Tip:
    """The tip after `line`, whose chain is not verified. Raises BadLine."""
    head = parse_header(line)
    return Tip(head.seq, head.batch, head.recorded_at, stored_chain(line))


def scan(data: bytes, tip: Tip) -> ScanResult:
    """The whole lines at the start of `data` that continue the log after `tip`."""
    lines: list[bytes] = []
    seq, batch = tip.seq, tip.batch
    chain = tip.chain.encode()
    problem = None
    start = 0
    head = None
    while True:
        end = data.find(b"\n", start) + 1
        if not end:
            if len(data) - start >= LINE_BYTES_MAX:
                problem = f"is longer than {LINE_BYTES_MAX} bytes"
            break
        line = data[start:end]
        stored = line[-67:-3]
        found = HEADER_PATTERN.match(line)
        if (
            found is None
            or int(found[1]) != seq + 1
            or not (int(found[2]) == seq + 1 or int(found[2]) == batch)
            or sha256(chain + line[:-CHAIN_BYTES]).hexdigest().encode() != stored
            or line[-CHAIN_BYTES:-67] != b',"chain":"'
            or line[-3:] != b'"}\n'
            or len(line) > LINE_BYTES_MAX
        ):
            problem = problem_of(line, Tip(seq, batch, "", chain.decode()))
            if problem is not None:
                break
            found = HEADER_PATTERN.match(line)
            assert found is not None
        head = found
        seq += 1
        batch = int(head[2])
        chain = stored
        lines.append(line)
        start = end
    if head is not None:
        tip = Tip(seq, batch, head[3].decode(), chain.decode())
    return ScanResult(lines, start, tip, problem)


def problem_of(line: bytes, tip: Tip) -> str | None:
    """Why `line` cannot follow `tip`, in words that continue "entry 42 ..."; None if it can."""
    if len(line) > LINE_BYTES_MAX:
        return f"is longer than {LINE_BYTES_MAX} bytes"
    try:
        head = parse_header(line)
        chain = stored_chain(line)
    except BadLine as error:
        return str(error)
    if head.seq != tip.seq + 1:
        return f"is missing: the line says seq {head.seq}"
    if tip.chain == CHAIN_UNKNOWN:
        return None
    if head.batch not in (head.seq, tip.batch):
        return f"says batch {head.batch}, which no durable write can have had"
    if sha256(tip.chain.encode() + line[:-CHAIN_BYTES]).hexdigest() != chain:
        return "does not match its chain"
    return None


def is_well_formed(line: bytes) -> bool:
    """Whether `line` is a valid line. Its chain is not verified."""
    if len(line) > LINE_BYTES_MAX or HEADER_PATTERN.match(line) is None:
        return False
    try:
        stored_chain(line)
        orjson.loads(line)
    except (BadLine, orjson.JSONDecodeError):
        return False
    return True


def is_misplaced(data: bytes, missing_seq: int) -> bool:
    """Whether `data` starts with a well-formed line of another entry: no torn write does."""
    line = data[: data.find(b"\n") + 1]
    return is_well_formed(line) and parse_header(line).seq != missing_seq


def has_evidence(data: bytes, missing_seq: int, start: int = 1) -> bool:
    """Whether `data[start:]` proves that the batch holding entry `missing_seq` was durable.

    `data` starts at the first bad line, whose own header, at byte 0, is no evidence. Only durable
    lines are ever compressed, so a lost part of a compressed segment was durable.
    """
    if LOST_PREFIX in data:
        return True
    for found in _EVIDENCE_PATTERN.finditer(data, start):
        if int(found[2]) <= missing_seq:
            continue
        end = data.find(b"\n", found.end(), found.start() + LINE_BYTES_MAX) + 1
        if end and is_well_formed(data[found.start() : end]):
            return True
    return False
