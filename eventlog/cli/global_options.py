"""The global options, which are accepted before the command and after it.

Invariant: an option after the command has the effect that it has before it. Where an option is
given twice, the last one counts; each -v adds to the others.
"""

import logging
from copy import copy
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from eventlog.cli.command import CommandContext, complete_directory, unquote
from eventlog.cli.log_output import configure_logging

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

NOTE = (
    "The options --home, -v, -q and --log-format of `eventlog` are accepted here too;"
    " `eventlog help` describes them."
)
_PREFIX = "global_"  # of their names after a command, whose own parameters may have any name


_OPTIONS: dict[tuple[str, ...], dict[str, Any]] = {
    ("--home",): {
        "metavar": "DIR",
        "envvar": "EVENTLOG_HOME",
        "default": ".",
        "shell_complete": complete_directory,
        "help": "Directory of the log and its projections. Default: EVENTLOG_HOME, else the current"
        " one.",
    },
    ("-v", "--verbose"): {"count": True, "help": "Log more to stderr; -vv for debugging."},
    ("-q", "--quiet"): {"is_flag": True, "help": "Log errors only."},
    ("--log-format",): {
        "type": click.Choice(["text", "json"]),
        "default": "text",
        "show_default": True,
        "help": "Format of log messages on stderr.",
    },
}


def global_options() -> list[click.Parameter]:
    """The global options as `eventlog` itself takes them."""
    return [
        click.Option(names, callback=_unquoted_home if "--home" in names else None, **settings)
        for names, settings in _OPTIONS.items()
    ]


class OptionAfterCommand(click.Option):
    """A global option of a command: parsed and completed, but not described there."""

    def get_help_record(self, _ctx: click.Context) -> tuple[str, str] | None:
        return None


class _OptionInWords(click.Option):
    """An option whose help gives the bounds of its value in words, as errors do."""

    def get_help_extra(self, ctx: click.Context) -> "OptionHelpExtra":
        from eventlog.cli.usage import bounds_text

        found = super().get_help_extra(ctx)
        if "range" in found and isinstance(self.type, click.IntRange | click.FloatRange):
            found["range"] = bounds_text(self.type)
        return found


def _in_words(param: click.Parameter) -> click.Parameter:
    if type(param) is not click.Option:
        return param
    found = copy(param)
    found.__class__ = _OptionInWords  # a command may come from another package
    return found


def accepting_global_options(command: click.Command) -> click.Command:
    """A copy of `command` that takes the global options too, and so do its subcommands.

    Its help gives bounds in words, and its whole first sentence wherever it is listed. A name that
    the command uses itself keeps the meaning that the command gives it.
    """
    found = copy(command)
    found.params = [*map(_in_words, command.params), *_options_after(command)]
    found.epilog = f"{command.epilog}\n\n{NOTE}" if command.epilog else NOTE
    if not command.deprecated:  # else click would add that label twice
        found.short_help = command.get_short_help_str(limit=len(command.help or ""))
    if isinstance(found, click.Group):
        found.commands = {
            name: accepting_global_options(below) for name, below in found.commands.items()
        }
    return found


def _options_after(command: click.Command) -> list[click.Parameter]:
    taken = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    options: list[click.Parameter] = []
    for names, settings in _OPTIONS.items():
        free = [name for name in names if name not in taken]
        if free:
            stored_as = _PREFIX + names[-1].strip("-").replace("-", "_")
            options.append(
                OptionAfterCommand(
                    [*free, stored_as], callback=_use_value, expose_value=False, **settings
                )
            )
    return options


def _use_value(ctx: click.Context, option: click.Parameter, value: object) -> None:
    """Replaces the value that was given before the command."""
    assert option.name is not None
    if ctx.get_parameter_source(option.name) is not ParameterSource.COMMANDLINE:
        return
    params = ctx.find_root().params
    name = option.name.removeprefix(_PREFIX)
    params[name] = params[name] + value if name == "verbose" else value
    if not ctx.resilient_parsing:  # that is completion, where nothing is run
        apply_global_options(ctx)


def apply_global_options(ctx: click.Context) -> None:
    """Hands the values to the command of `ctx`, and configures logging."""
    from eventlog.storage.home import resolved_home

    home, verbose, quiet, log_format = (
        ctx.find_root().params[name] for name in ("home", "verbose", "quiet", "log_format")
    )
    obj = CommandContext(resolved_home(home or "."))
    context: click.Context | None = ctx
    while context is not None:
        if isinstance(context.obj, CommandContext | None):  # else a group has set one of its own
            context.obj = obj
        context = context.parent
    level = logging.ERROR if quiet else max(logging.DEBUG, logging.WARNING - 10 * verbose)
    configure_logging(level, log_format)


def _unquoted_home(ctx: click.Context, option: click.Parameter, home: str) -> str:
    is_variable = ctx.get_parameter_source(str(option.name)) is ParameterSource.ENVIRONMENT
    return unquote(home) if is_variable else home
