"""tools/ops names nothing that does not exist: commands, options, units, metrics and labels."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pytest

from eventlog.cli.main import cli
from projections.alpine.metered_client import OUTCOMES
from projections.monitoring.evidence_status import UNSIGNED_S_MAX
from projections.monitoring.metrics import exposition
from projections.monitoring.snapshot import (
    DeliverySnapshot,
    EvidenceSnapshot,
    LogSnapshot,
    MirrorSnapshot,
    ProjectionSnapshot,
    ReplicaSnapshot,
    Snapshot,
)
from projections.projection import RequestCounters
from projections.replication import follow, serve
from projections.runtime.daemon import STATUS_S, STOP_S_MAX
from projections.runtime.projector import BatchCounters
from tests.harness.requirements import CHECKOUT, needs_tool

OPS = CHECKOUT / "tools/ops"
UNITS = sorted(OPS.glob("eventlog-*"))
ALERTS = OPS / "prometheus-alerts.yml"
CONSOLE_STOP_S_MAX = 2  # from SIGTERM to its end
PROMETHEUS_OWN = {"up"}  # and the labels that a scrape adds
LABELS_OF_A_SCRAPE = {"job", "instance"}
ENVIRONMENT = {"EVENTLOG_HOME", "PROJECT_OPTIONS"}
HOME = "/var/lib/eventlog/%i"  # %i: the instance, so one template serves any number of homes


def settings_of(unit: Path) -> list[tuple[str, str]]:
    lines = [line for line in unit.read_text().splitlines() if line and line[0] not in "#;["]
    assert all("=" in line for line in lines), f"{unit.name}: a line is no setting"
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def values(unit: Path, key: str) -> list[str]:
    return [value for name, value in settings_of(unit) if name == key]


def commands_of(unit: Path) -> Iterator[list[str]]:
    """The words behind `eventlog` in each command line of it."""
    for line in values(unit, "ExecStart"):
        program, *words = shlex.split(line)
        if Path(program).name == "eventlog":
            yield [word for word in words if not word.startswith("$")]


def command_named(name: str) -> click.Command:
    for point in entry_points(group="eventlog.commands"):
        if point.name == name:
            command: click.Command = point.load()
            return command
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


# -- units


def test_there_are_units_for_the_daemons_the_console_and_verify() -> None:
    names = [words[0] for unit in UNITS for words in commands_of(unit)]
    assert {"project", "web", "verify", "follow", "serve", "evidence"} <= set(names)


def test_a_checkpoint_is_signed_only_as_far_as_the_backup_that_was_made_before_it() -> None:
    backup, checkpoint = commands_of(OPS / "eventlog-checkpoint@.service")
    assert backup == ["backup", checkpoint[-1]]
    assert checkpoint[:-1] == ["evidence", "checkpoint", "--backed-up"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_command_and_option_in_a_unit_exists(unit: Path) -> None:
    for words in commands_of(unit):
        command, rest = command_named(words[0]), words[1:]
        # click keeps the help option of a command as its first context has it.
        context = click.Context(command, help_option_names=["-h", "--help"])
        if isinstance(command, click.Group):
            found = command.get_command(context, rest.pop(0))
            assert found is not None, words
            command, context = found, click.Context(found, help_option_names=["-h", "--help"])
        command.parse_args(context, rest)  # raises for what it does not know


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_unit_that_a_unit_names_exists(unit: Path) -> None:
    text = " ".join(
        value for key, value in settings_of(unit) if key in ("OnFailure", "Unit", "After")
    )
    for name in re.findall(r"[\w@%.-]+\.(?:service|timer)", text):
        if name.startswith("eventlog"):
            assert (OPS / re.sub(r"@.+\.service", "@.service", name)).exists(), name
            assert "@" in name, f"{name} is of no home"
    if unit.suffix == ".timer":
        assert unit.with_suffix(".service").exists()


def test_the_daemons_unit_fits_what_the_daemon_does() -> None:
    unit = OPS / "eventlog-project@.service"
    (kind,), (watchdog,), (stop,) = (
        values(unit, key) for key in ("Type", "WatchdogSec", "TimeoutStopSec")
    )
    assert kind == "notify"
    assert int(watchdog) >= 3 * STATUS_S
    assert int(stop) > STOP_S_MAX + 3
    # The lock's word names the boot, which is read below /proc/sys.
    assert not values(unit, "ProcSubset")
    assert {name.partition("=")[0] for name in values(unit, "Environment")} <= ENVIRONMENT


@pytest.mark.parametrize("daemon", [follow, serve], ids=["follow", "serve"])
def test_the_unit_of_a_daemon_of_replication_fits_what_it_does(daemon: ModuleType) -> None:
    unit = OPS / f"eventlog-{daemon.__name__.rpartition('.')[2]}@.service"
    assert values(unit, "Type") == ["notify"]
    assert int(values(unit, "WatchdogSec")[0]) >= 3 * daemon.STATUS_S
    assert int(values(unit, "TimeoutStopSec")[0]) > daemon.STOP_S_MAX + 3
    assert not values(unit, "ProcSubset")
    project = OPS / "eventlog-project@.service"
    for key, value in settings_of(project):
        if key.startswith(("Protect", "Private", "Restrict", "SystemCall", "Lock", "UMask")):
            assert value in values(unit, key), f"{key} differs"


def test_the_consoles_unit_asks_for_a_password_and_gives_it_time_to_end() -> None:
    unit = OPS / "eventlog-web@.service"
    ((_, *words),) = commands_of(unit)
    assert words[:1] == ["--token-file"]
    assert int(values(unit, "TimeoutStopSec")[0]) > CONSOLE_STOP_S_MAX
    assert not values(unit, "ProcSubset")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_unit_is_a_template_whose_instance_is_its_home(unit: Path) -> None:
    assert unit.stem.endswith("@")
    text = "\n".join(f"{key}={value}" for key, value in settings_of(unit))
    if unit.suffix == ".service" and "eventlog-failed" not in unit.name:
        assert f"EVENTLOG_HOME={HOME}" in values(unit, "Environment")
    # No path of a home, a setting or a backup is the same for two instances.
    for path in re.findall(r"(?:/var/lib|/etc|/mnt/backup)/eventlog[^\s]*", text):
        assert "%i" in path or path == "/mnt/backup/eventlog", path
    assert all(path == "eventlog/%i" for path in values(unit, "StateDirectory"))


@pytest.mark.slow
def test_systemd_analyze_finds_no_error_in_the_units(tmp_path: Path) -> None:
    analyze = needs_tool("systemd-analyze", apt="systemd")
    copies = []
    for unit in UNITS:
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/eventlog/bin/eventlog", "/bin/true"))
        copies.append(str(copy))
    done = subprocess.run(
        [analyze, "verify", *copies], capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line for line in done.stderr.splitlines() if "eventlog-" in line]
    assert lines == []
    broken = tmp_path / "eventlog-broken@.service"
    broken.write_text("[Service]\nType=nonsense\nExecStart=/bin/true\n")
    done = subprocess.run(
        [analyze, "verify", str(broken)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "eventlog-broken@" in done.stderr, "it checks nothing in a template"


# -- alerts


class Alert(NamedTuple):
    """One rule."""

    name: str
    expr: str
    text: str


def alerts() -> list[Alert]:
    """The rules, of the few forms of YAML that the file uses."""
    found = []
    for part in re.split(r"^      - alert: ", ALERTS.read_text(), flags=re.MULTILINE)[1:]:
        expr = re.findall(r"^        expr: (.*)$", part, re.MULTILINE)
        assert len(expr) == 1, f"one line of expr each: {part}"
        found.append(Alert(part.split("\n", 1)[0], expr[0], part))
    return found


def samples() -> dict[str, dict[str, set[str]]]:
    """The values of each label, by the name of each sample that /metrics can give."""
    delivery = DeliverySnapshot(
        delivered=1, refused=1, failing=1, state="waiting", requests=RequestCounters()
    )
    mirror = MirrorSnapshot(state="mirroring", replicas_current=3, lost_acked=0)
    projections = [
        ProjectionSnapshot(
            name=name,
            checkpoint=1,
            lag_entries=1,
            lag_seconds=1.0,
            is_watched=True,
            stalled=None,
            is_external=False,
            is_stopping=False,
            failure=None,
            counters=BatchCounters(),
            delivery=delivery if name == "alpine" else None,
            mirror=mirror if name == "mirror" else None,
        )
        for name in ("alpine", "mirror", "sqlite")
    ]
    log = LogSnapshot(last_seq=1, last_kept=1, bytes=1, segments=1, backup_age_seconds=1.0)
    replica = ReplicaSnapshot(lag_entries=1, is_following=True)
    evidence = EvidenceSnapshot(
        size=1,
        checkpoint_age_seconds=1.0,
        cosignature_age_seconds=1.0,
        stamp_age_seconds=1.0,
        lag_entries=1,
        lag_seconds=1.0,
    )
    snapshot = Snapshot(
        log=log,
        problem=None,
        projections=tuple(projections),
        replica=replica,
        evidence=evidence,
    )
    text = exposition(snapshot).decode()
    found: dict[str, dict[str, set[str]]] = {}
    for name, labels in re.findall(r"^(eventlog_\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        mine = found.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            mine.setdefault(label, set()).add(value)
    return found


KNOWN = samples()


def test_the_check_covers_every_metric() -> None:
    assert set(OUTCOMES) == KNOWN["eventlog_delivery_requests_total"]["outcome"]
    assert len(KNOWN) > 15


def test_each_metric_is_documented_and_no_other() -> None:
    text = (CHECKOUT / "docs/operations.md").read_text()
    documented = set(re.findall(r"`(eventlog_\w+)`", text))
    parts = re.compile(r"_(bucket|sum|count)$")
    assert documented == {parts.sub("", name) for name in KNOWN}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_each_metric_and_label_in_an_alert_exists(alert: Alert) -> None:
    words = set(re.findall(r"\b(?:eventlog_\w+|up)\b", re.sub(r'"[^"]*"', "", alert.expr)))
    assert words, "it looks at no metric"
    assert words <= set(KNOWN) | PROMETHEUS_OWN
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", alert.expr):
        labels = KNOWN.get(name, {"job": {"eventlog"}})
        for label, value in re.findall(r'(\w+)!?="([^"]*)"', selector):
            assert value in labels[label], f"{name} has no {label} {value}"
    used = re.findall(r"(?:\bby|\bon) \(([^)]*)\)", alert.expr)
    used += re.findall(r"\$labels\.(\w+)", alert.text)
    names = {label for name in words for label in KNOWN.get(name, {})} | LABELS_OF_A_SCRAPE
    assert {label.strip() for text in used for label in text.split(",")} <= names
    assert not re.findall(r"(\w+)\s+\{", alert.expr)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_each_alert_has_a_severity_and_a_remedy(alert: Alert) -> None:
    assert re.search(r"^          severity: (page|ticket)$", alert.text, re.MULTILINE)
    assert re.search(r"^          summary: \S", alert.text, re.MULTILINE)
    assert re.search(r"^          do: \S", alert.text, re.MULTILINE)
    assert alert.expr.count("(") == alert.expr.count(")")
    for words in re.findall(r"`eventlog ([a-z-]+)", alert.text):
        command_named(words)  # raises for one that does not exist


def test_the_alerts_cover_every_condition_that_needs_a_person() -> None:
    exprs = " ".join(alert.expr for alert in alerts())
    for state in ("waiting", "refused", "rejecting", "stopped"):
        assert f'eventlog_delivery_state{{state="{state}"}}' in exprs
    for state in ("waiting", "unfit", "fenced", "short"):
        assert f'eventlog_mirror_state{{state="{state}"}}' in exprs
    for name in (
        "eventlog_mirror_lost_acked",
        "eventlog_replica_following",
        "eventlog_replica_lag_entries",
        "up",
        "eventlog_projection_failed",
        "eventlog_projection_lag_seconds",
        "eventlog_projection_watched",
    ):
        assert name in exprs
    assert "eventlog_delivery_parked" in exprs
    assert "eventlog_backup_age_seconds" in exprs
    assert f"eventlog_evidence_lag_seconds > {UNSIGNED_S_MAX:.0f}" in exprs


def test_the_file_of_alerts_has_the_shape_that_prometheus_reads() -> None:
    """Only mappings and lists of plain scalars, quoted where YAML asks for it."""
    text = ALERTS.read_text()
    for line in text.splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        assert "\t" not in line
        found = re.fullmatch(r"( *)(?:- )?([a-z]+):(?: (.+))?", line)
        assert found, line
        indent, key, scalar = found.groups()
        assert len(indent) % 2 == 0
        if scalar is not None and not (scalar[0] == scalar[-1] == '"'):
            assert scalar[0] not in "`{[&*!|>%@'\"", f"{key} must be quoted: {line}"
            assert ": " not in scalar, f"{key} must be quoted: {line}"
            assert " #" not in scalar, f"{key} must be quoted: {line}"
