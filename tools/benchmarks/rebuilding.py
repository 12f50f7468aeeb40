"""B7, B8, B9 and B14: the table rebuilt from the log, as a whole command.

Invariant: every peer fills the same tables and indexes (B8 its own table) in a new file, with the
fastest settings of SQLite; ours also verifies, compares and swaps the result into a live file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from projections.signals import schema
from tools.benchmarks.ours import build_log, command, long_log
from tools.benchmarks.peers import COMMAND_TIMEOUT_S, Command, command_s
from tools.benchmarks.runner import ROUNDS_MIN, Bench, NotMeasured, Rounds

ENTRIES = 200_000
QUICK_ENTRIES = 20_000
SEGMENT_BYTES = 16 * 1024 * 1024
SAMPLE_S = 0.01  # between two samples of the memory of the processes
TABLES = ("signals", "signal_extras", "lifecycle", "held", "conflicts", "checkpoint")

FAST = """\
.bail on
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -64000;
"""
# A line has no column separator, so that it is one column. A temporary table needs no second file.
IMPORT = """\
CREATE TEMP TABLE lines(line TEXT);
.mode ascii
.separator "\\037" "\\n"
"""
SELECT_BY_JSON = """\
INSERT INTO signals(id, signal_id, symbol, action, entry_price, target_price, stop_price,
    confidence, strategy, asset_type, data_source, timestamp, sha256, created_at)
SELECT line ->> 'seq', line ->> 'signal_id', line ->> 'symbol', line ->> 'action',
    line ->> 'entry_price', line ->> 'target_price', line ->> 'stop_price', line ->> 'confidence',
    line ->> 'strategy', line ->> 'asset_type', line ->> 'data_source', line ->> 'timestamp',
    line ->> 'sha256',
    substr(line ->> 'recorded_at', 1, 10) || ' ' || substr(line ->> 'recorded_at', 12, 8)
    FROM lines WHERE line ->> 'event' = 'signal';
INSERT INTO signal_extras(rowid, signal_id, extra) SELECT line ->> 'seq', line ->> 'signal_id',
    json_object('regime', line ->> 'regime', 'reasoning', line ->> 'reasoning') FROM lines;
INSERT INTO lifecycle(seq, signal_id, event, recorded_at, known_seq, state)
    SELECT line ->> 'seq', line ->> 'signal_id', 'signal', line ->> 'recorded_at',
    line ->> 'seq', 'open' FROM lines;
INSERT INTO checkpoint(name, seq, chain)
    SELECT 'sqlite', line ->> 'seq', line ->> 'chain' FROM lines ORDER BY rowid DESC LIMIT 1;
"""


def against_the_shell(bench: Bench) -> Rounds:
    """B7: entries a second, against the sqlite3 shell's .import and JSON operators."""
    home, entries = _home(bench)
    database = bench.fresh_dir("b7-peer") / "signals.db"
    segments = sorted((home / "logs").glob("*.jsonl"))
    imports = "".join(f'.import "{segment}" lines\n' for segment in segments)
    script = FAST + IMPORT + imports + "BEGIN;\n" + _sql(schema.TABLES) + SELECT_BY_JSON
    peer = _shell(database, script + _sql(schema.INDEXES) + "COMMIT;\n")
    return _alternate(bench, home, entries, database, peer)


def against_sqlite_utils(bench: Bench) -> Rounds:
    """B8: against `sqlite-utils insert --nl`, which makes one table without an index."""
    home, entries = _home(bench)
    folder = bench.fresh_dir("b8-peer")
    lines = folder / "lines.jsonl"
    with lines.open("wb") as target:
        for segment in sorted((home / "logs").glob("*.jsonl")):
            target.write(segment.read_bytes())
    program = shutil.which("sqlite-utils", path=str(Path(sys.executable).parent))
    if program is None:
        raise NotMeasured("sqlite-utils is not installed: pip install -e '.[bench]'")
    database = folder / "signals.db"
    peer: Command = [program, "insert", database, "signals", lines, "--nl"]
    return _alternate(bench, home, entries, database, peer, rounds=ROUNDS_MIN)


def against_a_typed_copy(bench: Bench) -> Rounds:
    """B9: against INSERT ... SELECT from tables that hold the typed values already."""
    home, entries = _home(bench)
    folder = bench.fresh_dir("b9-peer")
    typed = folder / "typed.db"
    ours = home / "data" / "signals.db"
    made = "".join(f"CREATE TABLE {t} AS SELECT * FROM ours.{t};\n" for t in TABLES)
    command_s(_shell(typed, FAST + f"ATTACH '{ours}' AS ours;\n" + made))
    copied = f"ATTACH '{typed}' AS typed;\nBEGIN;\n" + _sql(schema.TABLES)
    copied += "".join(f"INSERT INTO main.{t} SELECT * FROM typed.{t};\n" for t in TABLES)
    database = folder / "signals.db"
    peer = _shell(database, FAST + copied + _sql(schema.INDEXES) + "COMMIT;\n")
    rounds = _alternate(bench, home, entries, database, peer)
    # Also from a file with the same tables and indexes, where SQLite copies whole records.
    whole = copied.replace(f"'{typed}'", f"'{ours}'").replace(
        _sql(schema.TABLES), _sql(schema.TABLES) + _sql(schema.INDEXES)
    )
    took_s = []
    for _ in range(ROUNDS_MIN):
        database.unlink(missing_ok=True)
        took_s.append(command_s(_shell(database, FAST + whole + "COMMIT;\n")))
    rate = entries / median(took_s)
    note = f"from a file of the same tables and indexes SQLite copies records: {rate:,.0f} /s"
    return Rounds(ours=rounds.ours, peer=rounds.peer, note=note)


def of_a_long_log(bench: Bench) -> Rounds:
    """B14: seconds of a rebuild of the long log, against those of one a tenth as long."""
    home, entries = long_log(bench)
    short = build_log(bench.fresh_dir("b14"), entries // 10, segment_bytes=64 * 1024 * 1024)
    long_command, short_command = _rebuild(home), _rebuild(short)
    command_s(long_command), command_s(short_command)  # from here on both have a live table
    return bench.alternate(
        lambda: command_s(long_command), lambda: command_s(short_command), rounds=ROUNDS_MIN
    )


def memory_of_a_long_log(bench: Bench) -> Rounds:
    """B14: the sum of the peak memory of each process of the command, in MB."""
    home, entries = long_log(bench)
    found = tuple(_peak_mb(_rebuild(home)) for _ in range(ROUNDS_MIN))
    return Rounds(ours=found, note=f"{entries:,} entries")


def _home(bench: Bench) -> tuple[Path, int]:
    """A home with a log and a live table; made once in a run."""
    entries = QUICK_ENTRIES if bench.quick else ENTRIES
    if "rebuild" not in bench.shared:
        bench.progress(f"making a log of {entries:,} entries")
        home = build_log(bench.fresh_dir("rebuild"), entries, segment_bytes=SEGMENT_BYTES)
        command_s(_rebuild(home))
        bench.shared["rebuild"] = home
    return bench.shared["rebuild"], entries


def _rebuild(home: Path) -> Command:
    return command("--home", home, "rebuild-database", "--json")


def _alternate(
    bench: Bench, home: Path, entries: int, database: Path, peer: Command, rounds: int = 0
) -> Rounds:
    def peer_rate() -> float:
        database.unlink(missing_ok=True)
        return entries / command_s(peer)

    return bench.alternate(
        lambda: entries / command_s(_rebuild(home)),
        peer_rate,
        rounds=rounds or bench.rounds_of_commands,
    )


def _shell(database: Path, script: str) -> Command:
    """The command line of the sqlite3 shell on a file, with a script stored beside it."""
    program = shutil.which("sqlite3")
    if program is None:
        raise NotMeasured("the sqlite3 shell is not installed: apt-get install sqlite3")
    path = database.with_name(f"{database.name}.{abs(hash(script)):x}.sql")
    path.write_text(script)
    return [program, "-batch", database, f'.read "{path}"']


def _sql(statements: Sequence[str]) -> str:
    return "".join(f"{statement};\n" for statement in statements)


def _peak_mb(words: Command) -> float:
    """Runs a command and samples the peak memory of its processes: VmHWM, which is ru_maxrss."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peaks: dict[int, int] = {}
    give_up_s = time.monotonic() + COMMAND_TIMEOUT_S
    while process.poll() is None:
        if time.monotonic() > give_up_s:
            process.kill()
            raise NotMeasured(f"{' '.join(map(str, words))} does not end")
        _sample_memory(process.pid, peaks)
        time.sleep(SAMPLE_S)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise NotMeasured(f"{' '.join(map(str, words))}: {errors.decode(errors='replace')}")
    return sum(peaks.values()) / 1_000


def _sample_memory(pid: int, peaks: dict[int, int]) -> None:
    """Stores the peak of a process and of its children, in kB."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peaks[pid] = int(line.split()[1])
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                _sample_memory(int(child), peaks)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended: the last sample counts
