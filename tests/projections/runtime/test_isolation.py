"""Projections are isolated: whatever one does, the others go on, and its reason is shown (P2)."""

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventlog import Entry
from projections import Checkpoint
from projections.run_directory import read_run_state
from projections.runtime.supervisor import Supervisor
from tests.harness.command import Done, eventlog
from tests.harness.daemon import NotifySocket, abstract_name, daemon, listening
from tests.harness.deadline import until, until_async
from tests.harness.log_checks import segments_in
from tests.harness.plugins import plugins
from tests.harness.raw_log import swap
from tests.harness.read_side import append
from tests.harness.signals import a_signal, signals
from tests.harness.tables import assert_caught_up, database_of, seq_in

# A projection that keeps its checkpoint in a file, and does what a test asks for.
ODD = """
import json
import os
import sys
from pathlib import Path

from eventlog import LogCorrupt, LogDiverged
from projections import Checkpoint, ProjectionStalled

class Base(BaseException):
    pass

{top}

class Odd:
    name = "odd"

    def __init__(self):
        {init}

    async def open(self, home):
        self.home = home
        {open}
        self.path = home / "data" / "odd.json"
        seq, chain = json.loads(self.path.read_text()) if self.path.exists() else (0, "0" * 64)
        return Checkpoint(projection=self.name, seq=seq, chain=chain)

    async def apply(self, entries, *, before, after):
        {apply}
        self.path.with_suffix(".new").write_text(json.dumps([after.seq, after.chain]))
        os.replace(self.path.with_suffix(".new"), self.path)

    async def status(self):
        return {{}}

    async def close(self):
        {close}
"""
RAISE = "raise RuntimeError('it cannot go on')"
UNTIL_REPAIRED = "if not (self.home / 'repaired').exists(): "
DIVERGED = 'LogDiverged("its own log is another one")'
CORRUPT = 'LogCorrupt("its own file is damaged", segment="x", byte_offset=1, seq=1)'


def odd(folder: Path, **parts: str) -> dict[str, str]:
    """Installs the projection `odd`; returns the environment that finds it."""
    defaults = {"top": "", "init": "pass", "open": "pass", "apply": "pass", "close": "pass"}
    return plugins(folder, odd=ODD.format(**(defaults | parts)))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def health(url: str) -> tuple[int, Any]:
    code, body = get(f"{url}/health")
    return code, json.loads(body)


def state_of(home: Path, name: str) -> dict[str, Any]:
    """The object `daemon` of `eventlog status --json`."""
    return read_run_state(home, name).to_json()


# What the projection does, and the reason that is shown.
FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "import": ({"top": RAISE}, "RuntimeError: it cannot go on"),
    "import exits": ({"top": "sys.exit(7)"}, "it raised SystemExit (7)"),
    "no such module": ({"top": "import not_there"}, "ModuleNotFoundError: No module named"),
    "constructor": ({"init": RAISE}, "RuntimeError: it cannot go on"),
    "open": ({"open": RAISE}, "RuntimeError: it cannot go on"),
    "open exits": ({"open": "sys.exit('enough')"}, "it raised SystemExit (enough)"),
    "open returns nothing": ({"open": "return"}, "open() returned NoneType, not a Checkpoint"),
    "apply": ({"apply": RAISE}, "RuntimeError: it cannot go on"),
    "apply exits": ({"apply": "raise SystemExit"}, "it raised SystemExit"),
    "apply is interrupted": ({"apply": "raise KeyboardInterrupt"}, "it raised KeyboardInterrupt"),
    "apply is cancelled": (
        {"top": "import asyncio", "apply": "raise asyncio.CancelledError"},
        "it raised CancelledError",
    ),
    "a base exception": ({"apply": "raise Base('odd')"}, "Base: odd"),
    "a generator exit": ({"apply": "raise GeneratorExit"}, "GeneratorExit"),
    "a group": ({"apply": "raise BaseExceptionGroup('g', [Base()])"}, "BaseExceptionGroup: g"),
    "a text that raises": (
        {
            "top": "class Mute(Exception):\n    def __str__(self): raise ValueError",
            "apply": "raise Mute",
        },
        "Mute",
    ),
    "a damaged log of its own": ({"apply": f"raise {CORRUPT}"}, "its own file is damaged"),
    "another log of its own": ({"apply": f"raise {DIVERGED}"}, "its own log is another one"),
    "close, too": ({"apply": RAISE, "close": "sys.exit(9)"}, "it raised SystemExit (9)"),
    "terminal escapes": ({"apply": r"raise RuntimeError('\x1b[2J\nREADY=1')"}, r"\x1b[2J\nREADY=1"),
}


QUICK = ("import", "open exits", "apply", "a base exception", "another log of its own")
EACH_FAULT = [pytest.param(f, marks=[] if f in QUICK else [pytest.mark.slow]) for f in FAULTS]


@pytest.mark.parametrize("fault", EACH_FAULT)
def test_whatever_a_projection_raises_the_others_go_on_and_the_reason_is_shown(
    home: Path, tmp_path: Path, fault: str
) -> None:
    parts, reason = FAULTS[fault]
    env = odd(tmp_path / "site", **parts)
    with listening(home, "odd", "sqlite", "--unhealthy-after", 0, env=env) as (d, url):
        until(lambda: seq_in(home) == 3)
        until(lambda: "projection_failed projection=odd" in d.err)
        until(lambda: state_of(home, "odd")["state"] == "failed")
        append(home, *signals(2, start=4))
        until(lambda: seq_in(home) == 5)
        found = eventlog("status", "--json", home=home, env=env).answers[0]["projections"]
        assert found["sqlite"]["daemon"]["state"] == "running"
        found = found["odd"]["daemon"]
        assert found["state"] == "failed"
        assert reason in found["reason"]
        assert found["pid"] == d.process.pid
        until(lambda: health(url)[1]["status"] == "degraded")
        code, body = health(url)
        assert (code, body["projections"]["odd"]["state"]) == (200, "failed")
        assert reason in "".join(body["reasons"])
        assert reason in body["projections"]["odd"]["reason"]
        metrics = get(f"{url}/metrics")[1].decode()
        assert re.search(r'_failed{projection="odd",reason="\w+"} 1.0', metrics)
        assert 'eventlog_projection_failed{projection="sqlite",reason=""} 0.0' in metrics
        assert d.stop() == 0
    assert_caught_up(home)


@pytest.mark.parametrize("fault", ["import", "import exits", "open", "apply", "a base exception"])
def test_once_does_all_it_can_and_then_ends_with_3_and_each_error_once(
    home: Path, tmp_path: Path, fault: str
) -> None:
    parts, reason = FAULTS[fault]
    env = odd(tmp_path / "site", **parts)
    done = eventlog("project", "odd", "sqlite", "--once", home=home, env=env)
    assert done.code == 3
    assert_caught_up(home)
    assert done.err.startswith("error: the projection 'odd' failed: ")
    assert done.err.count(reason) == 1
    assert "Traceback" not in done.err


def test_once_names_each_of_several_that_fail(home: Path, tmp_path: Path) -> None:
    env = odd(tmp_path / "site", apply=RAISE) | {
        "ALPINE_API_URL": "alpine.example.com",
        "ALPINE_API_KEY": "k",
    }
    done = eventlog("project", "all", "--once", home=home, env=env)
    assert done.code == 3
    assert_caught_up(home)
    assert done.err.count("error: the projection 'odd' failed: ") == 1
    assert done.err.count("error: the projection 'alpine' failed: ") == 1
    assert "sqlite" not in done.err


def test_an_address_of_alpine_without_a_scheme_leaves_the_table_alone(home: Path) -> None:
    env = {"ALPINE_API_URL": "alpine.example.com", "ALPINE_API_KEY": "k"}
    with daemon(home, "all", env=env) as d:
        until(lambda: seq_in(home) == 3)
        until(lambda: state_of(home, "alpine")["state"] == "failed")
        append(home, a_signal(4))
        until(lambda: seq_in(home) == 4)
        assert "ALPINE_API_URL" in state_of(home, "alpine")["reason"]
        assert d.stop() == 0
        assert "Traceback" not in d.err


def test_projections_that_fail_together_are_each_named_once_and_nothing_else_is_logged(
    home: Path, tmp_path: Path
) -> None:
    parts = {"top": "", "init": "pass", "open": "pass", "apply": RAISE, "close": "pass"}
    first = ODD.format(**parts).replace("Odd", "First").replace('"odd"', '"first"')
    second = first.replace("First", "Second").replace('"first"', '"second"')
    env = plugins(tmp_path / "site", first=first, second=second)
    with daemon(home, "first", "second", env=env) as d:
        until(lambda: d.complaints.count("\n") >= 2)
        time.sleep(1.5)  # a restart
        assert d.stop() == 0
        lines = sorted(line.partition(" ")[2] for line in d.complaints.splitlines())
    start = "ERROR projections.runtime.supervisor projection_failed projection="
    assert lines == [
        f"{start}{name} error=RuntimeError: it cannot go on" for name in ("first", "second")
    ]


def test_it_is_unhealthy_only_if_none_runs(home: Path, tmp_path: Path) -> None:
    env = odd(tmp_path / "site", apply=RAISE)
    with listening(home, "odd", env=env) as (d, url):
        until(lambda: "projection_failed" in d.err)
        until(lambda: health(url)[0] == 503)
        assert "no projection runs" in health(url)[1]["reasons"]
        assert d.process.poll() is None


# -- restarts


@pytest.mark.slow
def test_a_projection_is_restarted_and_has_failed_until_it_has_applied_a_batch(
    home: Path, tmp_path: Path
) -> None:
    env = odd(tmp_path / "site", apply=UNTIL_REPAIRED + RAISE)
    with daemon(home, "odd", "sqlite", env=env) as d:
        until(lambda: state_of(home, "odd")["state"] == "failed")
        since = state_of(home, "odd")["since"]
        give_up_s = time.monotonic() + 4
        while time.monotonic() < give_up_s:  # restarts of 1 and 2 s: it opens, and fails again
            assert state_of(home, "odd")["state"] == "failed"
        assert state_of(home, "odd")["since"] == since
        (home / "repaired").touch()
        until(lambda: state_of(home, "odd")["state"] == "running")
        assert state_of(home, "odd")["reason"] is None
        assert state_of(home, "odd")["since"] > since
        assert d.stop() == 0
        events = re.findall(r"(\S+) \S+ (projection_\w+) projection=odd", d.err)
        # Once each, not once a restart, and both at one level.
        assert events == [("ERROR", "projection_failed"), ("ERROR", "projection_recovered")]
    assert json.loads((home / "data" / "odd.json").read_text())[0] == 3


def test_one_that_fails_to_open_recovers_on_a_log_without_news(home: Path, tmp_path: Path) -> None:
    """It has no batch to apply: it runs as soon as it is open."""
    env = odd(tmp_path / "site")
    assert eventlog("project", "odd", "--once", home=home, env=env).code == 0
    env = odd(tmp_path / "site2", open=UNTIL_REPAIRED + RAISE)
    with daemon(home, "odd", env=env):
        until(lambda: state_of(home, "odd")["state"] == "failed")
        (home / "repaired").touch()
        until(lambda: state_of(home, "odd")["state"] == "running")


def test_the_traceback_of_a_failure_is_shown_with_v_only(home: Path, tmp_path: Path) -> None:
    env = odd(tmp_path / "site", apply=RAISE)
    for options, is_shown in (((), False), (("-v",), True)):
        with daemon(home, "odd", options=options, env=env) as d:
            until(lambda d=d: "projection_failed" in d.err)  # type: ignore[misc]
            assert d.stop() == 0
            assert ("Traceback" in d.err) == is_shown
            assert ("others_odd.py" in d.err) == is_shown


@pytest.mark.slow
def test_the_watchdog_is_fed_and_it_is_ready_while_a_projection_fails(
    home: Path, tmp_path: Path
) -> None:
    env = odd(tmp_path / "site", open=RAISE)
    with NotifySocket(abstract_name()) as systemd:
        env["NOTIFY_SOCKET"] = systemd.address
        with daemon(home, "odd", env=env) as d:
            until(lambda: systemd.has_received("READY=1"))
            until(lambda: systemd.has_received("STATUS=odd has failed: RuntimeError"))
            before = systemd.messages.count("WATCHDOG=1")

            def is_fed() -> bool:
                systemd.has_received("")
                return systemd.messages.count("WATCHDOG=1") > before

            until(is_fed)
            assert d.stop() == 0


class Hanging:
    """A projection that never ends its first batch."""

    name = "hanging"

    async def open(self, home: Path) -> Checkpoint:
        return Checkpoint(projection=self.name)

    async def apply(
        self, entries: Sequence[Entry], *, before: Checkpoint, after: Checkpoint
    ) -> None:
        await asyncio.Event().wait()

    async def status(self) -> Mapping[str, object]:
        return {}

    async def close(self) -> None:
        pass


def test_the_pause_before_a_restart_is_a_reason_not_to_move_and_a_hang_after_it_is_none(
    home: Path,
) -> None:
    """The watchdog is fed during pauses of up to five minutes."""
    made: list[str] = []

    def make(name: str) -> Hanging:
        made.append(name)
        if len(made) == 1:
            raise RuntimeError("not at first")
        return Hanging()

    async def run() -> None:
        supervisor = Supervisor(home, "hanging", make=make)
        task = asyncio.create_task(supervisor.run())
        await until_async(lambda: supervisor.failure is not None)
        assert supervisor.is_healthy(3)
        await until_async(lambda: supervisor.checkpoint is not None)
        assert not supervisor.is_healthy(3)
        assert supervisor.state == "failed"
        supervisor.stop()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


# -- a checkpoint that is not in the log, and a damaged log


def test_a_checkpoint_beyond_the_log_is_a_failure_and_is_never_rebuilt(
    home: Path, tmp_path: Path
) -> None:
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    append(tmp_path / "other", a_signal(9))
    swap(home, tmp_path / "other")
    env = odd(tmp_path / "site")
    before = database_of(home).read_bytes()
    with daemon(home, "sqlite", "odd", env=env) as d:
        until(lambda: state_of(home, "sqlite")["state"] == "failed")
        assert "does not reach so far" in state_of(home, "sqlite")["reason"]
        append(home, *signals(5, start=20))  # now the log reaches it, on another chain
        until(lambda: "has another entry there" in state_of(home, "sqlite")["reason"])
        assert state_of(home, "odd")["state"] == "running"
        assert d.stop() == 0
    assert database_of(home).read_bytes() == before
    done = eventlog("project", "sqlite", "odd", "--once", home=home, env=env)
    assert done.code == 3
    assert "was built from another log" in done.err
    assert json.loads((home / "data" / "odd.json").read_text())[0] == 6


def damage(home: Path, text: bytes) -> None:
    (segment,) = segments_in(home)
    segment.write_bytes(segment.read_bytes().replace(text, text[:-1] + b"X"))


def test_damage_of_the_log_ends_the_process_whatever_else_has_failed(
    home: Path, tmp_path: Path
) -> None:
    """Also where closing the projection fails while the damage is on its way."""
    env = odd(tmp_path / "site", close=RAISE)
    append(home, *signals(3, start=4))
    damage(home, b'"s-5"')
    with daemon(home, "odd", env=env) as d:
        assert d.wait() == 3
        assert "error: entry 5" in d.err
        assert "projection_failed" not in d.err
    assert json.loads((home / "data" / "odd.json").read_text())[0] == 4


def test_once_applies_what_is_whole_to_each_projection_and_reports_the_damage_once(
    home: Path, tmp_path: Path
) -> None:
    env = odd(tmp_path / "site")
    append(home, *signals(3, start=4))
    damage(home, b'"s-5"')
    done = eventlog("project", "odd", "sqlite", "--once", home=home, env=env)
    assert done.code == 3
    assert done.err.count("entry 5") == 1
    assert json.loads((home / "data" / "odd.json").read_text())[0] == 4
    assert seq_in(home) == 4


def test_damage_at_the_checkpoint_itself_is_damage_of_the_log(home: Path) -> None:
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    append(home, *signals(3, start=4))
    damage(home, b'"s-3"')
    with daemon(home, "sqlite") as d:
        assert d.wait() == 3
        assert "error: entry 3" in d.err


def test_a_log_that_is_gone_when_a_projection_is_restarted_ends_the_process(
    home: Path, tmp_path: Path
) -> None:
    """The only projection waits for its restart, and reads nothing."""
    env = odd(tmp_path / "site", open=RAISE)
    with daemon(home, "odd", env=env) as d:
        until(lambda: "projection_failed" in d.err)
        home.rename(tmp_path / "moved")
        assert d.wait() == 3
    assert not home.exists()


# -- names


@pytest.mark.parametrize("names", [("nope",), ("sqlite", "nope"), ("all", "nope")])
@pytest.mark.parametrize("options", [(), ("--once",)])
def test_an_unknown_name_is_refused_at_once(
    tmp_path: Path, names: tuple[str, ...], options: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    done = eventlog("project", *names, *options, home=home)
    assert done.code == 2
    assert "error: there is no projection nope\n" in done.err
    assert "do:    choose from: alpine, mirror, sqlite, tree, all\n" in done.err
    assert not home.exists()


def test_all_means_every_registered_projection(home: Path, tmp_path: Path) -> None:
    env = odd(tmp_path / "site")
    assert eventlog("project", "all", "--once", home=home, env=env).code == 0
    assert (home / "data" / "odd.json").exists()
    assert_caught_up(home)


def test_all_means_mirror_and_tree_only_where_they_are_configured(
    home: Path, tmp_path: Path
) -> None:
    tree = """
    from projections import Checkpoint
    class Tree:
        name = "tree"
        async def open(self, home):
            (home / "data" / self.name).touch()
            return Checkpoint(projection=self.name)
        async def apply(self, entries, *, before, after): pass
        async def status(self): return {}
        async def close(self): pass
    """
    env = plugins(tmp_path / "site", tree=tree)

    def run_all(**more: str) -> Done:
        return eventlog("project", "all", "--once", home=home, env=env | more)

    assert run_all().code == 0
    assert not (home / "data" / "tree").exists()
    mirrored = run_all(EVENTLOG_STREAM="main")  # chosen, so its other settings are missed
    assert (mirrored.code, "EVENTLOG_NATS_URL is not set" in mirrored.err) == (3, True)
    assert run_all(EVENTLOG_STREAM="").code == 0
    (home / "evidence").mkdir()
    (home / "evidence" / "key").touch()
    assert run_all().code == 0
    assert (home / "data" / "tree").exists()
