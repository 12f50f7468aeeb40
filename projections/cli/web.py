"""The command `web`: serves the console of a home.

Invariant: SIGTERM and Ctrl-C end it within two seconds, with exit code 0.
"""

from pathlib import Path

import click

from eventlog.plumbing import CommandContext, WrongUsage, print_lines
from projections.cli.common import listen_address, log_lifecycle, require_host_names

LISTEN_DEFAULT = "127.0.0.1:8600"


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=LISTEN_DEFAULT,
    show_default=True,
    help="Serve the console at this address.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Log in with the first line of FILE. Default: a one-time URL, printed at the start.",
)
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    help="A further host name by which browsers address it; repeatable.",
)
@click.option("--read-only", is_flag=True, help="Refuse to retry and discard parked signals.")
@click.option("--no-login", is_flag=True, help="Serve every account that can reach the port.")
@click.pass_obj
def web(
    obj: CommandContext,
    listen: str,
    token_file: Path | None,
    names: tuple[str, ...],
    read_only: bool,
    no_login: bool,
) -> None:
    """Serve a console for the browser.

    It shows how the home is doing, the log as it grows, signals, outcomes and delivery, now or as
    of a past time. It changes nothing but what `eventlog parked retry` and `parked discard` change.
    It needs the extra `web`. On loopback, open the one-time URL that it prints; any other address
    needs --token-file. Browsers address it as 127.0.0.1, ::1, localhost, or by a --name.

    \b
    Example:
      eventlog web
      eventlog web --listen 192.0.2.7:8600 --token-file /etc/eventlog/console --name log.example.com
    """
    from projections.errors import ProjectionError

    try:
        from projections.web import server
        from projections.web.access import login
    except ModuleNotFoundError as error:
        raise ProjectionError(
            f"the console needs a package that is not installed: {error.name}",
            do="run `pip install 'signal-eventlog[web]'`, or `pip install '.[web]'` in a checkout",
        ) from None
    if no_login and token_file is not None:
        what = "--no-login and --token-file exclude each other"
        raise WrongUsage(what, do="leave out one of them")
    address = listen_address(listen)
    try:
        server.require_token(address, has_token=token_file is not None)
    except ValueError as error:
        do = "listen on 127.0.0.1, or add --token-file FILE"
        raise WrongUsage(f"--listen: {error}", do=do) from None
    require_host_names("--name", names)
    home = Path(obj.home)
    found = None
    if not no_login:
        password = None if token_file is None else login.read_password(token_file)
        found = login.Login(login.load_key(home), password)
    log_lifecycle("projections.serving.server")
    config = server.WebConfig(address=address, names=names, is_read_only=read_only, login=found)
    server.run(home, config, lambda url: print_lines([url]))
