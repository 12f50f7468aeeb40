"""What `doctor` finds: one thing that was looked at, how it is, and what to do. Pure.

Invariant: a finding that is not `ok` says what to do.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
LEVELS = (OK, NOTE, WARNING, PROBLEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """One finding of a check."""

    check: str
    level: str  # one of LEVELS
    found: str
    do: str | None = None

    def __post_init__(self) -> None:
        assert self.level in LEVELS
        assert (self.do is None) == (self.level == OK), "what is not ok says what to do"

    def to_json(self) -> dict[str, object]:
        """An element of `findings`."""
        return asdict(self)


def is_ok(findings: Iterable[DoctorFinding]) -> bool:
    """Whether there is no problem among them."""
    return all(finding.level != PROBLEM for finding in findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long something took, many times: in microseconds."""

    count: int
    p50: int
    p99: int


def summarize_latency(times_ns: list[int]) -> Latency:
    """Of at least one time."""
    ordered = sorted(times_ns)

    def at(part: float) -> int:
        return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))] / 1_000)

    return Latency(count=len(ordered), p50=at(0.5), p99=at(0.99))


# Below this even a flash device with a capacitor behind its cache has not been asked: the fastest
# that are sold take 20 us and more for a write and a flush, the file system's journal included.
TOO_FAST_US_MAX = 15
SLOW_P50_US = 20_000  # two turns of a disk; every lone append waits for it
SLOW_P99_US = 500_000  # a pause that a person notices


def sync_finding(check: str, latency: Latency) -> DoctorFinding:
    """What the time of write + fdatasync says about a device."""
    found = f"write + fdatasync takes {latency.p50:,} us (p50), {latency.p99:,} us (p99)"
    if latency.p50 < TOO_FAST_US_MAX:
        return DoctorFinding(
            check=check,
            level=WARNING,
            found=f"{found}: too fast for a device to have been asked",
            do="find out who answers in its place (memory, a cache without a battery, a virtual"
            " machine set to unsafe caching): a loss of power may take acknowledged entries",
        )
    if latency.p50 > SLOW_P50_US or latency.p99 > SLOW_P99_US:
        return DoctorFinding(
            check=check,
            level=WARNING,
            found=f"{found}: each append waits for it",
            do="append many at once (append_many, or a pipe), or put the home on a faster device",
        )
    return DoctorFinding(check=check, level=OK, found=found)
