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
from typing import NoReturn

import click
from click.core import ParameterSource

from eventlog.cli.command import (
    EXIT_COULD_NOT_RUN,
    EXIT_INTERRUPTED,
    EXIT_PROBLEM,
    CommandContext,
    unquote,
)
from eventlog.cli.interrupts import interrupt_on_sigterm, interrupts_held_back
from eventlog.cli.streams import (
    NOTE,
    NoReader,
    discard_stdout,
    flush_standard_streams,
    open_standard_streams,
    print_error,
    print_line,
)
from eventlog.errors import EventLogError

_QUIET_LOGGERS = ("httpx", "httpcore", "watchfiles", "aiosqlite", "asyncio")


BUILT_IN = {  # command: the module of this package that defines it
    "append": "log_commands",
    "cat": "log_commands",
    "compress": "maintenance",
    "repair": "maintenance",
    "schema": "schema_command",
    "tail": "log_commands",
    "verify": "maintenance",
}


class CommandGroup(click.Group):
    """The commands of this package and of plug-ins. Each is imported when it is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        from eventlog.plugins import COMMANDS, plugin_names

        return sorted({*BUILT_IN, *plugin_names(COMMANDS)})

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        with interrupts_held_back():
            found = _load_command(cmd_name)
        return found if isinstance(found, click.Command) else None


def _load_command(name: str) -> object:
    import_module("eventlog.format.line")  # with orjson, which every command needs
    if name in BUILT_IN:
        return getattr(import_module(f"eventlog.cli.{BUILT_IN[name]}"), name)
    from eventlog.plugins import COMMANDS, load_plugin

    return load_plugin(COMMANDS, name)


class _TextFormatter(logging.Formatter):
    """Formats each record as a line of text that begins with its time. A note is its text."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, NOTE, False):
            return record.getMessage()
        return f"{_time_text(record.created)} {super().format(record)}"


class _JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON. An error of ours adds `where` and `do`."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        fields = {
            "time": _time_text(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


def _time_text(created_s: float) -> str:
    """The time of a record as RFC 3339 text with offset."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds")


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print_line(f"eventlog {version('signal-eventlog')}")
        ctx.exit()


def _home(ctx: click.Context, option: click.Parameter, home: str) -> str:
    is_variable = ctx.get_parameter_source(str(option.name)) is ParameterSource.ENVIRONMENT
    return unquote(home) if is_variable else home


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
@click.option(
    "--home",
    metavar="DIR",
    envvar="EVENTLOG_HOME",
    default=".",
    callback=_home,
    help="Directory of the log and its projections. Default: EVENTLOG_HOME, else the current one.",
)
@click.option("-v", "--verbose", count=True, help="Log more to stderr; -vv for debugging.")
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of log messages on stderr.",
)
@click.pass_context
def cli(ctx: click.Context, home: str, verbose: int, quiet: bool, log_format: str) -> None:
    """Append trading signals to a hash-chained log and query what is derived from it.

    Data goes to stdout, messages to stderr. Exit codes: 0 done; 1 the result is bad news, such as
    damage, differences or invalid input; 2 wrong usage; 3 the command could not run.
    `eventlog COMMAND --help` describes one command.

    \b
    Example:
      echo '{"symbol":"AAPL","action":"BUY","entry_price":150.5,"target_price":158.25,
             "stop_price":147,"confidence":85.5,"strategy":"demo"}' | tr -d '\\n' |
        eventlog --home ./home append
      eventlog --home ./home tail -n 5
      eventlog --home ./home verify
    """
    from eventlog.storage.home import resolved_home

    ctx.obj = CommandContext(resolved_home(home or "."))
    level = logging.ERROR if quiet else max(logging.DEBUG, logging.WARNING - 10 * verbose)
    _configure_logging(level, log_format)


def _configure_logging(level: int, log_format: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _invoke() -> None:
    """Runs the command without click's `main`, which exits with 1 when stdout has no reader."""
    if "_EVENTLOG_COMPLETE" in os.environ:  # completion in a shell
        cli.main(prog_name="eventlog")
    with cli.make_context("eventlog", sys.argv[1:]) as context:
        cli.invoke(context)


def _run() -> int:
    """Runs the command, reports an expected failure, and returns the exit code."""
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
        what, where = f"the system refused: {error.strerror or error}", str(error.filename or "")
        do = "check the permissions of this account, and the disk"
        _report_error(EventLogError(what, where=where, do=do))
        code = EXIT_COULD_NOT_RUN
    except (KeyboardInterrupt, click.Abort):
        discard_stdout()
        code = EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0 if code is None else EXIT_PROBLEM


def _report_error(error: EventLogError) -> None:
    """Prints an expected failure on stderr: what, where, do; as JSON with `--log-format json`."""
    if _logs_json():
        parts = {"where": error.where, "do": error.do}
        fields = {key: text for key, text in parts.items() if text}
        logging.getLogger("eventlog").error("%s", error.what, extra={"fields": fields})
    else:
        print_error(error)


def _report_usage_error(error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    if context is not None and context.find_root().params.get("log_format") == "json":
        _configure_logging(logging.ERROR, "json")  # a mistyped command ends before `cli` does it
    if _logs_json():
        logging.getLogger("eventlog").error("%s", error.format_message())
    else:
        with suppress(OSError):  # stderr is broken
            error.show()


def _logs_json() -> bool:
    """Whether `cli` has configured the log format JSON."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    return any(isinstance(formatter, _JsonFormatter) for formatter in formatters)


def main() -> NoReturn:
    """Runs the command and exits with its code."""
    os.umask(0o077)  # what is created without a mode of its own, also by a library, is private
    interrupt_on_sigterm()
    open_standard_streams()
    try:
        code = _run()
    finally:
        flush_standard_streams()
    sys.exit(code)
