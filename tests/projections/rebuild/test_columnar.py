"""Columnar rows equal, byte for byte, the rows that `prepare` gives."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.errors import InvalidSignal
from eventlog.format.line import decode, encode
from eventlog.format.scan import TIP_START
from eventlog.read.columns import read_columns
from eventlog.schema.validation import validate
from projections.rebuild.columnar import ColumnarRows, read_rows
from projections.signals.digest import digest_line
from projections.signals.fold import PreparedBatch, prepare
from tests.harness.histories import JUNK, Item, signals, with_sha256
from tests.harness.signals import a_signal

NOW = "2025-11-18T02:00:00.000000+00:00"


def lines_of(payloads: list[dict[str, Any]]) -> list[bytes]:
    """A log of these signals; valid payloads pass validation, as in an append."""
    lines: list[bytes] = []
    chain = "0" * 64
    for seq, payload in enumerate(payloads, 1):
        body = orjson.dumps(payload)[1:-1]
        moment = f"2025-11-18T02:00:{seq % 60:02}.123456Z"
        line, chain = encode(
            "signal", body, seq=seq, batch=seq, recorded_at=moment, prev_chain=chain
        )
        lines.append(line)
    return lines


def both_paths(lines: list[bytes]) -> tuple[ColumnarRows, PreparedBatch]:
    """The columnar rows, and what `prepare` makes of the same lines."""
    found = read_columns(b"".join(lines), TIP_START)
    assert found is not None
    rows = read_rows(found.signals)
    taken = [line for line in found.signals.line if line not in rows.remaining]
    parts = [prepare([decode(line)], after=decode(line).seq - 1) for line in taken]
    assert all(not part.conflicts and not part.facts for part in parts)
    signals = [row for part in parts for row in part.signals]
    extras = [row for part in parts for row in part.extras]
    return rows, PreparedBatch(signals, extras, [], [], [])


def assert_same(rows: ColumnarRows, prepared: PreparedBatch) -> None:
    texts = {seq: extra for seq, _, extra in prepared.extras}
    expected = [
        (
            digest_line((*row[:12], None, None, None, row[12], None, row[13])).encode(),
            list(row),
            texts.get(row[0]),
        )
        for row in prepared.signals
    ]
    values = [json.loads(b"[%b]" % row) for row in rows.values]
    assert list(zip(rows.lines, values, rows.extras, strict=True)) == expected
    assert values == [orjson.loads(b"[%b]" % row) for row in rows.values]


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(signals(), min_size=1, max_size=8))
def test_a_columnar_row_equals_the_row_of_the_full_path_to_the_byte(history: list[Item]) -> None:
    assert_same(*both_paths(lines_of([payload for _, payload in history])))


@pytest.mark.slow
@settings(max_examples=150)
@given(st.data())
def test_every_valid_signal_gives_the_same_row_on_both_paths(data: st.DataObject) -> None:
    keys = st.sampled_from(["reasoning", "regime", "salt", "consensus_agreement", "a", "ü", 'q"'])
    values = st.one_of(
        st.text(max_size=20),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([None, True, False, [1, 0.1], {"b": {"c": 1e16}}, 0.83, 1e16, 150.0]),
    )
    lines: list[bytes] = []
    chain = "0" * 64
    for seq in range(1, 6):
        extra = data.draw(st.dictionaries(keys, values, max_size=3))
        confidence = data.draw(st.sampled_from([0, 0.0, 1.5, 100, 85.25]))
        try:
            validated = validate(
                a_signal(seq, confidence=confidence, **extra),
                now=lambda: NOW,
                new_id=lambda: "unused",
            )
        except InvalidSignal:
            continue
        line, chain = encode(
            "signal",
            validated.body,
            seq=len(lines) + 1,
            batch=len(lines) + 1,
            recorded_at="2025-11-18T02:00:00.123456Z",
            prev_chain=chain,
        )
        lines.append(line)
    if lines:
        assert_same(*both_paths(lines))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"salt": "0" * 32}, None),
        ({"salt": 7}, None),
        ({"salt": [[1]]}, None),
        ({"a": 1, "salt": "0f" * 16}, '{"a":1}'),
        ({"salt": "0f" * 16, "a": 1}, '{"a":1}'),
        ({"salt": "short", "a": "b"}, '{"a":"b"}'),
        ({"salt": "0f" * 16, "a": {"b": 1}}, '{"a":{"b":1}}'),
        ({"a": {"b": 1, "salt": "0f" * 16}}, None),  # nested, so it is another key
        ({"a": ',"salt":"' + "0f" * 16}, None),
        ({"a": 'x,"salt":"' + "0f" * 15, "salt": "0f" * 16}, None),
        ({"salt": 'e"nd', "salted": "0f" * 16}, '{"salted":"%s"}' % ("0f" * 16)),
    ],
)
def test_a_salt_is_no_extra_on_either_path(extra: dict[str, object], expected: str | None) -> None:
    validated = validate(a_signal(1, **extra), now=lambda: NOW, new_id=lambda: "unused")
    payload = orjson.loads(b"{%b}" % validated.body)
    rows, prepared = both_paths(lines_of([payload]))
    assert_same(rows, prepared)
    (found,) = rows.extras
    kept = {key: value for key, value in extra.items() if key != "salt"}
    assert (None if found is None else json.loads(found)) == (kept or None)
    if expected is not None:
        assert found == expected


def test_nearly_all_validated_signals_take_the_columnar_path() -> None:
    payloads = [
        with_sha256(
            {
                **a_signal(number, timestamp="2025-11-18T02:00:00.000000+00:00"),
                "asset_type": "stock",
                "data_source": "weighted_consensus",
            }
        )
        for number in range(1, 20)
    ]
    order = (
        *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
        *("confidence", "strategy", "asset_type", "data_source", "timestamp", "sha256"),
    )
    rows, prepared = both_paths(lines_of([{key: p[key] for key in order} for p in payloads]))
    assert (len(rows.lines), list(rows.remaining)) == (19, [])
    assert_same(rows, prepared)


FIELDS = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
    *("confidence", "strategy", "asset_type", "data_source", "timestamp"),
)
ODD = [*JUNK, 0.0, 1e-7, "2025-13-01T00:00:00.000000+00:00", "2025-11-18T23:59:60.000000+00:00"]


@pytest.mark.parametrize("key", FIELDS)
def test_only_lines_that_the_rules_refuse_are_left_to_the_full_path(key: str) -> None:
    good = with_sha256(
        {
            **a_signal(1, timestamp=NOW),
            "asset_type": "stock",
            "data_source": "x",
        }
    )
    order = (*FIELDS, "sha256")
    for odd in ODD:
        bad = with_sha256({**good, "signal_id": "b", key: odd})
        payloads = [{**good, "signal_id": f"g{n}"} for n in (1, 2)]
        payloads = [with_sha256(p) for p in payloads]
        payloads.insert(1, bad)
        lines = lines_of([{k: p[k] for k in order} for p in payloads])
        found = read_columns(b"".join(lines), TIP_START)
        if found is None:  # the hash covers an integer for a float: only the full rules accept it
            continue
        rows = read_rows(found.signals)
        refused = bool(prepare([decode(lines[1])], after=1).conflicts)
        is_taken = any(line.startswith(b"[2,") for line in rows.lines)
        assert not (refused and is_taken), f"{key}={odd!r} has passed"
        assert {line[:3] for line in rows.lines} >= {b"[1,", b"[3,"}
