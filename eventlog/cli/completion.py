"""The command `completion`, and the completions that its scripts request on each TAB.

Invariant: a completion changes nothing and reads no log; without an answer it prints nothing.
"""

import logging
import os
from contextlib import suppress

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
)

from eventlog.cli.command import COMPLETE_VARIABLE
from eventlog.cli.streams import print_line

PROGRAM = "eventlog"


class _Bash(BashComplete):
    """Bash passes `--name=value` as three words, and inserts only the last one."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        return [word for word in args if word != "="], incomplete


class _WholeWords(ShellComplete):
    """A shell that passes `--name=value` as one word, and replaces all of it."""

    def get_completions(self, args: list[str], incomplete: str) -> "list[CompletionItem[str]]":
        found = super().get_completions(args, incomplete)
        name, separator, _ = incomplete.partition("=")
        if separator and name.startswith("--"):
            for item in found:
                if item.type == "plain":
                    item.value = f"{name}={item.value}"
        return found


class _Zsh(_WholeWords, ZshComplete):
    pass


class _Fish(_WholeWords, FishComplete):
    pass


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes `eventlog` in a shell.

    It completes commands, options, the choices of options, projections, parked signals and names of
    files. The script calls `eventlog`, which must be on the PATH; it needs no update for new
    commands and plug-ins.

    \b
    Example:
      eval "$(eventlog completion bash)"
      eventlog completion bash > ~/.local/share/bash-completion/completions/eventlog
      eventlog completion zsh > "${fpath[1]}/_eventlog"
      eventlog completion fish > ~/.config/fish/completions/eventlog.fish
    """
    found = SHELLS[shell](ctx.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not `source()`: for bash it runs bash first, which may be missing where a package is built.
    print_line((found.source_template % found.source_vars()).rstrip("\n"))


def print_completions(program: click.Command) -> None:
    """Prints what may follow the words that a script has put into the environment."""
    logging.disable()  # a plug-in that cannot be loaded must not write into the line being typed
    shell, _, action = os.environ[COMPLETE_VARIABLE].partition("_")
    if shell not in SHELLS or action != "complete":
        return
    with suppress(Exception):  # code of plug-ins, and a state of the home that is reported later
        print_line(SHELLS[shell](program, {}, PROGRAM, COMPLETE_VARIABLE).complete())
