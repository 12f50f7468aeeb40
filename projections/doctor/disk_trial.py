"""`doctor --disk`: kills, torn writes, flipped bits and a full disk, for real, on a user's disk.

All of it happens in a scratch directory below the one that is named. A loss of power is what no
program can try: the last finding says so.

Invariant: the scratch directory is removed, and nothing else below the directory is touched.
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from eventlog import EventLog, EventLogError, Receipt
from eventlog.plumbing import filesystem_type, read_entries, read_verified
from projections.doctor.finding import (
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    DoctorFinding,
    Latency,
    summarize_latency,
    sync_finding,
)
from projections.doctor.home import SAMPLE_LINE, file_system_finding, time_syncs

SYNCS_MAX = 1_000
SYNC_SHARE, APPEND_SHARE, KILL_SHARE = (
    0.1,
    0.15,
    0.5,
)  # of the seconds; the rest takes what it takes
KILLS_MIN = 3  # however few seconds there are
KILL_AFTER_S = (0.02, 0.4)  # from the first receipt to the kill
FLIPS = 40
FILE_BYTES_LIMIT = 20_000  # the limit that `append` runs into: some thirty signals
FULL_SIGNALS_MAX = 100  # more than fit
WAIT_S_MAX = 60.0  # for a process that should have ended
SEGMENT_BYTES = 16_000  # so that kills meet rotations
SCRATCH_PREFIX = ".eventlog-doctor-"
# The command as an entry point starts it, whichever way this Python was installed.
COMMAND = (sys.executable, "-c", "from eventlog.cli.main import main; main()")

Acknowledged = tuple[int, str]  # seq and chain of a receipt


@dataclass(slots=True, kw_only=True)
class DiskTrialResult:
    """The figures, as far as the checks have come."""

    file_system: str
    write_fdatasync_us: Latency | None = None
    append_us: Latency | None = None
    kills: int = 0
    receipts: int = 0
    torn: int = 0
    flips: int = 0
    full_after: int = 0  # signals that were acknowledged before the limit
    findings: list[DoctorFinding] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The object `result`."""
        found = asdict(self)
        del found["findings"]
        return found


class PromiseBroken(Exception):
    """A promise did not hold; the text says which."""


def examine_disk(
    directory: Path, *, seconds: float, report_step: Callable[[str], object] = lambda _: None
) -> DiskTrialResult:
    """Tries the disk that `directory` is on. `report_step` hears what begins. Raises OSError."""
    result = DiskTrialResult(file_system=filesystem_type(os.fspath(directory)))
    result.findings.append(file_system_finding("disk kind", str(directory), directory))
    with _scratch_directory(directory) as scratch:
        for check, words, run in (
            ("disk sync", "timing write + fdatasync", _try_sync),
            ("disk kill", "killing a real append, again and again", _try_kill),
            ("disk torn", "leaving torn writes behind", _try_torn),
            ("disk flip", "turning bits", _try_flip),
            ("disk full", "running into a full disk", _try_full),
        ):
            report_step(words)
            home = scratch / check.removeprefix("disk ")
            home.mkdir(mode=0o700)
            try:
                found = run(home, result, seconds)
            except (PromiseBroken, EventLogError, OSError, subprocess.TimeoutExpired) as error:
                do = "do not keep a log on this disk, and see what the kernel says: `dmesg`"
                found = [DoctorFinding(check=check, level=PROBLEM, found=str(error), do=do)]
            result.findings += found
    result.findings.append(_overall_finding(result.findings))
    return result


@contextmanager
def _scratch_directory(directory: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=directory))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _try_sync(home: Path, result: DiskTrialResult, seconds: float) -> list[DoctorFinding]:
    fd = os.open(home / "sync", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        times = time_syncs(fd, SYNCS_MAX, SYNC_SHARE * seconds)
        found = os.pread(fd, len(times) * len(SAMPLE_LINE), 0)
    finally:
        os.close(fd)
    if found != len(times) * SAMPLE_LINE:
        raise PromiseBroken("what was written is not what is read back")
    result.write_fdatasync_us = summarize_latency(times)
    times = []
    deadline_s = time.monotonic() + APPEND_SHARE * seconds
    with EventLog(home) as log:
        while len(times) < SYNCS_MAX and (not times or time.monotonic() < deadline_s):
            signal = _signal(len(times))
            started_ns = time.perf_counter_ns()
            log.append(signal)
            times.append(time.perf_counter_ns() - started_ns)
    result.append_us = latency = summarize_latency(times)
    finding = sync_finding("disk sync", result.write_fdatasync_us)
    found_text = f"{finding.found}; append takes {latency.p50:,} us (p50), {latency.p99:,} us (p99)"
    return [
        DoctorFinding(check=finding.check, level=finding.level, found=found_text, do=finding.do)
    ]


def _try_kill(home: Path, result: DiskTrialResult, seconds: float) -> list[DoctorFinding]:
    """Each receipt that came out of a killed process must be in the log as it was said."""
    rng = random.Random(0)
    deadline_s = time.monotonic() + KILL_SHARE * seconds
    acknowledged: list[Acknowledged] = []
    while result.kills < KILLS_MIN or time.monotonic() < deadline_s:
        acknowledged += _killed_append(home, result.kills, rng.uniform(*KILL_AFTER_S))
        result.kills += 1
        result.receipts = len(acknowledged)
        check_receipts(home, acknowledged)
    found = f"{result.kills} kills, and all {len(acknowledged):,} receipts are in the log"
    return [DoctorFinding(check="disk kill", level=OK, found=found)]


def _killed_append(home: Path, number: int, kill_after_s: float) -> list[Acknowledged]:
    """Feeds a process from a file, since one that is killed must not wait for us."""
    lines = home / "lines"
    with lines.open("wb") as file:
        for count in range(20_000):
            file.write(orjson.dumps(_signal(count, f"k{number}")) + b"\n")
    words = ("--home", home, "append", "--segment-bytes", SEGMENT_BYTES, lines)
    process = _start_process(words, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(kill_after_s)
        process.kill()
        out = first + process.stdout.read()
    finally:
        _stop_process(process)
    *whole, _ = out.split(b"\n")
    return [_parse_receipt(line) for line in whole]


def _try_torn(home: Path, result: DiskTrialResult, _seconds: float) -> list[DoctorFinding]:
    """Parts of a write behind the end must be put aside by the next append, and kept."""
    with EventLog(home) as log:
        acknowledged = [_acknowledged(log.append(_signal(0)))]
    segment = home / "logs" / "00000000000000000001.jsonl"
    line = segment.read_bytes()
    halves = [line[:cut] for cut in (1, 2, len(line) // 2, 511, 512, len(line) - 1)]
    for number, torn in enumerate((*halves, bytes(512), b"\xa5" * 4_096, bytes(700) + b"\n")):
        end = segment.stat().st_size
        with segment.open("ab") as file:
            file.write(torn)
            file.flush()
            os.fsync(file.fileno())
        with EventLog(home) as log:
            acknowledged.append(_acknowledged(log.append(_signal(number + 1))))
        aside = segment.with_name(f"{segment.name}.{end}.torn")
        if not aside.exists() or aside.read_bytes() != torn:
            raise PromiseBroken(f"{len(torn)} torn bytes at {end} were not kept aside")
        result.torn += 1
        check_receipts(home, acknowledged)
    found = f"{result.torn} torn writes were put aside, and all receipts are in the log"
    return [DoctorFinding(check="disk torn", level=OK, found=found)]


def _try_flip(home: Path, result: DiskTrialResult, _seconds: float) -> list[DoctorFinding]:
    """Each flipped bit must be found, from the device where the kernel gives up its cache."""
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        log.append_many([_signal(number) for number in range(100)])
    rng = random.Random(0)
    segments = [path for path in sorted((home / "logs").glob("*.jsonl")) if path.stat().st_size]
    for _ in range(FLIPS):
        if not segments:
            raise PromiseBroken("what was written is gone")
        segment = rng.choice(segments)
        at, bit = rng.randrange(segment.stat().st_size or 1), 1 << rng.randrange(8)
        _flip(segment, at, bit)
        try:
            for _chunk in read_verified(home):
                pass
            raise PromiseBroken(f"a flipped bit at byte {at} of {segment.name} was not found")
        except EventLogError:
            result.flips += 1
        _flip(segment, at, bit)
    check_receipts(home, [])
    found = f"each of {result.flips} flipped bits was found"
    return [DoctorFinding(check="disk flip", level=OK, found=found)]


def _flip(path: Path, at: int, bit: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.pread(fd, 1, at)
        if not found:
            raise PromiseBroken(f"byte {at} of {path.name} is gone")
        os.pwrite(fd, bytes([found[0] ^ bit]), at)
        os.fsync(fd)
        with suppress(AttributeError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _try_full(home: Path, result: DiskTrialResult, _seconds: float) -> list[DoctorFinding]:
    """A real `append` under a limit on the size of files, which is as good as a full disk."""
    if not hasattr(resource, "prlimit"):
        do = "nothing: where a disk is full for real, the same code is at work"
        found = "not tried, for this system limits no other process"
        return [DoctorFinding(check="disk full", level=NOTE, found=found, do=do)]
    acknowledged: list[Acknowledged] = []
    process = _start_process(("--home", home, "append"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # It reads a line before it writes a byte, so the limit is there in time.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_LIMIT, FILE_BYTES_LIMIT))
        while len(acknowledged) < FULL_SIGNALS_MAX:
            process.stdin.write(orjson.dumps(_signal(len(acknowledged))) + b"\n")
            process.stdin.flush()
            reply = process.stdout.readline()
            if b'"seq":' not in reply:
                break
            acknowledged.append(_parse_receipt(reply))
        process.wait(WAIT_S_MAX)
    finally:
        _stop_process(process)
    result.full_after = len(acknowledged)
    if len(acknowledged) == FULL_SIGNALS_MAX:
        raise PromiseBroken("append went on over the limit")
    with EventLog(home) as log:
        if log.last_seq != len(acknowledged):
            raise PromiseBroken(
                f"{len(acknowledged)} were acknowledged, and {log.last_seq} are there"
            )
        acknowledged.append(_acknowledged(log.append(_signal(1_000))))
    check_receipts(home, acknowledged)
    found = f"append stopped after {result.full_after} signals, lost none, and went on afterwards"
    return [DoctorFinding(check="disk full", level=OK, found=found)]


def _overall_finding(findings: list[DoctorFinding]) -> DoctorFinding:
    check = "disk verdict"
    levels = {finding.level for finding in findings}
    if PROBLEM in levels:
        found = "this disk, or what stands before it, does not keep what the log needs"
        do = "keep the log elsewhere, and run this again there"
        return DoctorFinding(check=check, level=PROBLEM, found=found, do=do)
    rest = "whether the device keeps through a loss of power what it says it has flushed"
    if WARNING in levels:
        found = f"nothing was lost, but see `disk sync`; no program can see {rest}"
        return DoctorFinding(check=check, level=NOTE, found=found, do="do what it says")
    found = f"nothing was lost and nothing went unnoticed; no program can see {rest}"
    return DoctorFinding(check=check, level=OK, found=found)


def check_receipts(home: Path, acknowledged: list[Acknowledged]) -> None:
    """The log is whole, dense, and holds every receipt."""
    for _ in read_verified(home):
        pass
    chains = [entry.chain for entry in read_entries(os.fspath(home), after=0)]
    for seq, chain in acknowledged:
        if seq > len(chains) or chains[seq - 1] != chain:
            raise PromiseBroken(f"entry {seq} was acknowledged, and is not in the log")


def _start_process(words: tuple[object, ...], *, stdin: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, "--quiet", *map(str, words)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _stop_process(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(WAIT_S_MAX)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _parse_receipt(line: bytes) -> Acknowledged:
    found = orjson.loads(line)
    if "seq" not in found:
        raise PromiseBroken(f"append refused an entry: {line.decode()}")
    return found["seq"], found["chain"]


def _acknowledged(receipt: Receipt) -> Acknowledged:
    return receipt.seq, receipt.chain


def _signal(number: int, name: str = "d") -> dict[str, object]:
    return {
        "signal_id": f"{name}-{number}",
        "symbol": "DISK",
        "action": "BUY",
        "entry_price": 100.0 + number,
        "target_price": 110.0 + number,
        "stop_price": 90.0,
        "confidence": 75.5,
        "strategy": "doctor",
        "timestamp": "2025-11-18T02:00:00.000000+00:00",
        "reasoning": "x" * 80,
    }
