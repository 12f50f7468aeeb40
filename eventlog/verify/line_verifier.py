"""The line verifier: verifies the lines of a damaged log in order, and reports each damage once.

After a bad line it continues at the first line that follows one of three chains: the one in the
bad line, the one that the bad line should have, or that of the last good line. So one flipped bit
is one defect wherever it is in a line: later lines are verified by the chain before them as it is
in the file.

Invariant: a good line continues the chain of a line before it, unless it is the first after bytes
without a readable chain.
"""

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.format.line import CHAIN_BYTES, LINE_BYTES_MAX, BadLine, next_chain, stored_chain
from eventlog.format.scan import CHAIN_UNKNOWN, TIP_START, Tip, is_well_formed, problem_of, tip_of
from eventlog.format.segment import segment_name
from eventlog.schema.stored import problem_in_line
from eventlog.verify.fast_path import verify_lines_fast

# The state of the verifier, after the line before.
_IN_SYNC = "good"  # the line before it was good
_AFTER_BAD_LINE = "doubtful"  # the line before it was bad, but ends in a chain
_CHAIN_UNCHECKED = "fresh"  # the next seq is known, but not the chain before it
_NO_CHAIN = "lost"  # neither is known


class Defect(NamedTuple):
    """One defect of a log."""

    seq: int  # of the entry that should be here
    problem: str  # continues "entry 42 ..."
    is_chained: bool = False  # the line continues the chain, so it is no torn write


class LineVerifier:
    """Verifies the lines of a log, in order, from after `tip` on."""

    def __init__(self, tip: Tip = TIP_START) -> None:
        self.tip = tip  # after the last good line
        self.entries = 0  # good lines
        self.next_seq = tip.seq + 1  # of the entry that should come next
        self._state = _IN_SYNC
        self._chains: tuple[str, ...] = (tip.chain,)  # that the next line may continue

    @property
    def is_in_sync(self) -> bool:
        """Whether the line before was good, so that `tip` is the end of it."""
        return self._state == _IN_SYNC

    def skip_verified(self, tip: Tip) -> None:
        """Skips lines up to `tip` that were verified by other means."""
        self.entries += tip.seq - self.tip.seq
        self._accept(tip)

    def resume_after_gap(self, tip: Tip) -> None:
        """Continues after an accepted gap, as if `tip` had just been read."""
        self._accept(tip)
        if tip.chain == CHAIN_UNKNOWN:
            self._restart_at(self.next_seq)

    def enter_segment(self, first_seq: int) -> Defect | None:
        """Checks that the segment with the first entry `first_seq` continues the log."""
        seq = self.next_seq
        if self._state != _IN_SYNC and first_seq > self.tip.seq:
            # A bad line may stand for any number of entries, so no seq need be missing.
            self.next_seq = first_seq
            self._state = _CHAIN_UNCHECKED if self._state == _NO_CHAIN else self._state
            return None
        if first_seq == seq:
            return None
        self._restart_at(first_seq)
        if first_seq > seq:
            return Defect(seq, f"is missing: {segment_name(seq)} should start with it")
        # These entries are read a second time rather than not at all.
        self.tip = self.tip._replace(seq=first_seq - 1)
        return Defect(seq, f"is missing: the next segment starts with entry {first_seq}")

    def check(self, line: bytes) -> Defect | None:
        """Verifies a line, newline included. None for a good line or a damage reported before."""
        if len(line) > LINE_BYTES_MAX:
            return self.check_malformed(line, f"is longer than {LINE_BYTES_MAX} bytes")
        try:
            tip = tip_of(line)
        except BadLine as error:
            return self.check_malformed(line, str(error))
        if any(next_chain(chain, line) == tip.chain for chain in self._chains):
            return self._check_chained(line, tip)
        if self._state in (_CHAIN_UNCHECKED, _NO_CHAIN):
            return self._check_unanchored(line, tip)
        return self._check_unlinked(line, tip)

    def check_malformed(self, data: bytes, problem: str) -> Defect | None:
        """Reports bytes that are no line. `data` may be only their end."""
        defect = None if self._state == _NO_CHAIN else Defect(self.next_seq, problem)
        try:
            self._mark_bad(data, stored_chain(data))
        except BadLine:
            self._mark_bad(data, None)
        return defect

    def _check_chained(self, line: bytes, tip: Tip) -> Defect | None:
        """Checks a line that continues the chain, but may have other defects."""
        before = self.tip
        seq, problem = tip.seq, None
        if tip.seq <= before.seq or (self._state == _IN_SYNC and tip.seq != self.next_seq):
            seq, problem = self.next_seq, f"is missing: the line says seq {tip.seq}"
        elif self._state == _IN_SYNC:
            if tip.batch not in (tip.seq, before.batch):
                problem = f"says batch {tip.batch}, which no durable write can have had"
            elif tip.recorded_at < before.recorded_at:
                problem = "was recorded before the entry before it"
        self.entries += 1
        self._accept(tip)
        problem = problem or problem_in_line(line)
        return None if problem is None else Defect(seq, problem, True)

    def _check_unanchored(self, line: bytes, tip: Tip) -> Defect | None:
        """Checks a line without its chain, which cannot be checked."""
        if self._state == _CHAIN_UNCHECKED and tip.seq != self.next_seq:
            defect = Defect(self.next_seq, f"is missing: the line says seq {tip.seq}")
            self._mark_bad(line, tip.chain)
            return defect
        if tip.seq <= self.tip.seq or not is_well_formed(line):
            is_reported = self._state == _NO_CHAIN
            seq = self.next_seq
            self._mark_bad(line, None)
            return None if is_reported else Defect(seq, "is not JSON")
        self.entries += 1
        self._accept(tip)
        problem = problem_in_line(line)
        return None if problem is None else Defect(tip.seq, problem, True)

    def _check_unlinked(self, line: bytes, tip: Tip) -> Defect:
        """Reports a line that continues no known chain."""
        if self._state == _IN_SYNC:
            problem = problem_of(line, self.tip)
            assert problem is not None, "at least its chain is wrong"
            defect = Defect(self.next_seq, problem)
        else:
            problem = "does not match the chain of the line before it, which is damaged too"
            defect = Defect(tip.seq if tip.seq > self.tip.seq else self.next_seq, problem)
        self._mark_bad(line, tip.chain)
        return defect

    def _accept(self, tip: Tip) -> None:
        self.tip = tip
        self.next_seq = tip.seq + 1
        self._state = _IN_SYNC
        self._chains = (tip.chain,)

    def _restart_at(self, seq: int) -> None:
        self.next_seq = seq
        self._state = _CHAIN_UNCHECKED
        self._chains = ()

    def _mark_bad(self, data: bytes, chain: str | None) -> None:
        """Sets which chains the line after a bad one, with the stored `chain`, may continue."""
        chains = [chain] if chain is not None else []
        if self._chains and len(data) > CHAIN_BYTES:
            chains.append(next_chain(self._chains[0], data))  # if only the stored chain is damaged
        if self._chains:
            chains.append(self._chains[-1])  # if the bad line does not belong here
        self._chains = tuple(chains)
        if chain is None:
            self._state = _NO_CHAIN
        else:
            if self._state != _NO_CHAIN:
                self.next_seq += 1
            self._state = _AFTER_BAD_LINE


def verify_lines(lines: Sequence[bytes], tip: Tip) -> Tip | None:
    """The tip after `lines` if they follow `tip` and none has a defect; None otherwise."""
    fast_path_tip = verify_lines_fast(lines, tip)
    if fast_path_tip is not None:
        return fast_path_tip
    line_verifier = LineVerifier(tip)
    if any(line_verifier.check(line) is not None for line in lines):
        return None
    return line_verifier.tip
