"""Hostile input: refused before a byte is written, or kept and shown harmlessly (W15, S1, S3).

Output for a person, of an entry, a refusal or a file name, has no control characters.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog, EventLogError, InvalidSignal
from tests.harness.command import Done, eventlog, jsonl
from tests.harness.log_checks import assert_valid_log, entries_in, tree_contents
from tests.harness.signals import a_signal, closed

ESCAPES = "\x1b[31mred\x1b[0m\x1b]0;title\x07\x08\x7f\x9b31m\x85"
TEXTS = {
    "ANSI escapes": ESCAPES,
    "bidi override": "\u202egnitset\u2066\u2069",
    "line separators": "a\u2028b\u2029c",
    "zero width": "a\u200bb\ufeff",
    "newlines": "a\nb\r\nc\tINFO faked log line",
    "NUL": "a\0b",
    "SQL": "'; DROP TABLE signals; --",
    "HTML": "<script>alert(1)</script>",
    "CSV": '=HYPERLINK("http://x","y")',
    "path": "../../../../etc/passwd",
    "format": "%s%n{0}{self}$HOME`id`$(id)",
    "JSON": '","seq":1,"chain":"' + "0" * 64 + '"}\n{"v":1,"seq":2,"batch":2,',
    "astral": "\U0001f600\U0010ffff",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def assert_harmless(text: str) -> None:
    """No character that a terminal acts upon: Cc but for the newline, Cf, line separators."""
    for char in text:
        category = unicodedata.category(char)
        assert char == "\n" or category not in ("Cc", "Cf", "Cs", "Zl", "Zp"), (
            f"U+{ord(char):04X} in {text!r}"
        )


def assert_quiet(done: Done) -> None:
    assert_harmless(done.err)
    assert "Traceback" not in done.err


# -- kept as data


def test_any_text_is_stored_unchanged_and_shown_escaped(home: Path) -> None:
    items: list[dict[str, Any]] = []
    for number, text in enumerate(TEXTS.values()):
        items += [
            a_signal(number, note=text, **{f"key {text}": {text: [text]}}),
            {"event": "skipped", "signal_id": f"s-{number}", "reason": text},
            {"event": "x", text: text},
        ]
    done = eventlog("append", home=home, stdin=jsonl(items))
    assert done.code == 0, done.out
    entries = assert_valid_log(home)
    for item, entry in zip(items, entries, strict=True):
        assert {key: entry[key] for key in item if key in TEXTS or key in ("note", "reason")} == {
            key: item[key] for key in item if key in TEXTS or key in ("note", "reason")
        }
    shown = eventlog("tail", "-n", 1000, home=home)
    assert_harmless(shown.out.decode())
    assert len(shown.out.splitlines()) == len(items), "one line an entry"
    assert eventlog("tail", "-n", 1000, "--json", home=home).answers == entries
    for words in (("status",), ("status", "--json"), ("verify",), ("verify", "--json")):
        done = eventlog(*words, home=home)
        assert done.code == 0
        assert_harmless(done.out.decode() + done.err)


def test_a_named_field_never_holds_control_characters(home: Path) -> None:
    fields = ("signal_id", "strategy", "symbol", "data_source")
    cases = [(field, text[:18]) for field in fields for text in TEXTS.values()]
    items = [a_signal(n, **{field: text}) for n, (field, text) in enumerate(cases)]
    done = eventlog("append", "--skip-invalid", home=home, stdin=jsonl(items))
    assert_quiet(done)
    for (field, text), answer in zip(cases, done.answers, strict=True):
        if any(unicodedata.category(char) == "Cc" for char in text.strip()):
            assert answer["field"] == field, (field, text)
        assert_harmless(answer.get("error", ""))
    assert any("seq" in answer for answer in done.answers)
    assert_valid_log(home)
    assert_harmless(eventlog("tail", "-n", 1000, home=home).out.decode())


# -- refused, before a byte is written


def deep(levels: int, *, kind: str = "[]") -> bytes:
    left, right = (b'{"a":', b"}") if kind == "{}" else (b"[", b"]")
    return left * levels + b"1" + right * levels


def with_raw(value: bytes, key: bytes = b'"note"') -> bytes:
    """A valid signal with one more key, written by hand."""
    return json.dumps(a_signal(1)).encode()[:-1] + b"," + key + b":" + value + b"}"


REFUSED = {
    "NaN": with_raw(b"NaN"),
    "Infinity": with_raw(b"Infinity"),
    "-Infinity": with_raw(b"-Infinity"),
    "1e400": with_raw(b"1e400"),
    "2**64": with_raw(b"18446744073709551616"),
    "2**63": with_raw(b"9223372036854775808"),
    "-2**63-1": with_raw(b"-9223372036854775809"),
    "a million digits": with_raw(b"1" * 300_000),
    "nested 2**64": with_raw(b'{"a":[18446744073709551616]}'),
    "a lone surrogate": with_raw(b'"\\ud800"'),
    "a lone surrogate as key": with_raw(b"1", b'"\\udfff"'),
    "a raw NUL": with_raw(b'"a\0b"'),
    "a raw escape": with_raw(b'"\x1b[31m"'),
    "broken UTF-8": with_raw(b'"\xc3\x28"'),
    "overlong UTF-8": with_raw(b'"\xc0\xaf"'),
    "a UTF-8 surrogate": with_raw(b'"\xed\xa0\x80"'),
    "duplicate keys": with_raw(b'1,"note":2'),
    "duplicate known keys": with_raw(b'"MSFT"', b'"symbol"'),
    "duplicate keys, one escaped": with_raw(b'"MSFT"', b'"\\u0073ymbol"'),
    "duplicate keys, nested": with_raw(b'{"a":1,"a":1}'),
    "both names of an alias": with_raw(b"1.0", b'"stop_loss"'),
    "depth 33": with_raw(deep(32)),
    "depth 1,000": with_raw(deep(1_000)),
    "depth 100,000": with_raw(deep(100_000)),
    "depth 50,000 of objects": with_raw(deep(50_000, kind="{}")),
    "a reserved key": with_raw(b"1", b'"seq"'),
    "a chain": with_raw(b'"' + b"0" * 64 + b'"', b'"chain"'),
    "another event name": with_raw(b'"Signal"', b'"event"'),
    "a line above the limit": with_raw(b'"' + b"x" * 65_000 + b'"'),
    "a payload above the limit": with_raw(b'"' + b"\xc3\xa9" * 32_500 + b'"'),
    "two objects": json.dumps(a_signal(1)).encode() * 2,
    "a BOM": b"\xef\xbb\xbf" + json.dumps(a_signal(1)).encode(),
    "a comment": json.dumps(a_signal(1)).encode() + b" // x",
    "single quotes": b"{'symbol': 'AAPL'}",
    "a trailing comma": json.dumps(a_signal(1)).encode()[:-1] + b",}",
    "a hash that does not match": with_raw(b'"' + b"0" * 64 + b'"', b'"sha256"'),
}


def test_an_item_that_cannot_be_stored_is_refused_before_a_byte_is_written(home: Path) -> None:
    eventlog("append", home=home, stdin=jsonl([a_signal(0)]))
    before = tree_contents(home)
    done = eventlog("append", "--skip-invalid", home=home, stdin=jsonl(REFUSED.values()))
    assert done.code == 1
    for (name, _), answer in zip(REFUSED.items(), done.answers, strict=True):
        assert answer.get("field") and answer["error"], name
        assert len(answer["error"]) < 400, f"{name}: a value is cut"
        assert_harmless(answer["error"])
    assert_quiet(done)
    assert tree_contents(home) == before


class Odd:
    """An object whose every answer is a trap."""

    def __repr__(self) -> str:
        raise RuntimeError("boom")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("boom")

    __hash__ = None  # type: ignore[assignment]


ODD_ITEMS: list[Any] = [
    *(None, 1, "text", b"bytes", [], object(), Odd(), {}, {1: 2}, {None: 1}, {"event": None}),
    a_signal(1, note=Odd()),
    a_signal(1, note={1: 2}),
    a_signal(1, note={"a": {1, 2}}),
    a_signal(1, note=b"bytes"),
    a_signal(1, note=float("nan")),
    a_signal(1, note=[float("inf")]),
    a_signal(1, note=2**63),
    a_signal(1, note="\ud800"),
    a_signal(1, symbol=Odd()),
    a_signal(1, entry_price=True),
    a_signal(1, entry_price="150"),
    a_signal(1, entry_price=float("nan")),
    a_signal(1, confidence=0.85),
    a_signal(1, timestamp="2025-11-18T02:00:00"),
    a_signal(1, signal_id=""),
]


@pytest.mark.parametrize("index", range(len(ODD_ITEMS)))
def test_any_invalid_python_object_is_refused_with_an_eventlog_error(
    home: Path, index: int
) -> None:
    with EventLog(home) as log:
        with pytest.raises(InvalidSignal) as raised:
            log.append(ODD_ITEMS[index])
        assert_harmless(str(raised.value))
        assert raised.value.field
    assert not home.exists()


def test_a_payload_that_contains_itself_is_refused(home: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with EventLog(home) as log, pytest.raises(InvalidSignal, match="nested deeper"):
        log.append(a_signal(1, note=loop))


# -- shown elsewhere


def test_errors_contain_no_control_characters_of_the_input(home: Path) -> None:
    hostile = {"signal_id": "s-1", "event": ESCAPES}
    cases: list[dict[str, Any]] = [
        hostile,
        a_signal(1, **{ESCAPES: 2**64}),
        a_signal(1, action=ESCAPES),
        a_signal(1, timestamp=ESCAPES),
        a_signal(1, entry_price=ESCAPES),
        a_signal(1, sha256=ESCAPES),
        closed(1, outcome=ESCAPES),
        closed(1, exit_price=ESCAPES),
        {"event": "closed", "signal_id": ESCAPES, "exit_price": 1},
    ]
    with EventLog(home) as log:
        for item in cases:
            with pytest.raises(EventLogError) as raised:
                log.append(item)
            assert_harmless(str(raised.value))
    done = eventlog("append", "--skip-invalid", home=home, stdin=jsonl(cases))
    assert len(done.answers) == len(cases)
    assert_quiet(done)
    for answer in done.answers:
        assert_harmless(answer["error"])


@pytest.mark.parametrize("command", ["append", "cat", "repair", "status", "tail", "verify"])
def test_hostile_file_names_are_shown_escaped(home: Path, command: str) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    (home / "logs" / f"{ESCAPES}.jsonl").write_bytes(b"x")
    done = eventlog(command, home=home, stdin=jsonl([a_signal(2)]))
    assert done.code in (1, 3)
    assert_quiet(done)
    assert_harmless(done.out.decode())


def test_a_hostile_home_path_is_shown_escaped(tmp_path: Path) -> None:
    home = tmp_path / ESCAPES
    for words in (("cat",), ("verify",), ("status",), ("append", f"no {ESCAPES}")):
        assert_quiet(eventlog(*words, home=home))
    done = eventlog("append", home=home, stdin=jsonl([a_signal(1)]))
    assert done.code == 0
    assert len(entries_in(home)) == 1


def test_a_forged_line_in_the_log_is_shown_escaped(home: Path) -> None:
    with EventLog(home) as log:
        log.append_many([a_signal(1), a_signal(2)])
    segment = home / "logs/00000000000000000001.jsonl"
    forged = segment.read_bytes().replace(b'"AAPL"', f'"{ESCAPES}"'.encode(), 1)
    segment.write_bytes(forged)
    for words in (("cat",), ("tail",), ("verify",)):
        done = eventlog(*words, home=home)
        assert done.code in (1, 3)
        assert_quiet(done)
        if words != ("cat",):
            assert_harmless(done.out.decode())


# -- edited by a person who knows the format (R9)


def rechained(line: bytes, chain: bytes) -> bytes:
    """The line with the chain that it must have after a line with `chain`."""
    body = line[: line.rindex(b',"chain":"')]
    return b'%b,"chain":"%b"}\n' % (body, hashlib.sha256(chain + body).hexdigest().encode())


def chain_of(line: bytes) -> bytes:
    return line[-67:-3]


EDITS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "deleted": lambda lines: [*lines[:2], *lines[3:]],
    "given twice": lambda lines: [*lines[:3], *lines[2:]],
    "swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "edited": lambda lines: [line.replace(b"153.0", b"999.0") for line in lines],
    "edited and chained anew": lambda lines: [
        *lines[:2],
        rechained(lines[2].replace(b"153.0", b"999.0"), chain_of(lines[1])),
        *lines[3:],
    ],
    "put in": lambda lines: [
        *lines[:2],
        rechained(lines[2].replace(b"s-3", b"s-x"), chain_of(lines[1])),
        *lines[2:],
    ],
    "cut off": lambda lines: lines[:4],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_lines_are_found(home: Path, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    with EventLog(home) as log:
        for number in range(1, 7):
            log.append(a_signal(number))
    (home / "logs/.lock").unlink()  # as after a reboot: nothing in memory knows better
    segment = home / "logs/00000000000000000001.jsonl"
    before = segment.read_bytes().splitlines(keepends=True)
    after = edit(before)
    assert after != before
    segment.write_bytes(b"".join(after))
    done = eventlog("verify", "--json", home=home)
    assert (done.code, done.answers[0]["ok"]) == (1, False)
    assert done.answers[0]["findings"][0]["seq"] in (3, 4, 5)


# -- secrets (S3)


def test_the_write_side_never_shows_a_key(home: Path) -> None:
    """It has no use for one: what stands in the environment of a generator stays there."""
    key = "sk-very-secret-0123456789"
    names = ("ALPINE_API_KEY", "ARGO_API_KEY", "EXTERNAL_SIGNAL_API_KEY")
    env = {**dict.fromkeys(names, key), "ALPINE_API_KEY_FILE": str(home / "key")}
    stdin = jsonl([a_signal(1), a_signal(2, action=None), b"nonsense"])
    for words in (("append", "--skip-invalid"), ("tail",), ("status",), ("verify",), ("nonsense",)):
        done = eventlog("-vv", *words, home=home, stdin=stdin, env=env)
        assert key not in done.err + done.out.decode()
    assert not any(key.encode() in path.read_bytes() for path in (home / "logs").iterdir())


def test_messages_never_hold_a_payload(home: Path) -> None:
    secret = "a reason that is private"
    eventlog("append", home=home, stdin=jsonl([a_signal(1, reasoning=secret)]))
    with (home / "logs/00000000000000000001.jsonl").open("ab") as segment:
        segment.write(secret.encode())
    done = eventlog("-vv", "append", home=home, stdin=jsonl([a_signal(2, reasoning=secret)]))
    assert re.search("torn_tail_cut", done.err) and secret not in done.err
    assert os.linesep + secret not in done.out.decode()
