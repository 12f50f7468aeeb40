"""Usage errors in our form: what is wrong, where, and what to do, with suggestions.

Invariant: every usage error of click becomes one, also those that this module does not know.
"""

import re
from collections.abc import Iterable
from traceback import walk_tb

import click

from eventlog.cli.command import WrongUsage
from eventlog.errors import EventLogError, printable_value

_SUGGESTIONS_MAX = 3
_PREFIX_CHARS_MIN = 3  # a shorter word begins too many names


def as_event_log_error(error: click.ClickException) -> EventLogError:
    """The error in our form. Its exit code stays that of `error`."""
    ctx = _context_of(error)
    where = "" if ctx is None else ctx.command_path
    match error:
        case WrongUsage():
            return EventLogError(error.message, where=where, do=error.do)
        case click.NoSuchCommand(ctx=click.Context() as ctx):
            return no_such_command(ctx, error.command_name)
        case click.NoSuchOption(ctx=click.Context() as ctx):
            return _no_such_option(ctx, error.option_name)
        case click.MissingParameter(param=click.Parameter() as param, ctx=click.Context() as ctx):
            what = f"{_name_of(param)} is missing"
            return EventLogError(what, where=where, do=f"call it as: {_usage(ctx)}")
        case click.BadParameter(param=click.Parameter() as param) if error.param_hint is None:
            return _bad_value(error, param, where)
    if ctx is None or isinstance(error, click.BadOptionUsage):
        do = _help_hint(ctx)
    else:
        do = f"call it as: {_usage(ctx)}"
    return EventLogError(_as_our_text(error.format_message()), where=where, do=do)


def _context_of(error: click.ClickException) -> click.Context | None:
    """The context of the command that was called wrongly.

    click names none where the value of an option is missing. It is then that of the innermost
    call which had one.
    """
    found: click.Context | None = getattr(error, "ctx", None)
    if found is None:
        for frame, _ in walk_tb(error.__traceback__):
            ctx = frame.f_locals.get("ctx")
            found = ctx if isinstance(ctx, click.Context) else found
    return found


def no_such_command(ctx: click.Context, name: str) -> EventLogError:
    """The error about a name that is no command of the group of `ctx`, with suggestions."""
    known = ctx.command.list_commands(ctx) if isinstance(ctx.command, click.Group) else []
    if name in known:
        what = f"there is no command {printable_value(name)}: its plug-in is broken"
        do = "repair or remove the package that adds it"
        return EventLogError(what, where=ctx.command_path, do=do)
    if ctx.parent is None:
        known += [option for option in _options_of(ctx) if option.startswith("--")]
    what = f"there is no command {printable_value(name)}"
    return EventLogError(
        what, where=ctx.command_path, do=f"{_suggestion(name, known)}{_help_hint(ctx)}"
    )


def _no_such_option(ctx: click.Context, name: str) -> EventLogError:
    do = f"{_suggestion(name, _options_of(ctx))}{_help_hint(ctx)}"
    if ctx.parent is None:
        do += "; the options of a command stand after it"
    what = f"there is no option {printable_value(name)}"
    return EventLogError(what, where=ctx.command_path, do=do)


def _bad_value(error: click.BadParameter, param: click.Parameter, where: str) -> EventLogError:
    """An error about a value: click says what it is not, and we say what is wanted."""
    wanted = _wanted(param.type)
    value, separator, _ = error.message.rpartition(" is not ")
    if wanted and separator:
        what = f"{_name_of(param)} must be {wanted} (got {printable_value(value)})"
    else:
        what = f"{_name_of(param)}: {_as_our_text(error.message)}"
    suggestion = ""
    if isinstance(param.type, click.Choice):
        suggestion = _suggestion(value.strip("'\""), map(str, param.type.choices))
    return EventLogError(what, where=where, do=f"{suggestion}{_help_hint(error.ctx)}")


def _wanted(kind: "click.ParamType[object]") -> str:
    """What a parameter of this type takes; empty where click's own message says it."""
    match kind:
        case click.Choice():
            *first, last = map(str, kind.choices)
            return f"{', '.join(first)} or {last}" if first else last
        case click.IntRange() | click.FloatRange():
            between = " " if None not in (kind.min, kind.max) else ", "
            return between.join(filter(None, (_noun(kind), bounds_text(kind))))
        case click.types.IntParamType() | click.types.FloatParamType():
            return _noun(kind)
    return ""


def _noun(kind: "click.ParamType[object]") -> str:
    if kind.name == "seconds":
        return "a number of seconds"
    return "a whole number" if isinstance(kind, click.types.IntParamType) else "a number"


def bounds_text(kind: click.IntRange | click.FloatRange) -> str:
    """The bounds of a number in words; empty if it has none."""
    match kind.min, kind.max:
        case None, None:
            return ""
        case least, None:
            return f"{least} or more"
        case None, most:
            return f"{most} or less"
        case least, most:
            return f"from {least} to {most}"


def _suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean X?; `, or nothing. Dashes do not count: `verison` may mean --version."""
    from difflib import get_close_matches

    names = {name.lstrip("-"): name for name in known}
    bare = word.lstrip("-").lower()
    begun = [name for name in names if name.startswith(bare) and len(bare) >= _PREFIX_CHARS_MIN]
    close = get_close_matches(bare, names, n=_SUGGESTIONS_MAX)
    found = [names[name] for name in dict.fromkeys((*begun, *close))][:_SUGGESTIONS_MAX]
    return f"did you mean {' or '.join(found)}? " if found else ""


def _options_of(ctx: click.Context) -> list[str]:
    params = ctx.command.get_params(ctx)
    return [name for p in params if isinstance(p, click.Option) for name in p.opts]


def _name_of(param: click.Parameter) -> str:
    """How a person calls it: the long name of an option, the metavariable of an argument."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return re.sub(r"[\[\].]", "", param.metavar or str(param.name).upper())


def _usage(ctx: click.Context) -> str:
    return " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)])


def _help_hint(ctx: click.Context | None) -> str:
    program, *words = ["eventlog"] if ctx is None else ctx.command_path.split()
    return f"see `{' '.join([program, 'help', *words])}`"


def _as_our_text(message: str) -> str:
    """A message of click, without its capital letter and its full stop."""
    text = " ".join(message.split())
    is_word = text[1:2].islower()
    return (text[:1].lower() + text[1:] if is_word else text).rstrip(".")
