"""The verdict of the overview: its level, its sentence, and its reasons with their pages."""

from collections.abc import Mapping
from typing import Any

import pytest

from projections.web.views.verdict import verdict

FINE = {"daemon": {"state": "running"}, "lag_seconds": 0.0, "lag_entries": 0, "problem": None}
DELIVERING = {**FINE, "state": "delivering", "parked": 0}
MIRRORING = {**FINE, "state": "mirroring", "lost_acked": 0, "last_error": None}
FAILED = {"state": "failed", "reason": "no disk space"}
STOPPED = {"state": "stopped", "reason": None}
LATE = {"lag_seconds": 61.0, "lag_entries": 1}

# What differs from a home that is fine: the table, delivery, a projection `mine`, the console.
REASONS: tuple[tuple[Mapping[str, Any], str, str, str], ...] = (
    ({"sqlite": {"problem": "it is damaged"}}, "bad", "The table: it is damaged", "/#checks"),
    ({"sqlite": {"daemon": FAILED}}, "bad", "The table has failed: no disk space", "/#checks"),
    ({"sqlite": LATE}, "bad", "The table is 1 entry behind", "/#checks"),
    (
        {"sqlite": {**LATE, "lag_entries": 1200}},
        "bad",
        "The table is 1,200 entries behind",
        "/#checks",
    ),
    (
        {"sqlite": {**LATE, "lag_entries": None}},
        "bad",
        "The table is some entries behind",
        "/#checks",
    ),
    ({"sqlite": {"daemon": STOPPED}}, "warn", "No process keeps the table up to date", "/#checks"),
    ({"mine": LATE}, "bad", "The projection mine is 1 entry behind", "/#checks"),
    ({"alpine": {"daemon": FAILED}}, "bad", "Delivery has failed: no disk space", "/delivery"),
    (
        {"alpine": {"state": "waiting"}},
        "warn",
        "Delivery waits: Alpine accepts nothing",
        "/delivery",
    ),
    (
        {"alpine": {"state": "refused"}},
        "bad",
        "Alpine refuses the key or the address",
        "/delivery",
    ),
    ({"alpine": {"state": "rejecting"}}, "bad", "Alpine rejects every signal", "/delivery"),
    (
        {"alpine": {"state": "stopped", "daemon": STOPPED}},
        "warn",
        "Nothing is being delivered: no process delivers",
        "/delivery",
    ),
    (
        {"alpine": {"parked": 1}},
        "warn",
        "1 signal is parked: Alpine does not take it",
        "/delivery",
    ),
    (
        {"alpine": {"parked": 1200}},
        "warn",
        "1,200 signals are parked: Alpine does not take them",
        "/delivery",
    ),
    (
        {"mirror": {"state": "waiting", "last_error": "there is no quorum"}},
        "warn",
        "The mirror waits: there is no quorum",
        "/#checks",
    ),
    (
        {"mirror": {"state": "mirroring", "lost_acked": 1}},
        "warn",
        "The stream lost 1 line that it had acknowledged",
        "/#checks",
    ),
    ({"problem": "the log is not followed"}, "bad", "the log is not followed", "/log"),
    ({"findings": 1}, "bad", "The last verify found damage in 1 place", "/#checks"),
    ({"findings": 2}, "bad", "The last verify found damage in 2 places", "/#checks"),
)


def verdict_of(changes: Mapping[str, Any]) -> dict[str, object]:
    """The verdict on a home that is fine but for some changes."""
    projections = {"sqlite": FINE, "alpine": DELIVERING, "mirror": MIRRORING, "mine": FINE}
    projections = {name: {**each, **changes.get(name, {})} for name, each in projections.items()}
    return verdict(
        projections,
        problem=changes.get("problem"),
        findings=changes.get("findings", 0),
    )


@pytest.mark.parametrize(
    ("changes", "level", "text", "href"), REASONS, ids=[text for _, _, text, _ in REASONS]
)
def test_each_reason_has_its_level_and_its_page(
    changes: Mapping[str, Any], level: str, text: str, href: str
) -> None:
    found = verdict_of(changes)
    assert found["reasons"] == [{"text": text, "href": href, "level": level}]
    assert found["level"] == level


def test_the_level_is_that_of_the_worst_reason() -> None:
    found = verdict_of({"alpine": {"parked": 1}, "findings": 1})
    assert (found["level"], found["text"]) == ("bad", "Something is wrong.")
    found = verdict_of({"alpine": {"parked": 1}})
    assert (found["level"], found["text"]) == (
        "warn",
        "The log is durable. Something needs a look.",
    )


def test_without_a_reason_the_level_is_ok_and_delivery_that_is_off_is_named() -> None:
    found = verdict_of({})
    assert found == {
        "level": "ok",
        "text": "Everything is durable, projected and delivered.",
        "reasons": [],
    }
    found = verdict_of({"alpine": {"state": "disabled", "daemon": STOPPED}})
    assert (found["level"], found["text"]) == (
        "ok",
        "Everything is durable and projected. Delivery is disabled.",
    )
    replica = verdict({"sqlite": FINE}, problem=None, findings=0)
    assert replica["text"] == found["text"]
