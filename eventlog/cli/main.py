"""The `eventlog` command: global options, logging, exit codes.

Data goes to stdout, messages go to stderr. Exit codes: 0 done; 1 a problem was found; 2 usage;
3 could not run. Plug-ins add commands through the entry-point group `eventlog.commands`. No other
module of this package reads the environment.

Invariant: an expected failure is reported as what, where and what to do, never as a traceback.
"""

import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import NoReturn

import click

from eventlog.cli.command import (
    COMPLETE_VARIABLE,
    EXIT_COULD_NOT_RUN,
    EXIT_INTERRUPTED,
    EXIT_PROBLEM,
)
from eventlog.cli.global_options import (
    accepting_global_options,
    apply_global_options,
    global_options,
)
from eventlog.cli.interrupts import interrupt_on_sigterm, interrupts_held_back
from eventlog.cli.log_output import configure_logging, logs_json
from eventlog.cli.streams import (
    NoReader,
    discard_stdout,
    flush_standard_streams,
    open_standard_streams,
    print_error,
    print_line,
    print_message,
)
from eventlog.errors import EventLogError

BUILT_IN = {  # command: where this package defines it
    "append": "append.command:append",
    "cat": "log_commands:cat",
    "completion": "completion:completion",
    "compress": "maintenance:compress",
    "help": "help_command:help_command",
    "repair": "maintenance:repair",
    "schema": "schema_command:schema",
    "tail": "log_commands:tail",
    "verify": "maintenance:verify",
}


class CommandGroup(click.Group):
    """The commands of this package and of plug-ins. Each is imported when it is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        from eventlog.plugins import COMMANDS, plugin_names

        return sorted({*BUILT_IN, *plugin_names(COMMANDS)})

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        with interrupts_held_back():
            found = _load_command(cmd_name)
        return accepting_global_options(found) if isinstance(found, click.Command) else None


def _load_command(name: str) -> object:
    import_module("eventlog.format.line")  # with orjson, which every command needs
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(f"eventlog.cli.{module}"), attribute)
    from eventlog.plugins import COMMANDS, load_plugin

    return load_plugin(COMMANDS, name)


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:  # that is completion
        from importlib.metadata import version

        print_line(f"eventlog {version('signal-eventlog')}")
        ctx.exit()


_VERSION_OPTION = click.Option(
    ["-V", "--version"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)


@click.group(
    cls=CommandGroup,
    params=[_VERSION_OPTION, *global_options()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
def cli(ctx: click.Context, /, **_options: object) -> None:
    """Append trading signals to a hash-chained log and query what is derived from it.

    Data goes to stdout, messages to stderr. Exit codes: 0 done; 1 the result is bad news, such as
    damage, differences or invalid input; 2 wrong usage; 3 the command could not run.
    `eventlog help COMMAND` describes one command. The options may also stand after the command.

    \b
    Example:
      echo '{"symbol":"AAPL","action":"BUY","entry_price":150.5,"target_price":158.25,
             "stop_price":147,"confidence":85.5,"strategy":"demo"}' | tr -d '\\n' |
        eventlog --home ./home append
      eventlog --home ./home tail -n 5
      eventlog --home ./home verify
    """
    apply_global_options(ctx)


def _invoke() -> None:
    """Runs the command without click's `main`, which exits with 1 when stdout has no reader."""
    if COMPLETE_VARIABLE in os.environ:
        from eventlog.cli.completion import print_completions

        print_completions(cli)
        return
    with cli.make_context("eventlog", sys.argv[1:]) as context:
        cli.invoke(context)


def _run() -> int:
    """Runs the command, reports an expected failure, and returns the exit code."""
    # Until the options are parsed: a plug-in that cannot be loaded is logged before.
    configure_logging(logging.WARNING, "json" if _asks_for_json(sys.argv[1:]) else "text")
    code: object = 0
    try:
        try:
            _invoke()
        except SystemExit as exit_:  # the command's own code
            code = exit_.code
        except click.exceptions.Exit as exit_:  # --help, --version
            code = exit_.exit_code
        with suppress(NoReader):  # the reader has what it wants, and the command is done
            sys.stdout.flush()
    except click.ClickException as error:
        _report_usage_error(error)
        code = error.exit_code
    except EventLogError as error:
        _report_error(error)
        code = EXIT_COULD_NOT_RUN
    except ExceptionGroup as group:  # several projections failed
        ours, others = group.split(EventLogError)
        if others is not None:
            raise
        for one in ours.exceptions if ours is not None else ():
            assert isinstance(one, EventLogError), "the group has one level"
            _report_error(one)
        code = EXIT_COULD_NOT_RUN
    except NoReader:
        code = 0  # as `eventlog cat | head`
    except BrokenPipeError:
        code = EXIT_COULD_NOT_RUN
    except OSError as error:
        _report_error(_refused_error(error))
        code = EXIT_COULD_NOT_RUN
    except (KeyboardInterrupt, click.Abort):
        discard_stdout()
        code = EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0 if code is None else EXIT_PROBLEM


def _refused_error(error: OSError) -> EventLogError:
    what, where = f"the system refused: {error.strerror or error}", str(error.filename or "")
    do = "check the permissions of this account, and the disk"
    if isinstance(error, FileNotFoundError):
        do = "create the directory that the path names, or name another path"
    return EventLogError(what, where=where, do=do)


def _report_error(error: EventLogError) -> None:
    """Prints an expected failure on stderr: what, where, do; as JSON with `--log-format json`."""
    if logs_json():
        parts = {"where": error.where, "do": error.do}
        fields = {key: text for key, text in parts.items() if text}
        logging.getLogger("eventlog").error("%s", error.what, extra={"fields": fields})
    else:
        print_error(error)


def _report_usage_error(error: click.ClickException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        print_message(error.format_message())
        return
    from eventlog.cli.usage import as_event_log_error

    if _asks_for_json(sys.argv[1:]):
        configure_logging(logging.ERROR, "json")  # the options may not have been parsed
    _report_error(as_event_log_error(error))


def _asks_for_json(words: list[str]) -> bool:
    return "--log-format=json" in words or ("--log-format", "json") in pairwise(words)


def main() -> NoReturn:
    """Runs the command and exits with its code."""
    try:
        os.umask(0o077)  # what is created without a mode of its own, also by a library, is private
        interrupt_on_sigterm()
        open_standard_streams()
        try:
            code = _run()
        finally:
            flush_standard_streams()
    except KeyboardInterrupt:  # before or after the command itself
        discard_stdout()
        code = EXIT_INTERRUPTED
    sys.exit(code)
