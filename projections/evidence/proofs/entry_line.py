"""The line in a proof, which someone else wrote: read by rules that verify.html has too.

Both judge each line alike, and a line that each reader of JSON reads alike: a name is given once,
and numbers are finite.

Invariant: an entry that is returned has the form that `eventlog` gives to entries.
"""

import json
import re
from datetime import datetime

from eventlog import Entry
from eventlog.plumbing import LINE_BYTES_MAX, BadLine, decode, parse_header, stored_chain
from projections.errors import NotProved

DEPTH_MAX = 32  # the line's own object is level 1, as in the log's own rules

_SECONDS = len("2025-11-18T02:00:00")
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def parse_entry(line: bytes) -> Entry:
    """The entry in a line without its newline. Raises NotProved."""
    stored = line + b"\n"
    if b"\n" in line:
        raise NotProved("the file holds more than one line")
    if len(stored) > LINE_BYTES_MAX:
        raise NotProved(f"the line is longer than {LINE_BYTES_MAX} bytes")
    try:
        parse_header(stored)
        stored_chain(stored)
        entry = decode(stored)
        _require_one_reading(line.decode())
        _require_possible(entry)
    except BadLine as error:
        raise NotProved(f"the line that was signed is not an entry of a log: it {error}") from None
    return entry


def _require_one_reading(text: str) -> None:
    """Raises BadLine where readers of JSON may differ; the text is known to be JSON."""
    if text.count("[") + text.count("{") > DEPTH_MAX:
        depth = 0
        for token in _STRING_OR_BRACKET.finditer(text):
            depth += (token[0] in "[{") - (token[0] in "]}")
            if depth > DEPTH_MAX:
                raise BadLine(f"is nested deeper than {DEPTH_MAX}")
    json.loads(text, object_pairs_hook=_require_distinct, parse_int=str, parse_float=str)


def _require_distinct(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise BadLine("gives a key twice in one object")


def _require_possible(entry: Entry) -> None:
    """Raises BadLine where the head has the form of an entry, and cannot be that of one."""
    if entry.batch > entry.seq:
        raise BadLine("says a batch that begins after it")
    seconds = entry.recorded_at[:_SECONDS]
    try:
        is_time = datetime.fromisoformat(seconds).isoformat() == seconds
    except ValueError:
        is_time = False
    if not is_time:
        raise BadLine("says a time that there is not")
