"""Compressed segments of very many tiny frames, which only another program makes."""

import json
import struct
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import pytest

from eventlog import EventLog, EventLogError
from tests.harness.forked import forked
from tests.harness.log_checks import segments_in
from tests.harness.read_side import append
from tests.harness.signals import signals

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.checksum_flag: 1,
    zstd.CompressionParameter.content_size_flag: 1,
}
FRAMES = 40_000  # some 600 KB: quadratic work takes half a minute, linear work a tenth of a second
SECONDS_MAX = 10.0


def frame(data: bytes) -> bytes:
    return bytes(zstd.compress(data, options=OPTIONS))


def trailer(frames: list[bytes], raws: list[bytes]) -> bytes:
    """Proof and seek table, as docs/format.md has them."""
    entries = b"".join(
        struct.pack("<II", len(packed), len(raw)) + packed[-4:]
        for packed, raw in zip(frames, raws, strict=True)
    )
    table = entries + struct.pack("<IBI", len(frames), 0x80, 0x8F92EAB1)
    table = struct.pack("<II", 0x184D2A5E, len(table)) + table
    content = b"".join(raws)
    text = f"1 {len(content):020d} {sha256(content).hexdigest()} {crc32(table):08x}".encode()
    text += b" %08x\n" % crc32(text)
    return struct.pack("<II", 0x184D2A50, len(text)) + text + table


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A log of two segments: the first is closed."""
    home = tmp_path / "home"
    for number in range(1, 5):
        append(home, *signals(1, start=number), segment_bytes=900)
    assert len(segments_in(home)) >= 2
    return home


def replace_first(home: Path, data: bytes) -> None:
    first = segments_in(home)[0]
    first.with_name(f"{first.name}.zst").write_bytes(data)
    first.unlink()


COMMANDS = [
    *(("cat",), ("verify",), ("status", "--json"), ("tail", "-n", "1"), ("tail", "-n", "100")),
    *(("project", "sqlite", "--once"), ("repair",), ("compress",), ("doctor",)),
]


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("ends", ["with a table", "without a table", "with a damaged table"])
def test_a_segment_of_very_many_frames_is_refused_quickly_by_every_command(
    home: Path, words: tuple[str, ...], ends: str
) -> None:
    raws = [b"x\n"] * FRAMES
    frames = [frame(b"x\n")] * FRAMES
    end = bytearray(trailer(frames, raws))
    if ends == "with a damaged table":
        end[len(end) // 2] ^= 1
    replace_first(home, b"".join(frames) + (b"" if ends == "without a table" else bytes(end)))
    started_s = time.monotonic()
    done = forked(*words, home=home)
    assert "Traceback" not in done.err
    assert done.code in (0, 1, 3), done
    assert words[0] in ("status", "tail", "doctor", "compress") or done.code != 0, done
    assert time.monotonic() - started_s < SECONDS_MAX


@pytest.mark.slow
def test_an_append_beside_a_segment_of_very_many_frames_does_not_wait(home: Path) -> None:
    replace_first(home, frame(b"x\n") * FRAMES)
    line = json.dumps(signals(1, start=9)[0]).encode() + b"\n"
    started_s = time.monotonic()
    done = forked("append", home=home, stdin=line)
    assert done.code in (0, 3), done
    assert "Traceback" not in done.err
    assert time.monotonic() - started_s < SECONDS_MAX


def test_a_small_frame_that_is_not_the_last_is_damage(home: Path) -> None:
    """The same lines, in two frames with a valid proof and table: no writer of ours makes it."""
    raw = segments_in(home)[0].read_bytes()
    lines = raw.splitlines(keepends=True)
    raws = [lines[0], b"".join(lines[1:])] if len(lines) > 1 else [raw[:100], raw[100:]]
    frames = [frame(part) for part in raws]
    replace_first(home, b"".join(frames) + trailer(frames, raws))
    done = forked("verify", "--json", home=home)
    assert done.code == 1, done
    (answer,) = done.answers
    assert answer["findings"]
    assert answer["findings"][0]["segment"].startswith("0" * 19 + "1.jsonl")


def test_a_small_last_frame_is_what_every_segment_has(home: Path) -> None:
    raw = segments_in(home)[0].read_bytes()
    frames = [frame(raw)]
    replace_first(home, frames[0] + trailer(frames, [raw]))
    done = forked("verify", home=home)
    assert done.code == 0, done
    assert len(forked("cat", home=home).out.splitlines()) == 4


@pytest.mark.slow
def test_reading_takes_time_in_proportion_to_the_number_of_frames(home: Path) -> None:
    """Four times as many frames may not take sixteen times as long."""

    def seconds(count: int) -> float:
        path = segments_in(home)[0] if len(segments_in(home)) > 1 else None
        target = home / "logs" / f"{1:020d}.jsonl.zst"
        if path is not None and path.name == f"{1:020d}.jsonl":
            path.unlink()
        target.write_bytes(frame(b"x\n") * count)
        started_s = time.process_time()
        with EventLog(home) as log, suppress(EventLogError):
            list(log.read())
        return time.process_time() - started_s

    few, many = (min(seconds(count) for _ in range(3)) for count in (5_000, 20_000))
    assert many < 8 * few + 0.05, (few, many)
