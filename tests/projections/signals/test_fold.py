"""The fold: for any log and any division into batches, the tables equal the model's."""

import json
from collections.abc import Sequence
from contextlib import closing
from itertools import product

import orjson
import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.schema.validation import validate
from projections.errors import ProjectionError
from projections.signals import payloads
from projections.signals.fold import prepare, resolve
from projections.signals.states import held_facts
from tests.harness import model
from tests.harness.folding import (
    Apply,
    apply_as_projection,
    apply_as_rebuild,
    database,
    fold,
)
from tests.harness.histories import (
    JUNK,
    Item,
    broken,
    entries_of,
    histories,
    signals,
    with_sha256,
)

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


SIGNAL_AT = "2025-11-18T02:00:00.000000Z"  # recorded_at of the first three entries


def signal(**other: object) -> Item:
    return "signal", with_sha256({**SIGNAL[1], **other})


def fact(event: str, **keys: object) -> Item:
    return event, {"signal_id": "a", **keys}


FACTS: dict[str, dict[str, object]] = {
    "executed": {"executed_at": SIGNAL[1]["timestamp"], "fill_price": 1.5, "order_id": "o"},
    "skipped": {"reason": "r"},
    "expired": {"reason": "r"},
    "cancelled": {"reason": "r"},
    "reduced": {"exit_price": 105.0, "fraction": 0.25, "part": 1},
    "closed": {"exit_price": 95.0, "outcome": "loss", "profit_loss_pct": -5.0},
    "voided": {"reason": "r", "voids": 2},
}


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


@pytest.mark.slow
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
    at = "2025-11-18T02:00:00.000000Z"
    detail = '{"fill_price":100.5,"order_id":"o-1"}'
    closed = ("o-1", "win", 111.0, 11.0, 2, 3)  # the values after the entry
    assert tables.lifecycle == [
        (1, "a", "signal", at, None, 1, "open", None, None, None, None, None, None),
        (2, "a", "executed", at, detail, 2, "executed", "o-1", None, None, None, 2, None),
        (3, "a", "closed", at, '{"exit_price":111}', 3, "closed", *closed),
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
        ([fact("executed", order_id="o")], "no such signal yet"),
        ([SIGNAL, ("expired", {"signal_id": "b"})], "no such signal yet"),
        ([fact("skipped", reason="r"), fact("closed", exit_price=1.0), SIGNAL],
         "illegal move skipped -> closed"),
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
         "outcome is not win, loss, breakeven or expired"),
        ([SIGNAL, fact("voided", voids=1)], "no applied fact of this signal is left to void"),
        ([SIGNAL, fact("expired"), fact("voided", voids=1)],
         "voids entry 1, but the last applied fact of this signal is entry 2"),
        ([SIGNAL, fact("executed", order_id="o"), fact("expired"), fact("voided", voids=2)],
         "voids entry 2, but the last applied fact of this signal is entry 3"),
        ([SIGNAL, fact("expired"), fact("voided", voids=2), fact("voided", voids=2)],
         "no applied fact of this signal is left to void"),
        ([SIGNAL, fact("expired"), fact("voided", voids=2), fact("voided", voids=3)],
         "no applied fact of this signal is left to void"),
        ([SIGNAL, fact("voided", voids=True)], "voids is not a whole number above 0"),
        ([SIGNAL, fact("reduced", part=0, exit_price=1.0, fraction=0.5)],
         "part is not a whole number above 0"),
        ([SIGNAL, fact("reduced", part=1, exit_price=1.0, fraction=1.0)],
         "fraction is not a number above 0 and below 1"),
        ([SIGNAL, fact("reduced", part=1, exit_price="1", fraction=0.5)],
         "exit_price is not a finite number"),
        ([SIGNAL, *[fact("reduced", part=1, exit_price=p, fraction=0.1) for p in (1.0, 2.0)]],
         "part 1 was already recorded by entry 2"),
        ([SIGNAL, *[fact("reduced", part=p, exit_price=1.0, fraction=0.1) for p in range(1, 11)]],
         "the parts would be the whole position: send closed for the rest"),
        ([signal(entry_price=5e-324), fact("reduced", part=1, exit_price=1e308, fraction=0.5)],
         "profit_loss_pct is not finite"),
        ([SIGNAL, fact("reduced", part=1, exit_price=1.0, fraction=0.1), fact("expired")],
         "illegal move reduced -> expired"),
    ],
)  # fmt: skip
def test_an_entry_that_does_not_fit_is_one_conflict_with_its_reason(
    items: list[Item], reason: str
) -> None:
    tables = folded(*items)
    assert [said for _, _, said in tables.conflicts] == [reason]
    assert len(tables.lifecycle) + len(tables.conflicts) == len(items)


@pytest.mark.parametrize("value", [1e-05, 9.968574844719817e-05, 1e16, 1.5e300, -0.0, 85.0])
def test_floats_in_extras_are_written_as_python_writes_them(value: float) -> None:
    """orjson writes some floats differently, depending on its release."""
    assert folded(signal(regime=value)).extras == {"a": f'{{"regime":{value!r}}}'}


def test_no_number_in_a_row_is_negative_zero() -> None:
    entries = entries_of(
        [signal(confidence=-0.0), fact("closed", exit_price=100.0, profit_loss_pct=-0.0)]
    )
    prepared = prepare(entries, after=0)
    assert "-0.0" not in repr([prepared.signals, resolve(prepared, {}).values])


def test_the_first_of_two_signals_is_kept_with_its_own_extras() -> None:
    tables = folded(signal(note="first"), signal(note="second"))
    assert tables.extras == {"a": '{"note":"first"}'}
    assert [row[0] for row in tables.signals] == [1]


# facts that come before their signal


EARLY = [fact("executed", order_id="o"), ("note", {}), fact("closed", exit_price=110.0)]


def test_an_early_fact_is_held_and_is_a_conflict_until_its_signal_arrives() -> None:
    tables = folded(*EARLY)
    at = "2025-11-18T02:00:00.000000Z"
    assert tables.held == [
        (1, "a", "executed", at, '{"order_id":"o"}'),
        (3, "a", "closed", at, '{"exit_price":110.0}'),
    ]
    assert [row[:2] for row in tables.conflicts] == [(1, "a"), (3, "a")]
    assert {row[2] for row in tables.conflicts} == {"no such signal yet"}
    assert (tables.lifecycle, tables.signals) == ([], [])


@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3), (3,)])
def test_held_facts_apply_in_the_order_of_the_log_when_their_signal_arrives(
    cuts: tuple[int, ...],
) -> None:
    for apply in (apply_as_projection, apply_as_rebuild):
        tables, _ = fold(entries_of([*EARLY, SIGNAL]), cuts=cuts, apply=apply)
        assert tables.held == tables.conflicts == []
        assert [(row[0], row[2], row[5], row[6]) for row in tables.lifecycle] == [
            (1, "executed", 4, "executed"),
            (3, "closed", 4, "closed"),
            (4, "signal", 4, "open"),
        ]
        assert tables.signals[0][12:17] == ["win", 110.0, 10.0, SIGNAL[1]["sha256"], "o"]


def test_a_fact_without_other_keys_is_held_and_applied_without_a_detail() -> None:
    tables, _ = fold(entries_of([fact("expired"), SIGNAL]), cuts=[1])
    assert tables.lifecycle[0][2:7] == ("expired", SIGNAL_AT, None, 2, "expired")


def test_facts_of_another_signal_stay_held() -> None:
    other = ("expired", {"signal_id": "b"})
    tables, _ = fold(entries_of([other, fact("expired"), SIGNAL, signal()]), cuts=[1, 2])
    assert [row[0] for row in tables.held] == [1]
    assert [row[0] for row in tables.conflicts] == [1, 4]


def test_in_one_batch_nothing_is_written_and_removed_again() -> None:
    changes = resolve(prepare(entries_of([*EARLY, SIGNAL]), after=0), {})
    assert (changes.held, changes.released, changes.conflicts) == ([], [], [])
    assert len(changes.values) == 1


def test_a_held_row_that_another_program_changed_is_an_error_and_no_crash() -> None:
    for payload in ("x", "[]", "{}", '{"order_id":7}'):
        with pytest.raises(ProjectionError, match="does not hold entry 1 as the log has it"):
            held_facts([(1, "a", "executed", SIGNAL_AT, payload)])


# moves, parts and corrections


def test_a_fill_may_cross_its_cancel() -> None:
    sent, late = fact("executed", order_id="o-1"), fact("executed", order_id="o-2")
    tables = folded(SIGNAL, sent, fact("cancelled"), late, fact("closed", exit_price=99.0))
    assert tables.conflicts == []
    assert [(row[6], row[7], row[11], row[12]) for row in tables.lifecycle] == [
        ("open", None, None, None),
        ("executed", "o-1", 2, None),
        ("cancelled", "o-1", 2, None),
        ("executed", "o-2", 4, None),
        ("closed", "o-2", 4, 5),
    ]


def reduced(part: int, exit_price: float, fraction: float) -> Item:
    return fact("reduced", part=part, exit_price=exit_price, fraction=fraction)


def test_a_position_closed_in_parts_has_the_weighted_exit_price() -> None:
    parts = [reduced(1, 110.0, 0.5), reduced(2, 120.0, 0.25)]
    tables = folded(SIGNAL, *parts, fact("closed", exit_price=90.0))
    assert [row[7:11] for row in tables.lifecycle[1:]] == [
        (None, None, 110.0, 10.0),
        (None, None, 340 / 3, 40 / 3),  # (0.5 * 110 + 0.25 * 120) / 0.75
        (None, "win", 107.5, 7.5),
    ]
    assert tables.signals[0][12:15] == ["win", 107.5, 7.5]


def test_ten_parts_of_a_tenth_are_one_too_many_and_thirds_at_the_entry_are_a_breakeven() -> None:
    tenths = [reduced(part, 110.0, 0.1) for part in range(1, 11)]
    tables = folded(SIGNAL, *tenths, fact("closed", exit_price=110.0))
    assert [row[0] for row in tables.conflicts] == [11]
    assert tables.signals[0][12:15] == ["win", 110.0, 10.0]
    thirds = [reduced(part, 100.1, 0.3333333333333333) for part in (1, 2)]
    tables = folded(signal(entry_price=100.1), *thirds, fact("closed", exit_price=100.1))
    assert tables.signals[0][12:15] == ["breakeven", 100.1, 0.0]


def test_a_given_outcome_and_profit_are_of_the_whole_position() -> None:
    closed = fact("closed", exit_price=90.0, outcome="expired", profit_loss_pct=-1.5)
    tables = folded(SIGNAL, reduced(1, 110.0, 0.5), closed)
    assert tables.signals[0][12:15] == ["expired", 100.0, -1.5]


def test_a_voided_fact_leaves_the_values_before_it_and_the_right_one_may_follow() -> None:
    typo, right = fact("closed", exit_price=1920.0), fact("closed", exit_price=192.0)
    tables = folded(SIGNAL, fact("executed", order_id="o"), typo, fact("voided", voids=3), right)
    assert [(row[2], row[6], row[7:11]) for row in tables.lifecycle[1:]] == [
        ("executed", "executed", ("o", None, None, None)),
        ("closed", "closed", ("o", "win", 1920.0, 1820.0)),
        ("voided", "executed", ("o", None, None, None)),
        ("closed", "closed", ("o", "win", 192.0, 92.0)),
    ]
    assert tables.signals[0][12:17] == ["win", 192.0, 92.0, SIGNAL[1]["sha256"], "o"]
    assert tables.conflicts == []


@pytest.mark.parametrize("cuts", [(), range(1, 9)])
def test_several_voids_go_back_further_even_to_the_signal(cuts: Sequence[int]) -> None:
    history = [
        *(SIGNAL, fact("executed", order_id="o"), reduced(1, 50.0, 0.5)),
        *(fact("closed", exit_price=1.0), fact("voided", voids=4), fact("voided", voids=3)),
        *(reduced(1, 70.0, 0.25), fact("voided", voids=7), fact("voided", voids=2)),
    ]
    tables, _ = fold(entries_of(history), cuts=cuts)
    assert tables.conflicts == []
    assert [row[6] for row in tables.lifecycle] == [
        *("open", "executed", "reduced", "closed", "reduced", "executed"),
        *("reduced", "executed", "open"),
    ]
    assert tables.signals[0][12:17] == [None, None, None, SIGNAL[1]["sha256"], None]


@pytest.mark.parametrize(
    ("exit_price", "outcome", "pct"),
    [(0.0, "loss", -100.0), (-37.63, "loss", -137.63), (100.0, "breakeven", 0.0),
     (109.99, "win", (109.99 - 100) / 100 * 100)],
)  # fmt: skip
def test_an_exit_at_any_finite_price_has_an_outcome(
    exit_price: float, outcome: str, pct: float
) -> None:
    tables = folded(SIGNAL, fact("closed", exit_price=exit_price))
    assert tables.signals[0][12:15] == [outcome, exit_price, pct]


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
