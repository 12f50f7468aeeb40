"""The fast path of verify accepts ordinary lines, and none that the full rules refuse."""

import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventlog.format.line import CHAIN_BYTES, CHAIN_START, LINE_BYTES_MAX, encode
from eventlog.format.scan import TIP_START, Tip
from eventlog.schema import stored
from eventlog.schema.signal import FIELD_RULES
from eventlog.schema.stored import problem_in_line
from eventlog.verify.fast_path import verify_lines_fast
from eventlog.verify.line_verifier import LineVerifier, verify_lines
from tests.harness import histories
from tests.harness.log_checks import HASHED_FIELDS, content_sha256

AT = "2025-11-18T02:00:00.123456Z"
FIELDS: dict[str, Any] = {
    "signal_id": "s-1",
    "symbol": "AAPL",
    "action": "BUY",
    "entry_price": 150.5,
    "target_price": 158.25,
    "stop_price": 0.5,
    "confidence": 85.0,
    "strategy": "momentum",
    "asset_type": "stock",
    "data_source": "x",
    "timestamp": "2025-11-18T02:00:00.000000+00:00",
}


def body_of(**changes: Any) -> bytes:
    fields = {**FIELDS, **changes}
    fields["sha256"] = content_sha256(fields)
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()[1:-1]


def a_line(
    body: bytes, *, seq: int = 1, batch: int = 1, chain: str = CHAIN_START, at: str = AT
) -> bytes:
    line, _ = encode("signal", body, seq=seq, batch=batch, recorded_at=at, prev_chain=chain)
    return line


def full_verdict(lines: list[bytes], tip: Tip = TIP_START) -> Tip | None:
    """The result by the full rules."""
    verifier = LineVerifier(tip)
    return None if any(verifier.check(line) is not None for line in lines) else verifier.tip


def test_a_usual_signal_takes_the_fast_path() -> None:
    for changes in (
        {},
        {"reasoning": "Momentum and volume confirm.", "regime": "QUIET", "sources_count": 4},
        {"reasoning": 'a "quote", a \n newline, an ümlaut', "sources": ["a", "b"], "x": {"y": 1}},
        {"confidence": 0.0, "entry_price": 1234567.12345678, "stop_price": 0.0001},
    ):
        lines = [a_line(body_of(**changes))]
        assert verify_lines_fast(lines, TIP_START) == full_verdict(lines) is not None


@pytest.mark.slow
@given(histories.histories())
def test_the_fast_path_and_the_full_rules_agree_on_written_lines(
    history: list[histories.Item],
) -> None:
    tip = TIP_START
    lines = []
    for event, payload in history:
        body = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()[1:-1]
        line, chain = encode(
            event, body, seq=tip.seq + 1, batch=tip.seq + 1, recorded_at=AT, prev_chain=tip.chain
        )
        tip = Tip(tip.seq + 1, tip.seq + 1, AT, chain)
        lines.append(line)
    verdict = full_verdict(lines)
    assert verify_lines_fast(lines, TIP_START) in (verdict, None)
    assert verify_lines(lines, TIP_START) == verdict


# What an attacker would do: change the text, then make both hashes fit what the fast way sees.

PIECES = [
    *(b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b" ", b"\t", b"\x7f", b"\x00", b"\r"),
    *(
        b"0",
        b"1",
        b".",
        b"-",
        b"e5",
        b"E",
        b"00",
        b".0",
        b"0.00001",
        b"\xc3\xbc",
        b"\xff",
        b"\\u0041",
    ),
    *(b',"', b'":', b'","', b',"symbol":"X"', b',"a":1', b',"a":1,"a":2', b'"a" :1', b',"seq":9'),
    *(b',"sha256":"', b',"chain":"', b'"}', b"null", b"true", b"NaN", b"9" * 20, b"[" * 40),
]
edits = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.sampled_from(PIECES)),
    min_size=1,
    max_size=3,
)


def hashed_as_seen(body: bytes) -> bytes:
    """The body with the sha256 that the fast way computes of it, right or wrong."""
    head = a_line(b"")[:-CHAIN_BYTES] + b","
    seen = stored.SIGNAL_LINE_PATTERN.match(head + body)
    digest = "0" * 64
    if seen is not None:
        _, _, _, signal_id, symbol, action, entry, target, stop, confidence, strategy, at = (
            seen.groups()
        )
        text = stored.CANONICAL_FORMAT % (
            *(action, confidence, entry, signal_id, stop, strategy, symbol, target, at),
        )
        digest = hashlib.sha256(text).hexdigest()
    return body + b',"sha256":"%b"' % digest.encode()


@given(edits, st.booleans())
@example([(0, 0, b"")], False)
def test_lines_that_the_fast_path_accepts_pass_the_full_rules(
    edits: list[tuple[int, int, bytes]], has_more: bool
) -> None:
    more = {"regime": "QUIET", "reasoning": "because, as ever", "n": 7} if has_more else {}
    body = body_of(**more).rpartition(b',"sha256"')[0]
    for place, length, piece in edits:
        start = place % (len(body) + 1)
        body = body[:start] + piece + body[start + length :]
    lines = [a_line(hashed_as_seen(body.replace(b"\n", b"")))]
    quickly = verify_lines_fast(lines, TIP_START)
    assert quickly is None or quickly == full_verdict(lines)


@pytest.mark.slow
def test_edited_lines_that_the_fast_path_accepts_pass_the_full_rules() -> None:
    rng = random.Random(1)
    passed = 0
    whole = body_of(regime="QUIET", reasoning="because, as ever").rpartition(b',"sha256"')[0]
    for _ in range(100_000):
        body = whole
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(body) + 1)
            body = body[:start] + rng.choice(PIECES) + body[start + rng.randrange(3) :]
        lines = [a_line(hashed_as_seen(body))]
        quickly = verify_lines_fast(lines, TIP_START)
        if quickly is not None:
            passed += 1
            assert quickly == full_verdict(lines), lines
    assert passed > 1000


def test_a_quote_that_ends_one_member_and_starts_the_next_is_refused() -> None:
    body = body_of().rpartition(b',"sha256"')[0]
    assert body.endswith(b'+00:00"')
    # "timestamp":"...,"sha256":"...": to the pattern a whole string, to the tail a whole member
    shared = hashed_as_seen(body[:-1] + b',"').replace(b',","sha256":', b',"sha256":')
    assert shared.count(b'+00:00,"sha256":"') == 1
    lines = [a_line(shared)]
    assert verify_lines_fast(lines, TIP_START) is None
    assert full_verdict(lines) is None


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        (TIP_START, {"seq": 2, "batch": 2}),
        (TIP_START, {"batch": 2}),
        (TIP_START, {"at": "2025-11-18T02:00:00Z"}),
        (TIP_START, {"chain": "1" * 64}),
        (Tip(4, 3, AT, CHAIN_START), {"seq": 5, "batch": 4}),
        (Tip(4, 3, "2026-01-01T00:00:00.000000Z", CHAIN_START), {"seq": 5, "batch": 5}),
    ],
)
def test_a_line_that_does_not_continue_the_chain_is_refused(
    before: Tip, changes: dict[str, Any]
) -> None:
    lines = [a_line(body_of(), **changes)]
    assert verify_lines_fast(lines, before) is None
    assert verify_lines(lines, before) is None


def test_a_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    short = len(a_line(body_of(x="")))
    for length, is_good in ((LINE_BYTES_MAX, True), (LINE_BYTES_MAX + 1, False)):
        lines = [a_line(body_of(x="y" * (length - short)))]
        assert len(lines[0]) == length
        assert (verify_lines(lines, TIP_START) is not None) == is_good


def test_the_layout_names_all_fields_of_a_signal_and_the_hash_its_nine() -> None:
    assert set(FIELD_RULES) | {"sha256"} <= stored._KNOWN_KEYS
    keys = [
        key for key in sorted(HASHED_FIELDS) if f'"{key}": %b'.encode() in stored.CANONICAL_FORMAT
    ]
    assert keys == sorted(HASHED_FIELDS)


def test_facts_and_unknown_events_have_no_reported_problem() -> None:
    for event in ("closed", "tick"):
        line, _ = encode(event, b"", seq=1, batch=1, recorded_at=AT, prev_chain=CHAIN_START)
        assert problem_in_line(line) is None
