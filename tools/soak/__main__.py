"""The command `python -m tools.soak`; the docstring of the package describes the soak.

Invariant: every process that the soak started has ended when the soak ends, however it ends.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random, SystemRandom
from typing import NoReturn

from tools.soak import __doc__ as about
from tools.soak import checks
from tools.soak.actors import Actor, Backend, daemon_words, rss_bytes
from tools.soak.clock import Clock, remove_shared_memory, shifted
from tools.soak.generator import read_receipts

SEGMENT_BYTES = 32 * 1024  # a rotation every fifty entries or so
GENERATORS = {"g1": "api", "g2": "pipe", "g3": "pipe"}
GENERATOR_LIFE_S = (0.5, 10.0)
DAEMON_LIFE_S = (0.5, 15.0)
BACKEND_LIFE_S = (5.0, 25.0)
DELIVERY_KILLS_SHARE = 0.4  # of the time `project alpine` is killed; then its memory is sampled
SAMPLE_S = 1.0  # between two samples of memory
TURN_S = 0.05
SETTLE_S_MAX = 240.0  # after an outage the probes are up to a minute apart


class Soak:
    """One run in one directory."""

    def __init__(self, folder: Path, postgres: Path, random: Random, rate: float) -> None:
        self.home = folder / "home"
        self._folder = folder
        self._random = random
        self.problems: list[str] = []
        self.backend = Backend(folder, postgres, random, BACKEND_LIFE_S)
        key_file = folder / "alpine.key"
        key_file.touch(mode=0o600)
        key_file.write_text(self.backend.key)
        self._env = {
            "ALPINE_API_URL": self.backend.url,
            "ALPINE_API_KEY_FILE": str(key_file),
        }
        self.clock = Clock(random)
        self.generators = [
            self._generator(name, by, rate / len(GENERATORS)) for name, by in GENERATORS.items()
        ]
        # One daemon is never killed and serves /health; one delivers and is killed for a part of
        # the time; one runs both projections as a second process and is killed all the time.
        self.table_daemon = self._daemon("sqlite", options=["--listen", "127.0.0.1:0"])
        self.delivery_daemon = self._daemon("alpine", life_s=DAEMON_LIFE_S)
        self.second_daemon = self._daemon("all", life_s=DAEMON_LIFE_S)
        self.daemons = [self.table_daemon, self.delivery_daemon, self.second_daemon]
        self.samples: dict[str, list[int]] = {
            self.table_daemon.name: [],
            self.delivery_daemon.name: [],
        }
        self._sample_s = 0.0

    @property
    def actors(self) -> list[Actor]:
        """Every process of the run."""
        return [self.backend, *self.generators, *self.daemons]

    def _generator(self, name: str, by: str, rate: float) -> Actor:
        module = [sys.executable, "-m", "tools.soak.generator", "--home", self.home]
        module += ["--name", name, "--by", by, "--receipts", self._receipts(name)]
        module += ["--rate", rate, "--segment-bytes", SEGMENT_BYTES]
        return Actor(
            f"generator-{name}",
            self._folder,
            self._random,
            words=lambda: module,
            env=self.clock.env,
            life_s=GENERATOR_LIFE_S,
            on_exit=remove_shared_memory,
        )

    def _daemon(
        self,
        name: str,
        *,
        life_s: tuple[float, float] | None = None,
        options: list[object] | None = None,
    ) -> Actor:
        return Actor(
            f"project-{name}",
            self._folder,
            self._random,
            words=lambda: daemon_words(self.home, name, options=options or []),
            env=lambda: self._env,
            life_s=life_s,
        )

    def _receipts(self, name: str) -> Path:
        return self._folder / f"{name}.receipts"

    # -- the run

    def run(self, seconds: float) -> None:
        """Runs and kills everything for `seconds`."""
        started_s = time.monotonic()
        self.backend.start()
        for generator in self.generators:
            generator.start()
        self._until((self.home / "logs" / "signals.log").is_symlink, "the first append")
        while (now_s := time.monotonic()) < started_s + seconds:
            if now_s >= started_s + DELIVERY_KILLS_SHARE * seconds:
                self.delivery_daemon.life_s = None
            for actor in self.actors:
                actor.turn(now_s)
            self._sample(now_s)
            time.sleep(TURN_S)

    def _sample(self, now_s: float) -> None:
        if now_s >= self._sample_s + SAMPLE_S:
            self._sample_s = now_s
            for daemon in (self.table_daemon, self.delivery_daemon):
                is_sampled = daemon.life_s is None and daemon.process is not None
                if is_sampled and (rss := rss_bytes(daemon.process.pid)):  # type: ignore[union-attr]
                    self.samples[daemon.name].append(rss)

    def settle(self) -> None:
        """Stops killing, and waits until the whole log is projected and delivered."""
        for actor in self.actors:
            actor.settle()
        time.sleep(2.0)  # generators that were killed retry their last batch
        for generator in self.generators:
            generator.stop()
        self._until(self._is_caught_up, "projecting and delivering the rest")
        if (status := self._health()) != 200:
            self.problems.append(f"/health answers {status} when everything is done")
        for daemon in self.daemons:
            daemon.stop()

    def _is_caught_up(self) -> bool:
        for actor in (self.backend, *self.daemons):
            actor.turn(time.monotonic())
        projections = checks.eventlog(self.home, "status", "--json")["projections"]
        if projections["alpine"]["parked"]:  # for example by failures while PostgreSQL was down
            with suppress(json.JSONDecodeError, RuntimeError):
                checks.eventlog(self.home, "parked", "retry", "--all", "--json")
            return False
        return all(projections[name]["lag_entries"] == 0 for name in ("sqlite", "alpine"))

    def _health(self) -> int:
        url = self.table_daemon.err.read_text().partition("listening url=")[2].split()[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{url}/health", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        give_up_s = time.monotonic() + SETTLE_S_MAX
        while not condition():
            if time.monotonic() > give_up_s:
                self.problems.append(f"{what} does not end within {SETTLE_S_MAX:g} s")
                return
            time.sleep(0.2)

    def check(self) -> checks.Found:
        """Reads the log and collects the problems."""
        receipts = {name: read_receipts(self._receipts(name)) for name in GENERATORS}
        self.receipts = sum(map(len, receipts.values()))
        found = checks.read_log(self.home, receipts)
        self.problems += [problem for actor in self.actors for problem in actor.problems]
        self.problems += found.problems
        self.problems += self._compare(found)
        return found

    def _compare(self, found: checks.Found) -> Iterator[str]:
        yield from checks.verify(self.home)
        yield from checks.compare_table(self.home)
        yield from checks.compare_alpine(self.backend.url, self.backend.key, found.sha256)
        for name, samples in self.samples.items():
            yield from checks.compare_memory(name, samples)

    def end(self) -> None:
        """Ends every process of the run."""
        for actor in reversed(self.actors):
            if actor is self.backend:
                actor.stop()  # with its PostgreSQL
            actor.end()
        self.backend.close()

    def summary(self, found: checks.Found, seconds: float, seed: int) -> str:
        """The result of the run in one line."""
        kills = {actor.name: actor.kills for actor in self.actors}
        by = ", ".join(f"{name} {count}" for name, count in kills.items() if count)
        sizes = []
        for name, samples in self.samples.items():
            if (medians := checks.memory(samples)) is None:
                sizes.append(f"{name} ran too short to show whether it grows")
                continue
            before, after = (size / 1e6 for size in medians)
            sizes.append(f"{name} {before:.1f} -> {after:.1f} MB")
        segments = len(list((self.home / "logs").glob("0*.jsonl")))
        return (
            f"soak: seed {seed}, {seconds / 60:.1f} min: {found.entries:,} entries in {segments} "
            f"segments, {self.receipts:,} receipts, {len(found.sha256):,} signals; "
            f"{sum(kills.values()) + self.backend.postgres_kills} kills ({by}, PostgreSQL "
            f"{self.backend.postgres_kills}), {self.clock.steps} clocks; {', '.join(sizes)}; "
            f"{len(self.problems)} problems"
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the soak; returns 1 if it found a problem."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        shifted("+0")
    except FileNotFoundError as error:
        sys.exit(str(error))
    seed = options.seed if options.seed is not None else SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    postgres = Path(
        tempfile.mkdtemp(prefix="soak-postgres-")
    )  # its own directory: PostgreSQL runs as another account
    postgres.chmod(0o755)
    soak = Soak(folder, postgres / "alpine", Random(seed), options.rate)
    started_s = time.monotonic()
    try:
        soak.run(60 * options.minutes)
        soak.settle()
        found = soak.check()
        line = soak.summary(found, time.monotonic() - started_s, seed)
    finally:
        soak.end()
        shutil.rmtree(postgres, ignore_errors=True)
    for problem in soak.problems[:20]:
        print(f"problem: {problem}")
    print(line)
    if soak.problems:
        print(f"the files are kept in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _stop(*_: object) -> NoReturn:
    raise SystemExit(130)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=5.0, help="how long processes are killed")
    add(
        "--seed",
        type=int,
        help="seed of the kills and clocks; default: a random one, which is printed",
    )
    add("--rate", type=float, default=60.0, help="items a second, all generators together")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
