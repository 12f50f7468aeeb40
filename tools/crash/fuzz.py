"""Fuzzes validation with hostile lines and the reader with damaged logs.

    python -m tools.crash.fuzz --lines 1000000

Lines are made by mutating valid ones: bytes changed, cut, doubled and spliced, numbers and texts
replaced by odd ones. An item that passes validation is encoded, chained and decoded again.

Invariant: a line is refused with an InvalidSignal or stored exactly; the reader and verify report
damage, and fail in no other way.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from eventlog import EventLog, EventLogError, InvalidSignal
from eventlog.format.line import CHAIN_START, LINE_BYTES_MAX, decode, encode
from eventlog.format.scan import TIP_START, scan
from eventlog.schema.json_input import parse_json_line
from eventlog.schema.validation import validate
from eventlog.verify.verify import verify

NOW = "2025-11-18T02:00:00.000000+00:00"
VALID_LINES = (
    b'{"signal_id":"a-1","symbol":"AAPL","action":"BUY","entry_price":150.5,"target_price":158.25,'
    b'"stop_price":147.0,"confidence":85.5,"strategy":"demo","asset_type":"stock",'
    b'"timestamp":"2025-11-18T02:00:00.000000+00:00","reasoning":"because it is so"}',
    b'{"symbol":"msft","action":"sell","entry_price":410,"take_profit":380,"stop_loss":425,'
    b'"confidence":71,"strategy":"d\xc3\xa9riv\xc3\xa9","extra":{"a":[1,2,{"b":null}],"c":1e-7}}',
    b'{"event":"closed","signal_id":"a-1","exit_price":160,"outcome":"win","profit_loss_pct":6.3}',
    b'{"event":"executed","signal_id":"a-1","order_id":"A-77","executed_at":"2025-11-18T02:00:00Z"}',
    b'{"event":"x.note","signal_id":"a-1","text":"\\u0000\\ud83d\\ude80","list":[true,false,0.1]}',
)
ODD_VALUES = (
    *(b"NaN", b"Infinity", b"-0.0", b"1e400", b"18446744073709551616", b"9007199254740993"),
    *(b"-1", b"0", b"0.5", b"true", b"null", b'""', b"[]", b"{}", b'"\\ud800"', b'"\xff"'),
    *(b'"\\u0000"', b'"2025-02-30T00:00:00Z"', b'"2025-11-18T24:00:00Z"', b"1e16", b"5e-324"),
    *(b'"signal"', b'"BUY"', b'"a\xe2\x80\xa8b"', b"[" * 40 + b"]" * 40, b'{"a":1,"a":2}'),
    *(
        b'"\x1b[31m"',
        b'"=1+1"',
        b'"../../etc"',
        b'"' + b"x" * 200 + b'"',
        b'"' + b"y" * 70_000 + b'"',
    ),
)


def mutated(rng: random.Random) -> bytes:
    """A valid line with one or more mutations."""
    line = bytearray(rng.choice(VALID_LINES))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(line)) if line else 0
        match rng.randrange(7):
            case 0:
                line[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del line[at : at + rng.choice((1, 1, 2, 10, 400))]
            case 2:
                line[at:at] = line[: rng.randrange(len(line) + 1)]
            case 3:
                other = rng.choice(VALID_LINES)
                line[at:] = other[rng.randrange(len(other)) :]
            case 4 | 5:
                colon = line.find(b":", at)
                end = line.find(b",", colon)
                if colon >= 0 and end > colon:
                    line[colon + 1 : end] = rng.choice(ODD_VALUES)
            case 6:
                line[at:at] = rng.choice((b"\n", b"\r", b"\0", b" ", b"\xef\xbb\xbf", b'"', b"\\"))
    return bytes(line)


def fuzz_validation(count: int, rng: random.Random) -> tuple[int, int]:
    """Validates mutated lines; returns how many were refused and stored. Raises AssertionError."""
    refused = stored = 0
    for _ in range(count):
        line = mutated(rng)
        try:
            item = parse_json_line(line)
            found = validate(item, now=lambda: NOW, new_id=lambda: "new-id")
        except InvalidSignal as error:
            if not str(error).isprintable():
                raise AssertionError(line) from error
            refused += 1
            continue
        text, _ = encode(found.event, found.body, 1, 1, "2025-11-18T02:00:00.000000Z", CHAIN_START)
        assert len(text) <= LINE_BYTES_MAX, line
        assert scan(text, TIP_START).lines == [text], line
        payload = decode(text).payload
        again = validate(
            payload | {"event": found.event}, now=lambda: NOW, new_id=lambda: "another-id"
        )
        assert again.body == found.body, line  # a stored item is in stored form already
        for key, value in item.items():
            if key not in payload or key in ("symbol", "action", "timestamp"):
                continue
            same = json.dumps(payload[key], sort_keys=True) == json.dumps(value, sort_keys=True)
            assert same or payload[key] == value or key.endswith("_at"), (line, key)
        stored += 1
    return refused, stored


def fuzz_reader(count: int, rng: random.Random, home: Path) -> int:
    """Reads and verifies damaged logs; returns how many of them were reported as damaged."""
    whole = home / "whole"
    with EventLog(whole, segment_bytes=2_000) as log:
        for number in range(12):
            log.append(parse_json_line(VALID_LINES[0].replace(b"a-1", b"a-%d" % number)))
    damaged = 0
    for number in range(count):
        copy = home / f"copy-{number}"
        shutil.copytree(whole, copy, symlinks=True)
        for _ in range(rng.choice((1, 1, 2, 4))):
            _damage(rng, copy)
        is_damaged = not _is_whole(copy)
        try:
            with EventLog(copy) as log:
                for _ in log.read():
                    pass
        except EventLogError:
            is_damaged = True
        damaged += is_damaged
        shutil.rmtree(copy)
    shutil.rmtree(whole)
    return damaged


def _is_whole(home: Path) -> bool:
    try:
        return verify(home).ok
    except EventLogError:
        return False


def _damage(rng: random.Random, home: Path) -> None:
    path = rng.choice([p for p in (home / "logs").iterdir() if p.is_file()])
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            del data[at:]
        case 2:
            data[at:at] = os.urandom(rng.choice((1, 80, 70_000)))
        case 3:
            data[at : at + 512] = bytes(512)
        case 4:
            data[at:at] = data[: rng.randrange(len(data) + 1)]
        case 5:
            data[at:at] = rng.choice((b"\n", b"}\n", mutated(rng) + b"\n"))
    path.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--logs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    start_s = time.monotonic()
    refused, stored = fuzz_validation(options.lines, rng)
    print(f"validation: {refused} refused, {stored} stored, {time.monotonic() - start_s:.0f} s")
    with tempfile.TemporaryDirectory() as home:
        damaged = fuzz_reader(options.logs, rng, Path(home))
    print(f"reader: {damaged} of {options.logs} logs reported as damaged, no other failure")
    sys.exit(0)


if __name__ == "__main__":
    main()
