"""`reconcile` against lists that never end, go back, or have another shape."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLogError
from projections.alpine.client import AlpineClient
from projections.alpine.credentials import FixedKey
from projections.delivery.reconcile import ReconcileLimits, compare_with_alpine
from tests.harness.command import Done
from tests.harness.forked import forked
from tests.harness.log_checks import entries_in
from tests.harness.read_side import append
from tests.harness.shared_data import assert_refused
from tests.harness.signals import signals
from tests.harness.tiny_alpine import Pages, tiny_alpine

SECONDS_MAX = 60.0  # then it is killed, with code -9
PAGES_MAX = 2_000  # of any of these lists: then it must have been given up


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


def row(id_: object, **changes: object) -> dict[str, object]:
    return {
        "id": id_,
        "symbol": "MSFT",
        "action": "BUY",
        "price": 1.0,
        "confidence": 0.5,
        "target_price": 2.0,
        "stop_loss": 0.5,
        "verification_hash": f"{id_!s:0>64}",
        **changes,
    }


def page(rows: list[object], following: object) -> dict[str, object]:
    return {"signals": rows, "next": following}


def reconcile(home: Path, pages: Pages, *words: str) -> tuple[Done, int]:
    with tiny_alpine(pages) as alpine:
        done = forked("reconcile", *words, home=home, env=alpine.env, seconds_max=SECONDS_MAX)
        return done, alpine.pages


ENDLESS: dict[str, Pages] = {
    "no signals and always a next": lambda after: page([], after + 1),
    "the same page again and again": lambda _: page([row(1), row(2)], 2),
    "a next that goes back": lambda after: page([row(after + 1)], max(1, after - 1)),
    "a next that goes round": lambda after: page([row(after + 1)], (after + 1) % 7),
    "a next below its last id": lambda after: page([row(after + 1), row(after + 9)], after + 1),
    "ids that do not grow within a page": lambda after: page(
        [row(after + 2), row(after + 1)], after + 2
    ),
    "one id twice in a page": lambda after: page([row(after + 1), row(after + 1)], after + 1),
    "ids that were listed before": lambda after: page([row(1), row(after + 1)], after + 1),
    "ids below what was asked for": lambda after: page([row(0), row(after + 1)], after + 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_a_list_that_does_not_advance_as_it_must_ends_the_comparison_with_a_message(
    home: Path, name: str
) -> None:
    done, pages = reconcile(home, ENDLESS[name])
    assert_refused(done)
    assert pages < PAGES_MAX


SHAPES: dict[str, object] = {
    "a list of lists": page([["id", 1]], None),
    "a list of pairs": page([["ab", "cd"]], None),
    "a list of numbers": page([1, 2], None),
    "a list of texts": page(["ab", "cd"], None),
    "a list of nulls": page([None], None),
    "signals as a text": {"signals": "ab", "next": None},
    "signals as a number": {"signals": 7, "next": None},
    "signals as an object": {"signals": {"ab": 1}, "next": None},
    "signals as null": {"signals": None, "next": None},
    "no signals": {"next": None},
    "no next": {"signals": [row(1)]},
    "a next that is a text": page([row(1)], "1"),
    "a next that is true": page([row(1)], True),
    "a next that is a fraction": page([row(1)], 1.5),
    "a next below zero": page([row(1)], -1),
    "a next beyond 64 bits": page([row(1)], 2**64),
    "a next that is a list": page([row(1)], [1]),
    "an id that is a text": page([row("1")], None),
    "an id that is true": page([row(True)], None),
    "an id that is a fraction": page([row(1.5)], None),
    "an id below zero": page([row(-1)], None),
    "an id beyond 64 bits": page([row(2**70)], None),
    "an id that is null beside others": page([row(1), row(None)], None),
    "a page that is a list": [row(1)],
    "a page that is null": None,
    "no JSON": b"<html>",
    "nothing": b"",
    "bytes that are no UTF-8": b'{"signals":[{"id":1,"symbol":"\xff"}],"next":null}',
    "a lone surrogate": b'{"signals":[{"id":1,"symbol":"\\ud800"}],"next":null}',
    "a number beyond a float": b'{"signals":[{"id":1,"price":1e999}],"next":null}',
    "a price of 400 digits": b'{"signals":[{"id":1,"verification_hash":"h","price":1' + b"0" * 400
    + b'}],"next":null}',
    "NaN": b'{"signals":[{"id":1,"price":NaN}],"next":null}',
    "very deep": b'{"signals":' + b"[" * 200_000,
    "an id of 10,000 digits": b'{"signals":[{"id":' + b"9" * 10_000 + b'}],"next":null}',
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_list_of_the_wrong_shape_ends_the_comparison_with_a_message(
    home: Path, name: str
) -> None:
    done, pages = reconcile(home, lambda _: SHAPES[name])
    assert_refused(done)
    assert pages <= 10


VALUES: dict[str, dict[str, object]] = {
    "a hash that is a number": {"verification_hash": 5},
    "a hash that is a list": {"verification_hash": ["a"]},
    "a symbol that is an object": {"symbol": {"a": 1}},
    "a price that is a text": {"price": "1.25"},
    "a price that is no number": {"price": "abc"},
    "a price that is NaN as text": {"price": "nan"},
    "a price that is a list": {"price": [1]},
    "a price beyond a float": {"price": 10**400},
    "a symbol with NUL": {"symbol": "A\0B"},
    "a symbol of a megabyte": {"symbol": "A" * 1_000_000},
    "no values": {"symbol": None, "action": None, "price": None, "verification_hash": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_values_of_another_type_are_a_difference_or_a_message_and_no_traceback(
    home: Path, name: str
) -> None:
    ours = [str(entry["sha256"]) for entry in entries_in(home)]
    rows: list[Any] = [row(number, verification_hash=hash_) for number, hash_ in enumerate(ours, 1)]
    rows[1] |= VALUES[name]
    data = json.dumps(page(rows, None)).encode()
    done, _ = reconcile(home, lambda _: data, "--json")
    assert done.code in (1, 3), done
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no signals and always a next", "a list of pairs"])
def test_a_replay_sends_nothing_on_the_word_of_such_a_list(home: Path, name: str) -> None:
    pages: Pages = ENDLESS.get(name, lambda _: SHAPES[name])
    with tiny_alpine(pages) as alpine:
        words = ("reconcile", "--replay")
        done = forked(*words, home=home, env=alpine.env, seconds_max=SECONDS_MAX)
        assert_refused(done)
        assert alpine.received == []


@pytest.mark.slow
def test_a_list_that_grows_for_ever_by_one_signal_a_page_is_given_up(home: Path) -> None:
    """Its ids grow as they must, so only the number of pages can tell."""
    given: dict[str, Any] = {"pages_per_s": 10_000.0, "pages_max": 50}
    limits = dataclasses.replace(ReconcileLimits(), **given)
    with tiny_alpine(lambda after: page([row(after + 1)], after + 1)) as alpine:

        async def compare() -> None:
            client = AlpineClient(alpine.url, FixedKey("key"))
            try:
                await asyncio.wait_for(compare_with_alpine(home, client, limits=limits), 60)
            finally:
                await client.close()

        with pytest.raises(EventLogError) as raised:
            asyncio.run(compare())
        assert raised.value.do
        assert alpine.pages <= 51
