"""A shell completes `eventlog` with the script that `eventlog completion` prints."""

import os
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventlog.cli.completion import print_completions
from eventlog.cli.main import cli
from projections import Checkpoint
from projections.delivery.outbox import REFUSED, Outbox, UnsavedChanges, outbox_path
from projections.delivery.outbox_rows import ParkedSignal
from tests.harness.command import COMMAND, eventlog
from tests.harness.forked import forked
from tests.harness.plugins import failing, plugins
from tests.harness.requirements import needs_tool
from tests.harness.terminal import terminal

Completed = Callable[..., list[str]]
SHELLS = ("bash", "zsh", "fish")
ON_PATH = {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}


@pytest.fixture
def completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_it_was: None
) -> Completed:
    """What our command answers where TAB is pressed at the end of a line."""

    def ask(line: str, shell: str = "bash") -> list[str]:
        words = line.split(" ")
        asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
        if shell == "fish":
            asked = {"COMP_WORDS": line, "COMP_CWORD": words[-1]}
        for name, value in {**asked, "_EVENTLOG_COMPLETE": f"{shell}_complete"}.items():
            monkeypatch.setenv(name, value)
        print_completions(cli)
        out, err = capsys.readouterr()
        assert err == ""
        lines = out.splitlines()
        if shell == "zsh":
            return [f"{kind},{value}" for kind, value in zip(lines[::3], lines[1::3], strict=False)]
        return [line.split("\t")[0] for line in lines if line]

    return ask


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("eventlog veri", ["verify"]),
        ("eventlog help parked re", ["retry"]),
        ("eventlog help reb", ["rebuild-database"]),
        ("eventlog parked ", ["discard", "list", "retry"]),
        ("eventlog --home x sch", ["schema"]),
        ("eventlog schema ", ["signal", "fact"]),
        ("eventlog completion z", ["zsh"]),
        ("eventlog verify --js", ["--json"]),
        ("eventlog verify --log-f", ["--log-format"]),
        ("eventlog parked list --ho", ["--home"]),
        ("eventlog verify --log-format ", ["text", "json"]),
        ("eventlog signals --action b", ["buy"]),
        ("eventlog stats --by str", ["strategy"]),
        ("eventlog project s", ["sqlite"]),
        ("eventlog project sqlite ", ["alpine", "all", "mirror", "tree"]),
        ("eventlog cat --limit ", []),
        ("eventlog -V ", None),
    ],
)
def test_commands_options_choices_and_projections_are_completed(
    completed: Completed, shell: str, line: str, values: list[str] | None
) -> None:
    found = completed(line, shell)
    if values is None:
        assert "plain,append" in found, "and no version"
    else:
        assert sorted(found) == sorted(f"plain,{value}" for value in values)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("eventlog --home ", "dir"),
        ("eventlog cat --home ", "dir"),
        ("eventlog append ", "file"),
        ("eventlog backup ", "dir"),
        ("eventlog export --output ", "file"),
        ("eventlog import-legacy --db ", "file"),
    ],
)
def test_names_of_files_and_directories_are_left_to_the_shell(
    completed: Completed, line: str, kind: str
) -> None:
    assert completed(line) == [f"{kind},"]


def test_the_value_after_an_equals_sign_is_completed(completed: Completed) -> None:
    bash = "eventlog verify --log-format = j"  # as bash splits it
    assert completed(bash) == ["plain,json"]
    assert completed("eventlog verify --log-format =") == ["plain,text", "plain,json"]
    for shell in ("zsh", "fish"):
        found = completed("eventlog verify --log-format=j", shell)
        assert found == ["plain,--log-format=json"]


def test_seqs_of_parked_signals_are_completed(completed: Completed, tmp_path: Path) -> None:
    path = outbox_path(tmp_path)
    path.parent.mkdir()
    rows = [ParkedSignal(n, f"s-{n}", REFUSED, 422, "no", 1, 1.0, 2.0, None) for n in (17, 18, 42)]
    with closing(Outbox(path)) as outbox:
        checkpoint = Checkpoint(projection="alpine", seq=42, chain="0" * 64)
        outbox.save(checkpoint, [], UnsavedChanges(park={row.seq: row for row in rows}), 0)
    before, after = f"--home {tmp_path} parked retry 17 ", f"parked discard --home {tmp_path} 17 "
    for line in (f"eventlog {before}", f"eventlog {after}"):
        assert completed(line) == ["plain,18", "plain,42"]
        assert completed(f"{line}4") == ["plain,42"]
    assert completed("eventlog parked retry ") == []


def completed_without_fork(line: str, env: dict[str, str]) -> str:
    words = line.split(" ")
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = eventlog(env={**asked, **env, "_EVENTLOG_COMPLETE": "bash_complete"})
    assert (done.code, done.err) == (0, ""), done.err
    return done.out.decode()


def test_projections_of_other_packages_are_completed(tmp_path: Path) -> None:
    env = plugins(tmp_path / "site", failing=failing(3))
    assert completed_without_fork("eventlog project f", env) == "plain,failing\n"


def test_a_broken_plugin_does_not_write_into_the_line_being_typed(tmp_path: Path) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[eventlog.commands]\nbroken = not_there:command\n")
    env = {"PYTHONPATH": str(tmp_path)}
    assert "plain,verify\n" in completed_without_fork("eventlog ", env)
    assert "broken" not in completed_without_fork("eventlog b", env)


def test_a_question_that_cannot_be_answered_is_silent() -> None:
    for asked in (
        {"_EVENTLOG_COMPLETE": "bash_complete"},
        {"_EVENTLOG_COMPLETE": "ksh_complete"},
        {"_EVENTLOG_COMPLETE": ""},
        {"_EVENTLOG_COMPLETE": "bash_complete", "COMP_WORDS": "eventlog", "COMP_CWORD": "x"},
        {"_EVENTLOG_COMPLETE": "bash_complete", "COMP_WORDS": "eventlog parked retry ", **_AT_3},
    ):
        done = forked(home="home", env=asked)
        assert (done.code, done.out.strip(), done.err) == (0, b"", "")


_AT_3 = {"COMP_CWORD": "3"}  # the home has no parked signals: it has nothing at all

_BASH = r"""
source <(eventlog completion bash)
complete -p eventlog
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _eventlog_completion eventlog
        echo "${COMPREPLY[*]}"; }
ask eventlog veri
ask eventlog project sqlite a
ask eventlog stats --by = mo
"""


@pytest.mark.slow
def test_bash_completes_with_the_script() -> None:
    env = {**os.environ, **ON_PATH}
    words = ("bash", "--norc", "-c", _BASH)
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    registered, *answers = done.stdout.splitlines()
    assert registered.endswith("-F _eventlog_completion eventlog")
    assert answers == ["verify", "alpine all", "month"]


@pytest.mark.slow
def test_a_tab_in_bash_completes_the_line() -> None:
    with terminal("bash", "--norc", "--noprofile", "-i", env={**ON_PATH, "PS1": "$ "}) as shell:
        shell.press('eval "$(eventlog completion bash)"; echo rea""dy\n')
        shell.until("ready\r\n")
        shell.press("eventlog -V; eventlog comple\t")
        shell.until("completion ")
        shell.press("fi\t")
        shell.until("completion fish ")
        assert "Traceback" not in shell.text


@pytest.mark.slow
def test_a_tab_in_zsh_completes_the_line(tmp_path: Path) -> None:
    env = {**ON_PATH, "ZDOTDIR": str(tmp_path), "EVENTLOG_HOME": str(tmp_path), "PS1": "$ "}
    with terminal(needs_tool("zsh", apt="zsh"), "-f", "-i", env=env) as shell:
        shell.press("autoload -U compinit; compinit -u -D; ")
        shell.press('eval "$(eventlog completion zsh)"; echo rea""dy\n')
        shell.until("ready\r\n")
        shell.press("eventlog comple\t")
        shell.until("completion ")
        shell.press("fi\t")
        shell.until("fish")
        shell.press("\x15eventlog verify --log-format=js\t\n")
        shell.until('"message":"there is no log at this home"')
        assert "Traceback" not in shell.text


@pytest.mark.slow
def test_fish_completes_with_the_script(tmp_path: Path) -> None:
    program = "eventlog completion fish | source; complete -C 'eventlog veri';"
    program += " complete -C 'eventlog schema '; complete -C 'eventlog cat --log-format=js'"
    env = {**os.environ, **ON_PATH, "HOME": str(tmp_path)}
    words = (needs_tool("fish", apt="fish"), "--no-config", "-c", program)
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    values = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert sorted(values) == ["--log-format=json", "fact", "signal", "verify"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_names_the_shell_that_asks(shell: str) -> None:
    done = forked("completion", shell, home="home")
    assert done.code == 0
    assert f"_EVENTLOG_COMPLETE={shell}_complete" in done.out.decode()
