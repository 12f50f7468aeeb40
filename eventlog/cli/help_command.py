"""The command `help`.

Invariant: it prints what `--help` prints, and runs nothing.
"""

from typing import TYPE_CHECKING

import click

from eventlog.cli.streams import print_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _complete_command(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    found = _context_of(ctx.find_root(), ctx.params["words"] or ())
    return found.command.shell_complete(found, incomplete) if not incomplete.startswith("-") else []


@click.command("help")
@click.argument(
    "words", nargs=-1, metavar="[COMMAND [SUBCOMMAND]]", shell_complete=_complete_command
)
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show help on `eventlog`, or on one command.

    \b
    Example:
      eventlog help
      eventlog help append
      eventlog help parked retry
    """
    print_line(_context_of(ctx.find_root(), words).get_help())


def _context_of(root: click.Context, words: tuple[str, ...]) -> click.Context:
    """The context of the command that `words` name. Raises NoSuchCommand."""
    context = root
    for word in words:
        group = context.command
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            raise click.NoSuchCommand(word, ctx=context)
        context = click.Context(found, info_name=word, parent=context)
    return context
