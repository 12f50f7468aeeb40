"""The findings of `doctor`: the check, its level, and the remedy. Pure.

Invariant: a finding says what to do if, and only if, its level is not `ok`.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
LEVELS = (OK, NOTE, WARNING, PROBLEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """The result of one check."""

    check: str
    level: str  # one of LEVELS
    found: str
    do: str | None = None

    def __post_init__(self) -> None:
        assert self.level in LEVELS
        assert (self.do is None) == (self.level == OK), "a finding that is not ok says what to do"

    def to_json(self) -> dict[str, object]:
        """An element of `findings`."""
        return asdict(self)


def is_ok(findings: Iterable[DoctorFinding]) -> bool:
    """Whether no finding is a problem."""
    return all(finding.level != PROBLEM for finding in findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of many durations, in microseconds."""

    count: int
    p50: int
    p99: int


def summarize_latency(times_ns: list[int]) -> Latency:
    """The percentiles of durations in nanoseconds, at least one."""
    ordered = sorted(times_ns)

    def percentile(share: float) -> int:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1_000)

    return Latency(count=len(ordered), p50=percentile(0.5), p99=percentile(0.99))


# A faster sync did not reach the device: even the fastest flash device with a power-protected
# cache takes 20 us or more for a write and a flush, including the file system's journal.
TOO_FAST_US_MAX = 15
SLOW_P50_US = 20_000  # two rotations of a hard disk; every single append waits this long
SLOW_P99_US = 500_000  # a pause that a person notices


def sync_finding(check: str, latency: Latency) -> DoctorFinding:
    """Rates a device by the duration of write + fdatasync."""
    found = f"write + fdatasync takes {latency.p50:,} us (p50), {latency.p99:,} us (p99)"
    if latency.p50 < TOO_FAST_US_MAX:
        return DoctorFinding(
            check=check,
            level=WARNING,
            found=f"{found}: too fast to have reached the device",
            do="find out what answers instead (memory, a cache without a battery, a virtual machine"
            " with unsafe caching): a loss of power may lose acknowledged entries",
        )
    if latency.p50 > SLOW_P50_US or latency.p99 > SLOW_P99_US:
        return DoctorFinding(
            check=check,
            level=WARNING,
            found=f"{found}: every append waits this long",
            do="append many at once (append_many, or a pipe), or move the home to a faster device",
        )
    return DoctorFinding(check=check, level=OK, found=found)
