"""The real command in a forked process, and another account's hand between two of its calls.

    forked("status", home=home)     as tests.harness.command.eventlog, only much faster
    done = forked("backup", dest, home=home, nth=3, swap=dest / "logs", to=home / "logs")
    done.fired                      False where the command made fewer calls than that

One process imports the command once and forks for each run: a run then takes milliseconds, so that
every command can be tried on every kind of damage, and every moment of a command can be attacked.

Python reports each call that opens, creates, renames or removes a file just before it is made, and
each connection of SQLite: exactly there the attack happens. So each moment between a check and the
use of what was checked can be tried in turn, with no race.

    for moment in moments():        1, 2, 3 ... until one of them comes too late
        done = forked(..., nth=moment.number)
        moment.has_come(done.fired)

Invariant: the attack is made once, by the process that runs the command, and by none of its
children; what hangs is killed, and no process outlives the tests.
"""

import atexit
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.harness.command import Done
from tests.harness.requirements import CHECKOUT

MOMENTS_MAX = 400  # a command that makes more calls than this was not meant here
COMMAND_S_MAX = 30.0  # a command on a few entries takes a tenth; then it is killed, with code -9

_PROGRAM = """\
import atexit, fcntl, gc, glob, json, os, pkgutil, resource, signal, sys, threading, time
from importlib import import_module
import eventlog, projections
from eventlog.cli.main import main

for package in (eventlog, projections):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(".parquet"):  # pyarrow starts threads, and those do not fork
            import_module(module.name)

checkout = sys.argv[1]
EVENTS = {"open", "sqlite3.connect", "fcntl.flock", "shutil.rmtree"} | {"os." + name for name in (
    "listdir", "scandir", "mkdir", "chmod", "chown", "rename", "remove", "rmdir", "link",
    "symlink", "truncate")}
OTHERS = (sys.prefix, sys.base_prefix, checkout, "/usr/", "/proc/", "/sys/", "/etc/", "/dev/")


def concerns_us(event, args, about):
    if event == "fcntl.flock":
        return not about
    path = os.fsdecode(args[0]) if args and isinstance(args[0], (str, bytes, os.PathLike)) else ""
    return bool(path) and not path.startswith(OTHERS) and about in path


class Attack:
    def __init__(self, order):
        self.order, self.pid = order, os.getpid()
        self.seen, self.fired, self.is_busy, self.locked = 0, False, False, []

    def hook(self, event, args):
        if self.is_busy or self.fired or event not in EVENTS or os.getpid() != self.pid:
            return
        if not concerns_us(event, args, self.order["about"]):
            return
        self.seen += 1
        if self.order["nth"] in (0, self.seen):
            self.is_busy = True
            self.fired = self.attack()
            self.is_busy = False

    def attack(self):
        if self.order["lock"]:
            for place in glob.glob(self.order["lock"]):
                self.locked.append(os.open(place, os.O_RDONLY))
                fcntl.flock(self.locked[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
            return bool(self.locked)
        swap = self.order["swap"]
        if not swap:
            return False
        for place in glob.glob(swap) or ([] if "*" in swap else [swap]):
            if os.path.lexists(place):
                os.rename(place, place + ".moved")
            os.symlink(self.order["to"], place)
        return True


def run(order):
    os.setpgid(0, 0)
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(order[name], os.O_CREAT | os.O_WRONLY, 0o600), number)
    os.dup2(os.open(order["in"], os.O_RDONLY), 0)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    if order["umask"] >= 0:
        os.umask(order["umask"])
    if order["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (order["memory_bytes"],) * 2)
    sys.argv = ["eventlog", *order["words"]]
    attack = Attack(order)
    sys.addaudithook(attack.hook)
    try:
        main()
    finally:
        attack.is_busy = True
        if os.getpid() == attack.pid:
            with open(order["report"], "w") as report:
                json.dump({"fired": attack.fired}, report)
            if isinstance(ended := sys.exception(), SystemExit):
                leave(ended.code)


def leave(code):  # as Python does, but it frees no module: that takes longer than a command
    threading._shutdown()
    atexit._run_exitfuncs()
    os._exit(code)


def end(*_):
    if child:
        os.kill(child, signal.SIGKILL)
    os._exit(1)


child = 0
signal.signal(signal.SIGTERM, end)
answers = os.fdopen(os.dup(1), "w")
gc.collect()
gc.freeze()  # the garbage collector of a command skips what is imported here
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        answers.close()
        run(order)
    deadline_s = time.monotonic() + order["seconds_max"]
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline_s:
            os.kill(child, signal.SIGKILL)
            os.killpg(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    child = 0
    print(os.waitstatus_to_exitcode(ended[1]), file=answers, flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked(Done):
    """How the command ended, and whether the moment of the attack came at all."""

    fired: bool = False


def forked(
    *words: object,
    home: object,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    umask: int = -1,
    memory_bytes: int = 0,
    seconds_max: float = COMMAND_S_MAX,
    nth: int = 0,
    about: str = "",
    swap: Path | str = "",
    to: Path | str = "",
    lock: Path | str = "",
) -> Attacked:
    """Runs the command; before its `nth` call that concerns a file of ours it is attacked.

    With `about` only calls count whose path holds that text.

    `swap` is moved away and a link to `to` is put there; with a pattern, whatever matches it then.
    `lock` is locked as a reader may lock it (LOCK_SH), to the end of the command. With `nth=0`
    that is tried before each call until something matches.
    """
    process = _server()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as directory:
        files = {name: Path(directory) / name for name in ("in", "out", "err", "report")}
        for name, path in files.items():
            path.write_bytes(stdin if name == "in" else b"")
        order = {
            **{name: str(path) for name, path in files.items()},
            "words": ["--home", str(home), *map(str, words)],
            "env": dict(env or {}),
            "cwd": str(cwd or CHECKOUT),
            "umask": umask,
            "memory_bytes": memory_bytes,
            "seconds_max": seconds_max,
            "nth": nth,
            "about": about,
            "swap": str(swap),
            "to": str(to),
            "lock": str(lock),
        }
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            code = int(process.stdout.readline())
        except BaseException:  # the test was given up: the answer that is due must reach no other
            _server.cache_clear()
            process.terminate()  # with what it runs
            process.communicate()
            raise
        reported = files["report"].read_bytes()
        return Attacked(
            code=code,
            out=files["out"].read_bytes(),
            err=files["err"].read_text(),
            fired=bool(reported) and json.loads(reported)["fired"],
        )


@cache
def _server() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(CHECKOUT)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    atexit.register(process.communicate)  # it ends with its stdin
    return process


@dataclass(slots=True)
class Moment:
    """One moment of a command, counted from 1."""

    number: int
    is_past_the_end: bool = False

    def has_come(self, fired: bool) -> None:
        self.is_past_the_end = not fired


def moments() -> Iterator[Moment]:
    """Each moment of a command in turn; at least one must come."""
    for number in range(1, MOMENTS_MAX):
        moment = Moment(number)
        yield moment
        if moment.is_past_the_end:
            assert number > 1, "the command makes no call that could be attacked"
            return
    raise AssertionError(f"the command has not ended after {MOMENTS_MAX} calls")
