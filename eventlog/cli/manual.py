"""Man pages, made from the help of the commands: one for the program, and one for each command.

Invariant: a page says what the help says, and is the same for the same commands and version.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module

import click

from eventlog.cli.global_options import accepting_global_options
from eventlog.cli.main import BUILT_IN, cli

_ESCAPES = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "~": "\\(ti", "^": "\\(ha"}  # not `: it marks code
)
_SEE_HELP = "The global options of \\fBeventlog\\fR(1) are accepted too."


def program_with(plugins: Mapping[str, str]) -> click.Group:
    """`eventlog` with the commands of this package and `plugins`: name to `module:object`."""
    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in BUILT_IN}
    for name, place in plugins.items():
        module, _, attribute = place.partition(":")
        commands[name] = accepting_global_options(getattr(import_module(module), attribute))
    found = {name: command for name, command in commands.items() if command is not None}
    return click.Group("eventlog", commands=found, params=cli.params, help=cli.help)


def man_pages(program: click.Group, version: str) -> dict[str, str]:
    """The name of each file, such as `eventlog-append.1`, and its text in the man(7) format."""
    root = click.Context(
        program, info_name="eventlog", help_option_names=["-h", "--help"], terminal_width=80
    )
    contexts = list(_contexts(root))
    return {f"{_page_name(ctx)}.1": _page(ctx, contexts, version) for ctx in contexts}


def _contexts(ctx: click.Context) -> Iterator[click.Context]:
    """A context for the command of `ctx` and for each command below it, in order."""
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name, command in sorted(ctx.command.commands.items()):
            yield from _contexts(click.Context(command, info_name=name, parent=ctx))


def _page_name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _page(ctx: click.Context, contexts: list[click.Context], version: str) -> str:
    command = ctx.command
    summary, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    usage = " ".join(command.collect_usage_pieces(ctx))
    lines = [
        # Without a date: the same source gives the same page.
        f'.TH "{_escaped(_page_name(ctx).upper())}" "1" "" "eventlog {version}" "User Commands"',
        ".SH NAME",
        f"{_escaped(_page_name(ctx))} \\- {_escaped(_one_line(summary).rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_escaped(ctx.command_path)}\\fR {_escaped(usage)}",
    ]
    paragraphs = [text for text in rest.split("\n\n") if text]
    examples = [text for text in paragraphs if text.startswith("\b")]
    lines += [".SH DESCRIPTION", _text(_one_line(summary))]
    for text in paragraphs:
        if text not in examples:
            lines += [".PP", _text(_one_line(text))]
    lines += [".SH OPTIONS", *_options(ctx)]
    if ctx.parent is not None:
        lines += [".PP", _SEE_HELP]
    below = [other for other in contexts if other.parent is ctx]
    if below:
        lines += [".SH COMMANDS"]
        for other in below:
            text = other.command.get_short_help_str(limit=len(other.command.help or ""))
            lines += _item(f"\\fB{_escaped(_page_name(other))}\\fR(1)", text)
    for text in examples:
        lines += [".SH EXAMPLES", ".EX", *map(_line, text.splitlines()[2:]), ".EE"]
    if ctx.parent is not None:
        lines += [".SH SEE ALSO", _see_also(ctx.parent, ctx, contexts)]
    return "\n".join(lines) + "\n"


def _options(ctx: click.Context) -> Iterator[str]:
    for param in ctx.command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            names, text = record
            yield from _item(re.sub(r"(--?[\w-]+)", r"\\fB\1\\fR", names).replace("-", "\\-"), text)


def _item(tag: str, text: str) -> list[str]:
    """A tagged paragraph. `tag` is escaped already."""
    return [".TP", tag, _text(_one_line(text))]


def _see_also(parent: click.Context, ctx: click.Context, contexts: list[click.Context]) -> str:
    """The page above; for a subcommand also those beside it."""
    beside = [other for other in contexts if other.parent is parent and other is not ctx]
    near = [parent, *(beside if parent.parent is not None else [])]
    return ", ".join(f"\\fB{_escaped(_page_name(other))}\\fR(1)" for other in near)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text(text: str) -> str:
    """A paragraph, in which `code` is bold."""
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", _line(text))


def _line(text: str) -> str:
    """A line of text: a point or an apostrophe at its start would make it a request."""
    escaped = _escaped(text)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _escaped(text: str) -> str:
    """`text` without control over roff: its dashes, quotes and tildes stay those of a shell."""
    return text.translate(_ESCAPES)
