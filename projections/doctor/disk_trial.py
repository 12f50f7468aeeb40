"""The disk test of `doctor --disk`: kills, torn writes, flipped bits and a full disk.

Everything happens in a scratch directory below the given directory. No program can test a loss of
power; the last finding says so.

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
from eventlog.plumbing import count_text, filesystem_type, read_entries, read_verified
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
SYNC_SHARE, APPEND_SHARE, KILL_SHARE = 0.1, 0.15, 0.5  # of the seconds; other steps have no limit
KILLS_MIN = 3  # however short the time
KILL_AFTER_S = (0.02, 0.4)  # from the first receipt to the kill
FLIPS = 40
FILE_BYTES_LIMIT = 20_000  # the file size limit that `append` reaches, about thirty signals
FULL_SIGNALS_MAX = 100  # more than fit below the limit
WAIT_S_MAX = 60.0  # for a process that should have ended
SEGMENT_BYTES = 16_000  # small, so that kills coincide with rotations
SCRATCH_PREFIX = ".eventlog-doctor-"
# Starts the command as its entry point does, however this Python was installed.
COMMAND = (sys.executable, "-c", "from eventlog.cli.main import main; main()")

Acknowledged = tuple[int, str]  # seq and chain of a receipt


@dataclass(slots=True, kw_only=True)
class DiskTrialResult:
    """The findings and figures of the steps that have run."""

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
        """The object `measured`."""
        found = asdict(self)
        del found["findings"]
        return found


class PromiseBroken(Exception):
    """A guarantee did not hold; the text says which."""


def examine_disk(
    directory: Path, *, seconds: float, report_step: Callable[[str], object] = lambda _: None
) -> DiskTrialResult:
    """Tests the disk of `directory`. `report_step` gets the name of each step. Raises OSError."""
    result = DiskTrialResult(file_system=filesystem_type(os.fspath(directory)))
    result.findings.append(file_system_finding("disk kind", str(directory), directory))
    with _scratch_directory(directory) as scratch:
        for check, step, run in (
            ("disk sync", "timing write + fdatasync", _try_sync),
            ("disk kill", "killing an append repeatedly", _try_kill),
            ("disk torn", "leaving torn writes", _try_torn),
            ("disk flip", "flipping bits", _try_flip),
            ("disk full", "filling the disk", _try_full),
        ):
            report_step(step)
            home = scratch / check.removeprefix("disk ")
            home.mkdir(mode=0o700)
            try:
                found = run(home, result, seconds)
            except (PromiseBroken, EventLogError, OSError, subprocess.TimeoutExpired) as error:
                do = "do not keep a log on this disk, and read the kernel messages: `dmesg`"
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
        raise PromiseBroken("the bytes read back differ from the bytes written")
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
    """Each receipt that a killed process printed must be in the log unchanged."""
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
    """Kills an append that reads a file, and so never waits for this process."""
    lines = home / "lines"
    with lines.open("wb") as file:
        for count in range(20_000):
            file.write(orjson.dumps(_signal(count, f"k{number}")) + b"\n")
    arguments = ("--home", home, "append", "--segment-bytes", SEGMENT_BYTES, lines)
    process = _start_process(arguments, stdin=subprocess.DEVNULL)
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
    """The next append must keep torn bytes in a file of their own and cut them from the log."""
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
            raise PromiseBroken(f"{len(torn)} torn bytes at byte {end} were not kept")
        result.torn += 1
        check_receipts(home, acknowledged)
    found = f"{result.torn} torn writes were cut and kept, and all receipts are in the log"
    return [DoctorFinding(check="disk torn", level=OK, found=found)]


def _try_flip(home: Path, result: DiskTrialResult, _seconds: float) -> list[DoctorFinding]:
    """Each flipped bit must be detected; read from the device if the kernel drops its cache."""
    with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:
        log.append_many([_signal(number) for number in range(100)])
    rng = random.Random(0)
    segments = [path for path in sorted((home / "logs").glob("*.jsonl")) if path.stat().st_size]
    for _ in range(FLIPS):
        if not segments:
            raise PromiseBroken("the segments just written are gone")
        segment = rng.choice(segments)
        at, bit = rng.randrange(segment.stat().st_size or 1), 1 << rng.randrange(8)
        _flip(segment, at, bit)
        try:
            for _chunk in read_verified(home):
                pass
            raise PromiseBroken(f"a flipped bit at byte {at} of {segment.name} was not detected")
        except EventLogError:
            result.flips += 1
        _flip(segment, at, bit)
    check_receipts(home, [])
    found = f"each of {result.flips} flipped bits was detected"
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
    """Limits the file size of a running `append`, whose writes then fail as on a full disk."""
    if not hasattr(resource, "prlimit"):
        do = "nothing: a full disk is handled by the same code"
        found = "not tested, because this system cannot limit another process"
        return [DoctorFinding(check="disk full", level=NOTE, found=found, do=do)]
    acknowledged: list[Acknowledged] = []
    process = _start_process(("--home", home, "append"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # It reads a line before it writes a byte, so the limit is set in time.
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
        raise PromiseBroken("append continued beyond the file size limit")
    with EventLog(home) as log:
        if log.last_seq != len(acknowledged):
            raise PromiseBroken(
                f"{len(acknowledged)} entries were acknowledged, but the log has {log.last_seq}"
            )
        acknowledged.append(_acknowledged(log.append(_signal(1_000))))
    check_receipts(home, acknowledged)
    signals = count_text(result.full_after, "signal")
    found = f"append stopped after {signals}, lost none, and continued later"
    return [DoctorFinding(check="disk full", level=OK, found=found)]


def _overall_finding(findings: list[DoctorFinding]) -> DoctorFinding:
    check = "disk verdict"
    levels = {finding.level for finding in findings}
    if PROBLEM in levels:
        found = "this disk, or a layer above it, does not give the guarantees that the log needs"
        do = "keep the log on another disk, and test that one"
        return DoctorFinding(check=check, level=PROBLEM, found=found, do=do)
    rest = "no program can test whether flushed data survives a loss of power"
    if WARNING in levels:
        found = f"nothing was lost, but there are warnings above; {rest}"
        return DoctorFinding(check=check, level=NOTE, found=found, do="follow the warnings")
    found = f"nothing was lost, and all damage was detected; {rest}"
    return DoctorFinding(check=check, level=OK, found=found)


def check_receipts(home: Path, acknowledged: list[Acknowledged]) -> None:
    """Raises PromiseBroken or EventLogError unless the log is undamaged and has every receipt."""
    for _ in read_verified(home):
        pass
    chains = [entry.chain for entry in read_entries(os.fspath(home), after=0)]
    for seq, chain in acknowledged:
        if seq > len(chains) or chains[seq - 1] != chain:
            raise PromiseBroken(f"entry {seq} was acknowledged, but is not in the log")


def _start_process(arguments: tuple[object, ...], *, stdin: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, "--quiet", *map(str, arguments)],
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
