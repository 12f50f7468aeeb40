"""JSON nested too deep is refused by the name of its field, as every refusal is."""

import json
from pathlib import Path

import pytest

from eventlog import EventLog, InvalidSignal
from tests.harness.command import eventlog, jsonl
from tests.harness.log_checks import lines_in
from tests.harness.signals import a_signal


@pytest.mark.parametrize("depth", [33, 1_000, 30_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_nested_too_deep_is_refused_by_the_name_of_its_field(
    tmp_path: Path, depth: int, opening: str
) -> None:
    closing = "]" if opening == "[" else "}"
    line = json.dumps(a_signal(1, note="HERE"))
    inner = opening * depth + ("1" if opening != "[" else "") + closing * depth
    line = line.replace('"HERE"', inner)
    home = tmp_path / "home"
    done = eventlog("append", home=home, stdin=jsonl([line.encode(), a_signal(2)]))
    assert done.code == 1
    (answer,) = done.answers
    assert answer["field"] == "note", answer
    assert "note" in answer["error"]
    assert not home.exists() or lines_in(home) == []


@pytest.mark.parametrize("depth", [33, 1_000])
def test_a_value_nested_too_deep_is_refused_by_the_name_of_its_field(
    tmp_path: Path, depth: int
) -> None:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    with EventLog(tmp_path / "home") as log, pytest.raises(InvalidSignal) as refused:
        log.append(a_signal(1, note=value))
    assert (refused.value.field or "").partition("[")[0] == "note"
    assert "note" in str(refused.value)


@pytest.mark.parametrize("key", ["order_id", "odd"])
def test_a_fact_nested_too_deep_is_refused_by_the_name_of_its_field(
    tmp_path: Path, key: str
) -> None:
    line = json.dumps({"event": "executed", "signal_id": "s-1", "order_id": "o-1"} | {key: "HERE"})
    line = line.replace('"HERE"', "[" * 1_000 + "]" * 1_000)
    done = eventlog("append", home=tmp_path / "home", stdin=jsonl([line.encode()]))
    (answer,) = done.answers
    assert (done.code, answer["field"]) == (1, key)


def test_the_deepest_of_several_fields_is_the_one_that_is_named(tmp_path: Path) -> None:
    line = json.dumps(a_signal(1, fine=[[1]], note="HERE", also_fine={"a": {}}))
    line = line.replace('"HERE"', "[" * 1_000 + "]" * 1_000)
    done = eventlog("append", home=tmp_path / "home", stdin=jsonl([line.encode()]))
    (answer,) = done.answers
    assert (done.code, answer["field"]) == (1, "note")
