"""`eventlog top` shows what the log and the table hold, on a terminal and without one."""

import json
import os
import re
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import LogNotFound
from projections.top.recent_signals import HELD_MAX, SIGNALS_MAX, RecentSignal, RecentSignals
from projections.top.sampler import ENTRIES_MAX, INTERVAL_S, Sampler, pause_s
from projections.top.view import (
    REASON_CHARS_MAX,
    HomeSample,
    Table,
    build_view,
    column_widths,
    fit_to_height,
    fit_to_width,
    format_line,
    format_page,
    format_table,
)
from tests.harness import model
from tests.harness.command import COMMAND, Done, eventlog, pipe
from tests.harness.daemon import ready
from tests.harness.histories import Item, entries_of, histories
from tests.harness.log_checks import segments_in, tree_contents
from tests.harness.plugins import first_on_path, plugins
from tests.harness.raw_log import RawLog
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed, signals
from tests.harness.terminal import (
    CTRL_C,
    CURSOR_HIDDEN,
    CURSOR_SHOWN,
    SCREEN_BACK,
    WHOLE_SCREEN,
    terminal,
)

EXECUTED = {"event": "executed", "signal_id": "s-1", "order_id": "A-1"}
HOSTILE = {
    "symbol": "[RED]",
    "strategy": "[bold]\u202e\x9b2J[/bold]<b>\u2028=1+1",
}
SIGNAL = RecentSignal(
    7, "AAPL", "BUY", 150.5, 158.25, 147.0, 85.5, "s", "2025-11-18T02:00:00.000000+00:00"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def once(home: Path, env: dict[str, str] | None = None) -> Done:
    return eventlog("top", "--once", home=home, env=env)


def stored_payload(item: dict[str, Any], **changes: str) -> dict[str, Any]:
    """The payload of a signal with the fields that `append` adds; `sha256` is not a real hash."""
    added = {"asset_type": "stock", "data_source": "x", "sha256": "0" * 64}
    return {**item, **added, "timestamp": "2025-11-18T02:00:00.000000+00:00", **changes}


def rows_below(heading: str, text: str) -> list[list[str]]:
    """The words of each row of the table whose first column is `heading`."""
    _, _, table = text.partition(f"\n{heading} ")
    return [line.split() for line in table.partition("\n\n")[0].splitlines()[1:]]


def figures(**changes: Any) -> HomeSample:
    log: dict[str, object] = {"last_seq": 7, "segments": 1, "bytes": 2_048}
    at = "2025-11-18T02:00:00+00:00"
    return HomeSample("home", at, log, 1.5, {}, (SIGNAL,))._replace(**changes)


def test_the_line_of_the_log_says_what_is_signed_where_there_is_evidence() -> None:
    assert "signed" not in build_view(figures()).log
    view = build_view(figures(evidence={"size": 1_204, "lag_entries": 3}))
    assert view.log.endswith("1 segment, 2.0 KiB  signed 1,204, not signed 3")
    view = build_view(figures(evidence={"size": None, "lag_entries": None}))
    assert view.log.endswith("signed -, not signed -")


# The outcomes of the newest signals


@pytest.mark.slow
@given(history=histories(), cuts=st.sets(st.integers(1, 29)))
@settings(max_examples=50)
def test_it_shows_the_state_of_a_signal_as_the_table_does(
    history: Sequence[Item], cuts: set[int]
) -> None:
    """For any log, and however it is divided into samples."""
    entries = entries_of(history)
    recent = RecentSignals()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(entries)), len(entries)]
    for first, last in pairwise(bounds):
        recent.apply(entries[first:last], after=first)
    tables = model.fold(entries)
    state = {row[1]: row[6] for row in tables.lifecycle if row[2] == "signal"}
    state |= {row[1]: row[6] for row in tables.lifecycle if row[2] != "signal"}
    # columns of a row: id, symbol ... strategy, timestamp, then outcome and profit_loss_pct
    expected = [
        (row[0], *row[2:9], row[11], state[row[1]], row[12], row[14]) for row in tables.signals
    ]
    assert [tuple(signal) for signal in reversed(recent.newest())] == expected


def test_early_facts_are_kept_in_bounded_memory() -> None:
    recent = RecentSignals()
    early = ("closed", {"signal_id": "s-1", "exit_price": 200.0})
    strays = [("closed", {**early[1], "signal_id": f"x-{n}"}) for n in range(HELD_MAX - 1)]
    signal = ("signal", stored_payload(a_signal(1)))
    recent.apply(entries_of([early, *strays]), after=0)
    recent.apply(entries_of([early, *strays, signal])[-1:], after=HELD_MAX)
    assert [(found.state, found.outcome) for found in recent.newest()] == [("closed", "win")]
    forgetful = RecentSignals()
    history = [early, *strays, strays[0]]
    forgetful.apply(entries_of(history), after=0)
    forgetful.apply(entries_of([*history, signal])[-1:], after=len(history))
    assert [found.state for found in forgetful.newest()] == ["open"]


def test_its_memory_is_bounded() -> None:
    recent = RecentSignals()
    history = [("signal", stored_payload(item)) for item in signals(SIGNALS_MAX + 50)]
    recent.apply(entries_of(history), after=0)
    assert [signal.seq for signal in recent.newest()] == list(range(250, 50, -1))


def test_a_log_that_grew_by_more_than_a_sample_is_read_at_its_end(home: Path) -> None:
    """The outcomes of earlier signals may have been skipped, so those signals are not shown."""
    sampler = Sampler(home)
    append(home, *signals(5))
    assert [signal.seq for signal in sampler.sample().signals] == [5, 4, 3, 2, 1]
    append(home, closed(5), *({"event": "note", "n": n} for n in range(ENTRIES_MAX)))
    assert sampler.sample().signals == ()
    append(home, a_signal(6), closed(6))
    (newest,) = sampler.sample().signals
    assert (newest.seq, newest.state) == (ENTRIES_MAX + 7, "closed")


# Figures as text


def test_an_unknown_value_is_a_dash() -> None:
    unknown = {"checkpoint": None, "lag_entries": None, "lag_seconds": None, "problem": "gone"}
    view = build_view(figures(rate=None, projections={"mine": unknown}))
    assert view.projections.rows == (("mine", "-", "-", "-", "gone"),)
    assert "seq 7  - entries/s" in view.log


def test_a_third_party_projection_shows_its_own_status() -> None:
    found = {"checkpoint": 3, "lag_entries": 4, "lag_seconds": 7_300.0, "AAPL": 1_234, "x": "y\n"}
    view = build_view(figures(projections={"mine": found}))
    assert view.projections.rows == (("mine", "3", "4", "2.0 h", r"AAPL 1,234, x y\n"),)


def test_a_projection_that_has_failed_shows_why() -> None:
    daemon = {"state": "running", "pid": 1, "since": "s", "reason": None}
    found = {"checkpoint": 3, "rows": 7, "daemon": daemon}
    view = build_view(figures(projections={"sqlite": found}))
    assert view.projections.rows[0][-1] == "rows 7"
    found["daemon"] = {**daemon, "state": "failed", "reason": "it cannot\ngo on"}
    view = build_view(figures(projections={"sqlite": found}))
    assert view.projections.rows[0][-1] == r"failed: it cannot\ngo on, rows 7"


def test_a_long_reason_is_shown_as_far_as_the_terminal_is_wide() -> None:
    reason = "it cannot go on, since " + 20 * "one more thing is wrong, "
    daemon = {"state": "failed", "pid": 1, "since": "s", "reason": reason[:300]}
    found = build_view(figures(problem=reason, projections={"mine": {"daemon": daemon}}))
    assert found.projections.rows[0][-1] == f"failed: {reason[:300]}"
    assert found.problem == reason[:REASON_CHARS_MAX]


def test_why_a_projection_has_failed_is_shown_once() -> None:
    daemon = {"state": "failed", "pid": 1, "since": "s", "reason": "gone"}
    view = build_view(figures(projections={"mine": {"problem": "gone", "daemon": daemon}}))
    assert view.projections.rows[0][-1] == "failed: gone"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "open"),
        ({"state": "executed"}, "executed"),
        ({"state": "skipped"}, "skipped"),
        ({"state": "closed", "outcome": "win", "profit_loss_pct": 5.149}, "win +5.15 %"),
        ({"state": "reduced", "profit_loss_pct": 3.0}, "reduced +3.00 %"),
        ({"state": "closed", "outcome": "loss", "profit_loss_pct": -2.0}, "loss -2.00 %"),
    ],
)
def test_the_outcome_of_a_signal_is_one_or_two_words(changes: dict[str, Any], outcome: str) -> None:
    view = build_view(figures(signals=[SIGNAL._replace(**changes)]))
    assert view.signals.rows[0][-1] == outcome


@given(text=st.text(max_size=200))
def test_no_external_text_can_control_the_terminal(text: str) -> None:
    hostile = figures(
        home=text,
        problem=text,
        projections={text: {text: text, "state": text}},
        signals=[SIGNAL._replace(symbol=text, strategy=text)],
    )
    assert format_page(build_view(hostile)).replace("\n", "").isprintable()
    assert format_line(hostile).isprintable()


@given(
    rows=st.lists(st.tuples(*[st.text("abc", max_size=12)] * 4), max_size=5),
    width=st.integers(0, 60),
)
def test_on_a_narrow_terminal_optional_columns_are_dropped_in_order(
    rows: list[tuple[str, str, str, str]], width: int
) -> None:
    table = Table(("one", "two", "three", "four"), tuple(rows), optional=("three", "one"))
    found = fit_to_width(table, width)
    assert found.headings in (
        ("one", "two", "three", "four"),
        ("one", "two", "four"),
        ("two", "four"),
    )
    if len(found.headings) > 2:
        assert max(map(len, format_table(found))) <= width
    wider = sum(column_widths(table)) + 6
    assert fit_to_width(table, wider) == table


def test_a_slow_sample_is_followed_by_a_long_pause() -> None:
    """A home of any size costs at most a tenth of a core."""
    assert pause_s(0.01, INTERVAL_S) == INTERVAL_S
    assert pause_s(3.0, INTERVAL_S) == pytest.approx(30.0)


@given(lines=st.integers(0, 40), count=st.integers(0, 40))
def test_the_page_fits_the_height_and_drops_no_more_signals_than_necessary(
    lines: int, count: int
) -> None:
    view = build_view(figures(signals=(SIGNAL,) * count))
    shown = fit_to_height(view, lines)
    least = len(format_page(fit_to_height(view, 0)).splitlines())
    height = len(format_page(shown).splitlines())
    assert height <= max(lines, least)
    assert len(shown.signals.rows) == count or height >= lines - 2


# The command, without a terminal


def test_once_prints_what_fits_24_lines_or_as_many_signals_as_asked_for(home: Path) -> None:
    append(home, *signals(60))
    text = once(home).out.decode()
    assert len(text.splitlines()) == 23
    assert rows_below("seq", text)[0][0] == "60"
    for limit, expected in ((50, 50), (3, 3), (0, 0)):
        done = eventlog("top", "--once", "--limit", limit, home=home)
        assert len(rows_below("seq", done.out.decode())) == expected


def test_once_shows_the_log_every_projection_and_the_outcomes(home: Path) -> None:
    append(home, *signals(3), EXECUTED, closed(2))
    project(home)
    append(home, a_signal(4, symbol="MSFT"))
    done = once(home)
    assert (done.code, done.err) == (0, "")
    text = done.out.decode()
    assert "log: seq 6  0.0 entries/s" in text
    assert [row[:3] for row in rows_below("projection", text)] == [
        ["alpine", "0", "6"],
        ["sqlite", "5", "1"],
    ]
    assert "stopped, delivered 0, parked 0, failing 0" in text
    rows = rows_below("seq", text)
    assert [(row[0], row[2]) for row in rows] == [
        *(("6", "MSFT"), ("3", "AAPL"), ("2", "AAPL"), ("1", "AAPL")),
    ]
    assert [row[9:] for row in rows] == [
        ["open"],
        ["open"],
        ["win", "+5.92", "%"],
        ["executed"],
    ]


def test_a_home_without_a_database_is_shown_and_nothing_is_created(home: Path) -> None:
    append(home, *signals(2))
    before = tree_contents(home)
    done = once(home)
    assert done.code == 0
    assert "there is no database yet" in done.out.decode()
    assert tree_contents(home) == before


@pytest.mark.slow
def test_with_a_running_daemon_the_lag_disappears(home: Path) -> None:
    append(home, *signals(2))
    with ready(home, "sqlite") as d:
        assert eventlog("wait", 2, "--timeout", 60, home=home).code == 0
        text = once(home).out.decode()
        assert rows_below("projection", text)[1][:3] == ["sqlite", "2", "0"]
        assert d.stop() == 0


def test_a_home_without_a_log_is_reported_as_an_error(home: Path) -> None:
    for words in (("top", "--once"), ("top",)):
        done = eventlog(*words, home=home)
        assert (done.code, done.out) == (3, b"")
        assert done.err.startswith("error: ")
    with pytest.raises(LogNotFound):
        Sampler(home).sample()
    assert not home.exists()


def test_it_shows_the_readable_part_of_a_damaged_log_and_the_damage(home: Path) -> None:
    append(home, *signals(3))
    segment = segments_in(home)[0]
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"s-2"', b'"s-X"'))
    done = once(home)
    assert done.code == 0
    assert "entry 2 does not match its chain" in done.out.decode()


def test_a_projection_without_a_readable_status_is_shown_with_its_problem(
    home: Path, tmp_path: Path
) -> None:
    append(home, *signals(2))
    env = plugins(tmp_path / "others", broken="raise RuntimeError('\\x1b[2Jnot today')")
    text = once(home, env).out.decode()
    (row,) = (row for row in rows_below("projection", text) if row[0] == "broken")
    assert row[1:4] == ["-", "-", "-"]
    assert r"RuntimeError: \x1b[2Jnot today" in " ".join(row)
    assert "\x1b" not in text


@pytest.mark.slow
def test_hostile_text_is_shown_escaped_and_controls_nothing(home: Path) -> None:
    """The log was written by another program: validation would refuse control characters."""
    RawLog(home).add([("signal", stored_payload(a_signal(1), **HOSTILE))])
    for words in (("top", "--once"), ("top",)):
        with pipe(home, *words[1:], command=words[0]) as p:
            shown = os.read(p.process.stdout.fileno(), 1 << 16).decode()  # type: ignore[union-attr]
        assert "[RED]" in shown
        assert shown.replace("\n", "").isprintable()
    assert r"[bold]\u202e\x9b2J[/bold]<b>\u2028=1+1" in once(home).out.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_without_a_terminal_it_prints_a_line_and_ends_when_stopped(
    home: Path, number: signal.Signals, code: int
) -> None:
    append(home, *signals(2))
    with pipe(home, command="top") as p:
        assert p.process.stdout is not None
        line = p.process.stdout.readline().decode()
        p.send(number)
        assert p.wait() == code
        assert p.err == ""
    assert re.match(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00  seq 2, - entries/s"
        r" \| alpine lag 2 \(.*\), stopped.* \| sqlite lag 2 \(.*\), rows 0, .*"
        r" \| last: AAPL BUY at 152\n",
        line,
    )


def test_a_request_for_json_points_to_status_and_signals(home: Path) -> None:
    """`top` has no --json: its help names the commands that have it."""
    text = eventlog("top", "--help").out.decode()
    assert "status --json" in text and "signals --json" in text
    append(home, *signals(1))
    assert json.loads(eventlog("status", "--json", home=home).out)["log"]["last_seq"] == 1


# On a terminal

KEYS = {"Ctrl-C": CTRL_C, "q": "q"}


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM", "q", "SIGQUIT"])
def test_on_a_terminal_it_updates_and_restores_the_terminal(home: Path, way: str) -> None:
    append(home, *signals(2))
    with terminal(COMMAND, "--home", home, "top") as t:
        settings_before = t.settings
        t.until("seq 2")
        t.until("open")
        append(home, a_signal(3, symbol="GROWN"), closed(3))
        t.until("GROWN")
        t.until("seq 4")
        assert t.settings != settings_before  # keys arrive without Return
        if way in KEYS:
            t.press(KEYS[way])
        else:
            t.process.send_signal(signal.Signals[way])
        assert t.wait() == (130 if way == "Ctrl-C" else 0)
        t.until(SCREEN_BACK)
        text = t.text
        assert t.settings == settings_before
    assert text.count(WHOLE_SCREEN) == text.count(SCREEN_BACK) == 1
    assert text.rindex(CURSOR_SHOWN) > text.rindex(CURSOR_HIDDEN)
    assert "Traceback" not in text


def test_on_a_terminal_hostile_text_is_neither_markup_nor_escape(home: Path) -> None:
    hostile = {"symbol": "[RED]X[/RED]", "strategy": "[link=x]y[/] :smile:\u202e"}
    RawLog(home).add([("signal", stored_payload(a_signal(1), **hostile))])
    with terminal(COMMAND, "--home", home, "top", columns=160) as t:
        t.until(r"[link=x]y[/] :smile:\u202e")
        assert "[RED]X[/RED]" in t.text
        t.press(CTRL_C)
        assert t.wait() == 130


@pytest.mark.slow
def test_a_terminal_of_any_size_breaks_nothing(home: Path) -> None:
    append(home, *signals(30))
    project(home)
    with terminal(COMMAND, "--home", home, "top", columns=1, lines=1) as t:
        t.until(WHOLE_SCREEN)
        for columns, lines, seen in ((40, 5, "log: seq 30"), (200, 60, "momentum"), (2, 3, "\x1b")):
            before = len(t.text)
            t.resize(columns=columns, lines=lines)
            t.until(seen, after=before)
        t.press(CTRL_C)
        assert t.wait() == 130
    assert "Traceback" not in t.text


def test_warnings_do_not_write_into_the_view(home: Path, tmp_path: Path) -> None:
    append(home, *signals(1))
    source = "import logging\nlogging.warning('not in the view')\nraise RuntimeError('not today')"
    env = plugins(tmp_path / "others", broken=source)
    with terminal(COMMAND, "--home", home, "top", env=env, columns=200) as t:
        t.until("not today")
        view = len(t.text)
        t.until("seq 1", after=view)
        t.press(CTRL_C)
        assert t.wait() == 130
        assert "not in the view" not in t.text[t.text.index(WHOLE_SCREEN) :]


def test_a_terminal_that_cannot_draw_gets_lines(home: Path) -> None:
    append(home, *signals(1))
    with terminal(COMMAND, "--home", home, "top", env={"TERM": "dumb"}) as t:
        t.until("| sqlite lag 1")
        t.press(CTRL_C)
        assert t.wait() == 130
        assert "\x1b" not in t.text


@pytest.mark.slow
def test_without_rich_it_names_the_package_to_install_and_prints_lines(
    home: Path, tmp_path: Path
) -> None:
    append(home, *signals(1))
    (tmp_path / "no/rich").mkdir(parents=True)
    (tmp_path / "no/rich/__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')"
    )
    env = first_on_path(tmp_path / "no")
    with terminal(COMMAND, "--home", home, "top", env=env) as t:
        assert t.wait() == 3
        t.until("pip install 'signal-eventlog[top]'")
        assert "Traceback" not in t.text
    assert once(home, env).code == 0


def test_once_on_a_terminal_fits_its_lines_and_columns(home: Path) -> None:
    append(home, *signals(60))
    with terminal(COMMAND, "--home", home, "top", "--once", columns=70, lines=15) as t:
        assert t.wait() == 0
        t.until("60 ")
        lines = t.text.splitlines()
    assert len(lines) == 14
    assert max(map(len, lines[7:])) <= 70, "the table of signals"


def test_the_live_view_shows_the_lags_and_the_last_entry_in_80_columns(home: Path) -> None:
    append(home, a_signal(1))
    with terminal(COMMAND, "--home", home, "top", columns=80) as t:
        t.until("AAPL")
        t.press("q")
        assert t.wait() == 0
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", t.text).splitlines()
    assert ["projection", "checkpoint", "lag", "behind", "for"] in map(str.split, lines)
    assert any(re.match(r"alpine .* stopped, .*…$", line) for line in lines), "it says it was cut"
    assert any(re.search(r"last entry \S+\+00:00", line) for line in lines)


def test_no_color_is_honoured_by_the_live_view(home: Path) -> None:
    append(home, a_signal(1), closed(1))
    for env, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
        with terminal(COMMAND, "--home", home, "top", env=env, columns=160) as t:
            t.until("win")
            t.press("q")
            assert t.wait() == 0
            assert ("\x1b[32m" in t.text) is expected
