"""Event names that are nearly known: refused with a suggestion, by one exact list."""

from collections.abc import Iterator

import pytest

from eventlog.errors import InvalidSignal
from eventlog.schema import facts
from tests.eventlog.schema.test_validation import PLAIN, stored, validated_item

KNOWN = (*("signal", "executed", "skipped", "expired", "cancelled", "reduced", "closed", "voided"),)
LISTED = {
    "close": "closed",
    "cancel": "cancelled",
    "canceled": "cancelled",
    "skip": "skipped",
    "expire": "expired",
    "execute": "executed",
    "void": "voided",
    "reduce": "reduced",
}
NEAR = LISTED | {
    "executd": "executed",
    "exceuted": "executed",
    "executedd": "executed",
    "expires": "expired",
    "xpired": "expired",
    "signals": "signal",
    "singal": "signal",
    "canceled": "cancelled",
    "cancelledd": "cancelled",
    "closedx": "closed",
    "voided.": "voided",
    "reducad": "reduced",
}
LEGITIMATE = (
    *("stopped", "exited", "expiry", "resumed", "heartbeat", "position.opened", "tick", "opened"),
    *("filled", "adjusted", "reviewed", "scaled", "rolled", "assigned", "exercised", "rejected"),
    *("paused", "triggered", "amended", "submitted", "closing", "executing", "expiration", "note"),
    *("closed.partial", "signal.updated", "unclosed", "executed2x", "buy", "sell", "long", "short"),
)


def refusal_of(event: str, **keys: object) -> InvalidSignal:
    with pytest.raises(InvalidSignal) as refusal:
        validated_item({**keys, "event": event})
    assert refusal.value.field == "event"
    return refusal.value


@pytest.mark.parametrize(("event", "known"), NEAR.items())
def test_a_near_miss_is_refused_with_the_known_name(event: str, known: str) -> None:
    for item in ({}, dict(PLAIN), {"signal_id": "s", "exit_price": 1, "order_id": "o"}):
        refused = refusal_of(event, **item)
        assert refused.what == f"event is no known event; did you mean {known}? (got {event})"
        assert refused.do == "use that name, or one that is not so close to it"


@pytest.mark.parametrize(
    ("event", "do"),
    [
        ("Closed", "did you mean closed?"),
        (" VOIDED ", "did you mean voided?"),
        ("BUY", ""),
        ("", ""),
    ],
)
def test_a_known_name_in_another_form_is_refused_with_the_known_one(event: str, do: str) -> None:
    refused = refusal_of(event)
    assert "must be 1 to 64 of a-z 0-9" in refused.what
    assert refused.do == do


@pytest.mark.parametrize("event", LEGITIMATE)
def test_a_legitimate_name_passes(event: str) -> None:
    assert validated_item({"event": event, "signal_id": "s"}).event == event


@pytest.mark.parametrize("event", ["buy", "sell", "long", "short"])
@pytest.mark.parametrize("aliased", [False, True])
def test_an_action_as_the_event_of_a_complete_signal_is_refused(event: str, aliased: bool) -> None:
    item = dict(PLAIN)
    if aliased:
        item["take_profit"], item["stop_loss"] = item.pop("target_price"), item.pop("stop_price")
    refused = refusal_of(event, **item)
    assert refused.what == f"event is no event of a signal; leave it out (got {event})"
    del item["strategy"]  # no complete signal, so that it means something else
    assert validated_item({**item, "event": event}).event == event


def test_promoted_is_reserved() -> None:
    refused = refusal_of("promoted", epoch=1, host="h")
    assert refused.what == "event is reserved for the log (got promoted)"


def test_another_unknown_event_on_a_complete_signal_is_stored_as_it_is() -> None:
    item = {**PLAIN, "event": "quote"}
    assert validated_item(item).event == "quote"
    assert stored(item) == PLAIN


@pytest.mark.parametrize("event", KNOWN)
def test_a_known_name_is_no_near_miss(event: str) -> None:
    assert facts.event_name(event) == event


def edits(name: str) -> Iterator[str]:
    """Every name one letter away: a letter more, a letter less, another one, two swapped."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789_.-"
    for at in range(len(name) + 1):
        yield from (name[:at] + letter + name[at:] for letter in letters)
    for at in range(len(name)):
        yield name[:at] + name[at + 1 :]
        yield from (name[:at] + letter + name[at + 1 :] for letter in letters)
    for at in range(len(name) - 1):
        yield name[:at] + name[at + 1] + name[at] + name[at + 2 :]


def test_every_name_one_letter_away_is_refused_and_no_other() -> None:
    near = {edit for known in KNOWN for edit in edits(known)} - set(KNOWN)
    for event in near:
        if event[0].isalpha():
            with pytest.raises(InvalidSignal, match="did you mean"):
                facts.event_name(event)
    two_away = {edit for event in sorted(near)[:40] for edit in edits(event)}
    for event in two_away - near - set(KNOWN) - set(LISTED):
        if event[:1].isalpha():
            assert facts.event_name(event) == event
