"""`eventlog append --check`: what would happen to each line of input.

Invariant: each line gets exactly one answer, in order, and nothing is written or created.
"""

from collections.abc import Callable
from typing import NamedTuple

import orjson

from eventlog.append.batch import Receipt
from eventlog.append.dedupe import DEDUPE_ENTRIES_DEFAULT
from eventlog.append.dry_run import DryRun
from eventlog.cli.append.pipe import StopSignal, read_lines
from eventlog.clock import now_recorded
from eventlog.errors import EventLogError, InvalidSignal
from eventlog.log import salted, validated
from eventlog.schema.json_input import parse_json_line
from eventlog.schema.validation import ValidatedItem
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import home_at
from eventlog.storage.segment_disk import SegmentDisk


class CheckedLine(NamedTuple):
    """What would happen to one line of input."""

    line: int  # 1 is the first
    result: Receipt | EventLogError

    def to_json(self) -> bytes:
        """The line of output, newline included."""
        found: dict[str, object] = {"line": self.line}
        if isinstance(self.result, Receipt):
            found["result"] = "duplicate" if self.result.duplicate else "new"
            found["seq"] = self.result.seq
            if self.result.warnings:
                found["warnings"] = self.result.warnings
        else:
            is_invalid = isinstance(self.result, InvalidSignal)
            found["result"] = "invalid" if is_invalid else "conflict"
            found["error"] = str(self.result)
            found["field"] = getattr(self.result, "field", "")
        return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)


def check_lines(
    home: str,
    fd: int,
    stop: StopSignal,
    on_results: Callable[[list[CheckedLine]], object],
    *,
    salt: bool = False,
) -> bool:
    """Checks the lines from `fd` until its end or a signal; True if each of them would pass.

    Each line is checked as if all valid lines before it were in the log. Raises ForeignHome and
    LogCorrupt.
    """
    disk = SegmentDisk(RealDisk())
    dry_run = DryRun(disk, home_at(home), now_recorded, DEDUPE_ENTRIES_DEFAULT)
    all_pass = True
    number = 0
    for lines in read_lines(fd, stop):
        parsed = [_parsed(line, salt=salt) for line in lines]
        taken = iter(dry_run.append_each([it for it in parsed if isinstance(it, ValidatedItem)]))
        results = [next(taken) if isinstance(it, ValidatedItem) else it for it in parsed]
        on_results([CheckedLine(number + i, result) for i, result in enumerate(results, 1)])
        number += len(lines)
        all_pass = all_pass and all(isinstance(result, Receipt) for result in results)
    return all_pass


def _parsed(line: bytes, *, salt: bool) -> ValidatedItem | InvalidSignal:
    try:
        return (salted if salt else validated)(parse_json_line(line))
    except InvalidSignal as error:
        return error
