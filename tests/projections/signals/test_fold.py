"""The fold: for any log and any division into batches, the tables equal the model's."""

import json
import marshal
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import product

import orjson
import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import Entry
from eventlog.schema.validation import validate
from projections.signals import payloads, schema
from projections.signals.digest import digest
from projections.signals.fold import (
    PreparedBatch,
    fact_ids,
    ids_json,
    prepare,
    resolve,
    signal_ids,
    statements,
    states_of,
)
from tests.harness import model
from tests.harness.histories import (
    JUNK,
    Item,
    broken,
    entries_of,
    histories,
    signals,
    with_sha256,
)

Apply = Callable[[sqlite3.Connection, Sequence[Entry], int], None]

SIGNAL: Item = (
    "signal",
    with_sha256(
        {
            "signal_id": "a",
            "symbol": "AAPL",
            "action": "BUY",
            "entry_price": 100.0,
            "target_price": 110.0,
            "stop_price": 90.0,
            "confidence": 85.5,
            "strategy": "s",
            "asset_type": "stock",
            "data_source": "weighted_consensus",
            "timestamp": "2025-11-18T02:00:00.000000+00:00",
        }
    ),
)


def signal(**other: object) -> Item:
    return "signal", with_sha256({**SIGNAL[1], **other})


def fact(event: str, **keys: object) -> Item:
    return event, {"signal_id": "a", **keys}


FACTS: dict[str, dict[str, object]] = {
    "executed": {"executed_at": SIGNAL[1]["timestamp"], "fill_price": 1.5, "order_id": "o"},
    "skipped": {"reason": "r"},
    "expired": {"reason": "r"},
    "cancelled": {"reason": "r"},
    "closed": {"exit_price": 95.0, "outcome": "loss", "profit_loss_pct": -5.0},
}


# two ways to apply a batch


def execute(db: sqlite3.Connection, prepared: PreparedBatch, ids: set[str]) -> None:
    states = states_of(db.execute(schema.SELECT_STATES, (ids_json(ids),)).fetchall())
    for statement, rows in statements(resolve(prepared, states)):
        db.executemany(statement, rows)


def apply_as_projection(db: sqlite3.Connection, entries: Sequence[Entry], after: int) -> None:
    """Folds as the live projection does: it reads the states of all signals of a batch."""
    prepared = prepare(entries, after=after)
    execute(db, prepared, signal_ids(prepared))


def apply_as_rebuild(db: sqlite3.Connection, entries: Sequence[Entry], after: int) -> None:
    """Folds as a rebuild does: the UNIQUE column finds duplicate signals."""
    prepared = PreparedBatch(*marshal.loads(marshal.dumps([*prepare(entries, after=after)])))
    try:
        execute(db, prepared, fact_ids(prepared))
    except sqlite3.IntegrityError:
        db.execute("DELETE FROM signals WHERE id > ?", (after,))
        execute(db, prepared, signal_ids(prepared))


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for statement in schema.TABLES:
        db.execute(statement)
    return db


def tables_of(db: sqlite3.Connection) -> model.Tables:
    return model.Tables(
        signals=[list(row) for row in db.execute(schema.SELECT_SIGNALS)],
        extras=dict(db.execute("SELECT signal_id, extra FROM signal_extras")),
        lifecycle=db.execute("SELECT * FROM lifecycle ORDER BY seq").fetchall(),
        conflicts=db.execute("SELECT * FROM conflicts ORDER BY seq").fetchall(),
    )


def fold(
    entries: Sequence[Entry], *, cuts: Sequence[int] = (), apply: Apply = apply_as_projection
) -> tuple[model.Tables, str]:
    """The SQLite tables after these entries, cut into batches at `cuts`, and their digest."""
    with closing(database()) as db:
        after = 0
        ends = sorted({min(cut, len(entries)) for cut in cuts} | {len(entries)})
        for start, end in zip([0, *ends], ends, strict=False):
            apply(db, entries[start:end], after)
            after = entries[end - 1].seq if end else 0
        return tables_of(db), digest(db.execute(schema.SELECT_SIGNALS))


def folded(*items: Item) -> model.Tables:
    return fold(entries_of(items))[0]


# properties


@pytest.mark.slow
@pytest.mark.parametrize("apply", [apply_as_projection, apply_as_rebuild])
@settings(max_examples=200)
@given(
    history=histories(),
    gaps=st.sets(st.integers(0, 30), max_size=3),
    cuts=st.lists(st.integers(0, 34), max_size=6),
)
def test_the_tables_equal_the_model_for_any_batches(
    apply: Apply, history: list[Item], gaps: set[int], cuts: list[int]
) -> None:
    entries = entries_of(history, gaps=sorted(gaps))
    expected = model.fold(entries)
    tables, digest = fold(entries, cuts=cuts, apply=apply)
    for _, _, reason in expected.conflicts:
        note(reason if "damaged" not in reason else "a gap")
    assert tables == expected
    assert digest == expected.digest()


@settings(max_examples=300)
@given(signals() | broken())
def test_the_fast_path_for_a_signal_agrees_with_the_rules(item: Item) -> None:
    (entry,) = entries_of([("signal", item[1])])
    quick = payloads._stored_values(entry.payload)
    if quick is not None:
        assert quick == payloads._read_signal_values(entry.payload)


@pytest.mark.slow
@settings(max_examples=300)
@given(broken())
def test_every_entry_of_a_known_event_becomes_rows_or_a_conflict_with_its_reason(
    item: Item,
) -> None:
    tables = folded(SIGNAL, item)
    assert len(tables.lifecycle) + len(tables.conflicts) == 2


@pytest.mark.parametrize(
    "item",
    [SIGNAL, *[fact(event, **keys) for event, keys in FACTS.items()]],
    ids=["signal", *FACTS],
)
def test_each_key_of_each_known_event_may_hold_anything(item: Item) -> None:
    event, payload = item
    for key, junk in product([*payload, "more"], JUNK):
        entries = entries_of([SIGNAL, (event, {**payload, key: junk}), item])
        assert fold(entries)[0] == model.fold(entries), (key, junk)


@given(histories())
def test_extras_and_details_are_json_to_sqlite_too_and_keep_every_value(
    history: list[Item],
) -> None:
    entries = entries_of(history)
    with closing(database()) as db:
        apply_as_projection(db, entries, 0)
        query = "SELECT rowid, signal_id, extra FROM signal_extras WHERE json_valid(extra)"
        kept = {row[0]: row for row in db.execute(query)}
        assert len(kept) == db.execute("SELECT count(*) FROM signal_extras").fetchone()[0]
        details = "SELECT count(detail), coalesce(sum(json_valid(detail)), 0) FROM lifecycle"
        written, valid = db.execute(f"{details} WHERE detail IS NOT NULL").fetchone()
        assert written == valid
    for entry in entries:
        if entry.seq in kept:
            _, signal_id, extra = kept[entry.seq]
            assert signal_id == entry.payload["signal_id"]
            given = {k: v for k, v in entry.payload.items() if k not in payloads.SIGNAL_RULES}
            assert repr(json.loads(extra)) == repr(given)  # repr differs for 1, 1.0 and True


@given(histories(malformed=False))
def test_a_history_without_malformed_items_passes_validation_unchanged(
    history: list[Item],
) -> None:
    for event, payload in history:
        validated = validate({"event": event, **payload}, now=str, new_id=str)
        assert (validated.event, orjson.loads(b"{%b}" % validated.body)) == (event, payload)


# examples: one for each reason, and the shape of rows


def test_a_row_carries_seq_as_its_id_and_the_second_of_its_recording() -> None:
    (row,) = folded(("note", {}), signal(reasoning="ü")).signals
    assert row == [
        *(2, "a", "AAPL", "BUY", 100.0, 110.0, 90.0, 85.5, "s", "stock", "weighted_consensus"),
        *("2025-11-18T02:00:00.000000+00:00", None, None, None, SIGNAL[1]["sha256"], None),
        "2025-11-18 02:00:00",
    ]


def test_every_applied_fact_is_in_the_lifecycle_with_its_other_keys() -> None:
    tables = folded(
        signal(reasoning="why"),
        fact("executed", fill_price=100.5, order_id="o-1"),
        fact("closed", exit_price=111),
    )
    assert tables.lifecycle == [
        (1, "a", "signal", "2025-11-18T02:00:00.000000Z", None),
        (
            2,
            "a",
            "executed",
            "2025-11-18T02:00:00.000000Z",
            '{"fill_price":100.5,"order_id":"o-1"}',
        ),
        (3, "a", "closed", "2025-11-18T02:00:00.000000Z", '{"exit_price":111}'),
    ]
    assert tables.extras == {"a": '{"reasoning":"why"}'}
    assert tables.signals[0][12:17] == ["win", 111.0, 11.0, SIGNAL[1]["sha256"], "o-1"]
    assert tables.conflicts == []


def test_values_given_by_closed_are_stored_and_not_computed() -> None:
    tables = folded(SIGNAL, fact("closed", exit_price=111.0, outcome="loss", profit_loss_pct=-0.5))
    assert tables.signals[0][12:15] == ["loss", 111.0, -0.5]


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([fact("executed", order_id="o")], "unknown signal"),
        ([fact("expired"), SIGNAL], "unknown signal"),
        ([SIGNAL, signal(note="new")], "duplicate signal_id with the same content"),
        ([SIGNAL, signal(confidence=99.0)], "duplicate signal_id with other content"),
        ([SIGNAL, fact("skipped", reason="r"), fact("closed", exit_price=1.0)],
         "illegal move skipped -> closed"),
        ([SIGNAL, fact("executed", order_id="o"), fact("executed", order_id="p")],
         "illegal move executed -> executed"),
        ([SIGNAL, fact("closed", exit_price=1.0), fact("closed", exit_price=1.0)],
         "illegal move closed -> closed"),
        ([signal(entry_price=5e-324), fact("closed", exit_price=1e308)],
         "profit_loss_pct is not finite"),
        ([("signal", {})], "signal_id is missing"),
        ([signal(signal_id="a\x00")], "signal_id is not 1 to 128 printable characters"),
        ([signal(symbol=None)], "symbol is missing"),
        ([signal(entry_price="100")], "entry_price is not a finite number above 0"),
        ([signal(confidence=0.85)], "confidence is not a percent: 0, or above 1 up to 100"),
        ([signal(timestamp="2025-11-18T02:00:00Z")], "timestamp is not a time in stored form"),
        ([SIGNAL, fact("skipped")], "reason is missing"),
        ([SIGNAL, fact("closed", exit_price=1.0, outcome="draw")],
         "outcome is not win, loss or expired"),
    ],
)  # fmt: skip
def test_an_entry_that_does_not_fit_is_one_conflict_with_its_reason(
    items: list[Item], reason: str
) -> None:
    tables = folded(*items)
    assert [said for _, _, said in tables.conflicts] == [reason]
    assert len(tables.lifecycle) == len(items) - 1


@pytest.mark.parametrize("value", [1e-05, 9.968574844719817e-05, 1e16, 1.5e300, -0.0, 85.0])
def test_floats_in_extras_are_written_as_python_writes_them(value: float) -> None:
    """orjson writes some floats differently, depending on its release."""
    assert folded(signal(regime=value)).extras == {"a": f'{{"regime":{value!r}}}'}


def test_no_number_in_a_row_is_negative_zero() -> None:
    entries = entries_of(
        [signal(confidence=-0.0), fact("closed", exit_price=100.0, profit_loss_pct=-0.0)]
    )
    prepared = prepare(entries, after=0)
    assert "-0.0" not in repr([prepared.signals, resolve(prepared, {}).outcomes])


def test_the_first_of_two_signals_is_kept_with_its_own_extras() -> None:
    tables = folded(signal(note="first"), signal(note="second"))
    assert tables.extras == {"a": '{"note":"first"}'}
    assert [row[0] for row in tables.signals] == [1]


def test_a_gap_is_one_conflict_at_its_first_seq() -> None:
    tables, _ = fold(entries_of([SIGNAL, *[("note", {})] * 5], gaps=[1, 2, 3]), cuts=[1])
    assert tables.conflicts == [(2, None, "entries 2 to 4 are damaged in the log")]


def test_entries_out_of_order_raise_an_error() -> None:
    entries = entries_of([("note", {})] * 3)
    with pytest.raises(ValueError, match="entry 1 comes after entry 1"):
        prepare(entries, after=1)


def test_unknown_events_leave_no_trace() -> None:
    assert (
        folded(("note", dict(SIGNAL[1])), ("executed.late", {"signal_id": "a"})) == model.Tables()
    )
