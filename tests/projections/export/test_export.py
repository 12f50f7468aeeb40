"""export: one state of the table as a complete file or none, and the data it came from."""

import csv
import gc
import io
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import duckdb
import pandas as pd  # type: ignore[import-untyped]  # its types are a package of their own
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import LogNotFound, UnsafePath
from eventlog.plumbing import output_file
from projections import ProjectionError
from projections.export.csv_lines import FORMULA_PREFIXES, csv_line, unescape_cell
from projections.export.pages import COLUMNS
from projections.export.writer import ExportMetadata, export
from projections.queries.filters import signal_filter
from tests.harness import model
from tests.harness.command import COMMAND, eventlog
from tests.harness.deadline import DEADLINE_S
from tests.harness.read_side import append, project
from tests.harness.requirements import needs_tool
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import database_of, raw_entries, reading

HOSTILE = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "'quoted", "''=1", '=HYPERLINK("http://x","y")', "\uff1d1"),
    *('"', ",", "a,b", "x" * 90, "ü漢\U0001f600", "<script>", "'; DROP TABLE signals;--", "%s"),
)
NUMBERS = {*("id", "entry_price", "target_price", "stop_price", "confidence")} | {
    *("exit_price", "profit_loss_pct", "fill_price"),
}
FILLED = {"fill_price": 0.1 + 0.2, "executed_at": "2025-11-18T03:00:00+01:00"}
CLOSED_AT = "2025-11-18T02:30:00.5Z"
Row = list[Any]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Signals with every kind of cell value, some traded, some with further keys."""
    home = tmp_path / "home"
    for number, text in enumerate(HOSTILE):
        append(
            home,
            a_signal(
                number,
                signal_id=f"{text} {number}",
                symbol=text.replace(" ", "")[:20],
                strategy=text,
                asset_type=text if number % 2 else "",
                **({text: {"note": [text, "\t\r\n=1", 0.1, None]}} if number % 3 else {}),
            ),
        )
    for number, text in enumerate(HOSTILE[:10]):
        name = f"{text} {number}"
        filled = FILLED if number % 3 else {}
        append(home, {"event": "executed", "signal_id": name, "order_id": f"{text} x", **filled})
        if number % 2:
            at = {"closed_at": CLOSED_AT} if number % 3 else {}
            append(home, {"event": "closed", "signal_id": name, "exit_price": 100.1 + number, **at})
    append(home, {"event": "closed", "signal_id": "unknown", "exit_price": 1.0})
    project(home)
    return home


def expected(home: Path, *, seq: int | None = None) -> list[Row]:
    """The model's rows, up to entry `seq`."""
    entries = [e for e in raw_entries(home) if seq is None or e.seq <= seq]
    tables = model.fold(entries)
    facts = {(fact[1], fact[2]): fact for fact in tables.lifecycle}
    when = {key: fact[3] for key, fact in facts.items()}
    details = {key: json.loads(fact[4] or "{}") for key, fact in facts.items()}
    states = {fact[1]: fact[6] for fact in tables.lifecycle}
    return [
        [
            *row,
            tables.extras.get(row[1]),
            *(when.get((row[1], event)) for event in ("signal", "executed", "closed")),
            states[row[1]],
            details.get((row[1], "executed"), {}).get("executed_at"),
            details.get((row[1], "closed"), {}).get("closed_at"),
            details.get((row[1], "executed"), {}).get("fill_price"),
        ]
        for row in tables.signals
    ]


def exported(home: Path, **options: Any) -> tuple[bytes, ExportMetadata]:
    out = io.BytesIO()
    cited = export(home, out, **options)
    return out.getvalue(), cited


def rows_of_csv(data: bytes) -> list[Row]:
    """The rows as a CSV reader gives them that knows the columns and the escape."""
    heading, *lines = csv.reader(io.StringIO(data.decode(), newline=""))
    assert heading == list(COLUMNS)
    return [
        [_value(name, cell) for name, cell in zip(heading, line, strict=True)] for line in lines
    ]


def _value(name: str, cell: str) -> object:
    if name in NUMBERS:
        return None if cell == "" else int(cell) if name == "id" else float(cell)
    # csv reads empty text and None alike; the two columns that may be empty are never None.
    return None if cell == "" and name not in ("asset_type", "data_source") else unescape_cell(cell)


def rows_of_duckdb(query: str) -> list[tuple[Any, ...]]:
    found = duckdb.sql(query)
    assert found is not None
    return found.fetchall()


# -- content


def test_the_csv_holds_the_table_and_all_of_it_comes_back(home: Path) -> None:
    data, cited = exported(home)
    assert rows_of_csv(data) == expected(home)
    assert cited.rows == len(HOSTILE)
    assert (cited.bytes, cited.sha256) == (len(data), sha256(data).hexdigest())


def test_parquet_holds_the_same_rows_with_types_and_a_citation(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "signals.parquet"
    done = eventlog("export", "--format", "parquet", "--output", path, "--json", home=home)
    assert done.code == 0, done.err
    table = pq.read_table(path)
    types = {field.name: str(field.type) for field in table.schema}
    assert types["id"] == "int64"
    assert types["signal_id"] == types["order_id"] == types["extra"] == "string"
    assert {types[name] for name in NUMBERS - {"id"}} == {"double"}
    times = {name for name, kind in types.items() if kind == "timestamp[us, tz=UTC]"}
    assert times == {
        *("timestamp", "created_at"),
        *("recorded_at", "order_recorded_at", "outcome_recorded_at"),
        *("executed_at", "closed_at"),
    }
    rows = [
        [_text_of_time(name, value) for name, value in row.items()] for row in table.to_pylist()
    ]
    assert rows == expected(home)
    said = json.loads(done.out)
    inside = json.loads(table.schema.metadata[b"eventlog"])
    assert inside == {k: v for k, v in said.items() if k not in ("rows", "bytes", "sha256")}
    assert said["sha256"] == sha256(path.read_bytes()).hexdigest()


def _text_of_time(name: str, value: Any) -> object:
    if value is None or not hasattr(value, "isoformat"):
        return value
    if name == "created_at":
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = value.isoformat(timespec="microseconds")
    is_recorded = name.endswith("recorded_at")
    return text.replace("+00:00", "Z") if is_recorded else text


@pytest.mark.slow
def test_duckdb_reads_csv_and_parquet_alike(home: Path, tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        done = eventlog("export", "--format", kind, "--output", tmp_path / f"x.{kind}", home=home)
        assert done.code == 0, done.err
    columns = "id, symbol, confidence, outcome, exit_price, profit_loss_pct, epoch_us(timestamp)"
    found = [
        rows_of_duckdb(f"SELECT {columns} FROM '{tmp_path}/x.{kind}' ORDER BY id")
        for kind in ("csv", "parquet")
    ]
    of_csv = [(row[0], unescape_cell(row[1]), *row[2:]) for row in found[0]]
    assert of_csv == found[1]
    wanted = [(row[0], row[2], row[13]) for row in expected(home)]
    assert [(row[0], row[1], row[4]) for row in found[1]] == wanted


@pytest.mark.slow
def test_duckdb_reads_a_long_log_as_the_quants_page_describes(tmp_path: Path) -> None:
    """By default it takes the types from the first 20,480 lines."""
    home = tmp_path / "long"
    early = (a_signal(number, rsi=50 + number % 2) for number in range(20_480))
    late = a_signal(30_000, rsi=50.7, regime="rising")
    append(home, *early, late, segment_bytes=1 << 26)  # one file: each has a sample of its own
    log = f"{home}/logs/*.jsonl"
    last = "WHERE signal_id = 's-30000'"
    found = rows_of_duckdb(
        f"SELECT count(*) OVER (), rsi, regime FROM read_json('{log}', sample_size=-1)"
        " QUALIFY signal_id = 's-30000'"
    )
    assert found == [(20_481, 50.7, "rising")]
    assert rows_of_duckdb(f"SELECT rsi FROM read_json('{log}') {last}") == [(51,)]
    with pytest.raises(duckdb.BinderException, match="regime"):
        rows_of_duckdb(f"SELECT regime FROM read_json('{log}') {last}")


def test_pandas_reads_a_csv_as_the_quants_page_describes(tmp_path: Path) -> None:
    home = tmp_path / "na"
    append(home, a_signal(1, symbol="NA"), a_signal(2, symbol="@ESZ25"))
    project(home)
    data, _ = exported(home, raw=True)
    frame = pd.read_csv(io.BytesIO(data), keep_default_na=False, na_values=[""])
    assert frame.symbol.tolist() == ["NA", "@ESZ25"]
    assert frame.exit_price.isna().all()
    assert pd.read_csv(io.BytesIO(data)).symbol.isna().tolist() == [True, False]


def test_an_export_of_one_symbol_holds_only_its_signals(home: Path) -> None:
    append(home, a_signal(900, symbol="MSFT"), a_signal(901, symbol="MSFT"))
    project(home)
    data, cited = exported(home, chosen=signal_filter(symbol=" msft "), page_rows=1)
    assert [row[1] for row in rows_of_csv(data)] == ["s-900", "s-901"]
    assert (cited.filter.symbol, cited.rows) == ("MSFT", 2)


# -- S1: spreadsheets


@given(st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(HOSTILE))
def test_any_text_in_a_cell_comes_back_and_is_never_run(text: str) -> None:
    line = csv_line(["a", text, -1.5])
    ((_, cell, number),) = csv.reader(io.StringIO(line, newline=""))
    assert unescape_cell(cell) == text
    assert number == "-1.5"
    assert not cell.startswith(FORMULA_PREFIXES)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_never_changed(number: float) -> None:
    assert type(number)(csv_line([number])[:-1]) == number


def test_no_text_that_a_spreadsheet_would_run_is_written(home: Path) -> None:
    data, _ = exported(home)
    for line in csv.DictReader(io.StringIO(data.decode(), newline="")):
        for name, cell in line.items():
            assert name in NUMBERS or not cell.startswith(FORMULA_PREFIXES), (name, cell)


# -- which data it is


def chain_of(home: Path, seq: int) -> str:
    return raw_entries(home)[seq - 1].chain if seq else "0" * 64


def test_the_citation_names_the_last_entry_that_is_included(home: Path) -> None:
    entries = raw_entries(home)
    _, cited = exported(home)
    last = entries[-1]
    assert (cited.position.seq, cited.position.chain, cited.position.recorded_at) == (
        last.seq,
        last.chain,
        last.recorded_at,
    )
    line = eventlog("cat", "--after", cited.position.seq - 1, "--limit", 1, home=home).answers[0]
    assert line["chain"] == cited.position.chain
    append(home, *signals(3))  # not in the table yet
    assert exported(home)[1] == cited


def test_an_as_of_export_is_the_fold_of_the_entries_recorded_by_then(home: Path) -> None:
    entries = raw_entries(home)
    for entry in entries[:-1]:
        data, cited = exported(home, as_of=entry.recorded_at)
        assert (cited.position.seq, cited.position.chain) == (entry.seq, entry.chain)
        assert rows_of_csv(data) == expected(home, seq=entry.seq)
    _, cited = exported(home, as_of="2001-01-01T00:00:00.000000Z")
    assert (cited.rows, cited.position.seq, cited.position.chain, cited.position.recorded_at) == (
        0,
        0,
        "0" * 64,
        None,
    )


def test_an_as_of_export_ends_between_entries_that_changed_no_signal(home: Path) -> None:
    for number in range(4):  # each has its own recorded_at, and no row in `lifecycle`
        append(home, {"event": "reviewed", "signal_id": "=1+1 0", "number": number})
    append(home, a_signal(100))
    project(home)
    entries = raw_entries(home)
    for entry in entries[-6:-1]:
        data, cited = exported(home, as_of=entry.recorded_at)
        assert (cited.position.seq, cited.position.chain) == (entry.seq, entry.chain)
        assert rows_of_csv(data) == expected(home, seq=entry.seq)


def test_a_table_behind_the_given_time_is_refused(home: Path, tmp_path: Path) -> None:
    append(home, *signals(3))
    now = raw_entries(home)[-1].recorded_at
    done = eventlog("export", "--as-of", now, "--output", tmp_path / "x.csv", home=home)
    assert done.code == 3
    assert "does not cover" in done.err
    assert not (tmp_path / "x.csv").exists()


def test_the_table_of_another_log_is_refused(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    append(other, *signals(len(raw_entries(home))))
    (other / "data").mkdir(exist_ok=True)
    with (
        closing(reading(database_of(home))) as db,
        closing(sqlite3.connect(database_of(other))) as copy,
    ):
        db.backup(copy)
    with pytest.raises(ProjectionError, match="does not belong to this log"):
        exported(other)


@pytest.mark.slow
def test_a_csv_file_gets_a_citation_file_and_csv_on_stdout_a_citation_on_stderr(
    home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    done = eventlog("export", "--output", path, home=home)
    assert (done.code, done.err) == (0, "")
    beside = json.loads((tmp_path / "a.csv.meta.json").read_text())
    assert beside["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert beside["chain"] == chain_of(home, beside["seq"])
    assert f"seq {beside['seq']}, chain {beside['chain']}" in done.out.decode()
    piped = eventlog("export", "--json", home=home)
    assert piped.out == path.read_bytes()
    assert json.loads(piped.err) == beside
    binary = eventlog("export", "--format", "parquet", home=home)
    assert pq.read_table(io.BytesIO(binary.out)).num_rows == len(HOSTILE)


# -- one state of the table, in short transactions


class HookedFile(io.BytesIO):
    """A file that calls a function at each write."""

    def __init__(self, happens: Callable[[int], object]) -> None:
        super().__init__()
        self._happens = happens
        self._writes = 0

    def write(self, data: Any) -> int:
        self._writes += 1
        if self._writes < 6:
            self._happens(self._writes)
        return super().write(data)


def test_concurrent_writes_leave_the_export_consistent_and_no_transaction_open(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    append(home, *signals(12))
    append(home, closed(11))
    project(home)
    wanted = expected(home)

    def hook(times: int) -> None:
        append(home, *signals(5, start=100 * times), closed(12 - 2 * times))
        append(home, {"event": "executed", "signal_id": f"s-{13 - 2 * times}", "order_id": "o"})
        project(home)
        with closing(sqlite3.connect(database_of(home))) as db:
            busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy, "a reader pins the WAL"

    out = HookedFile(hook)
    cited = export(home, out, page_rows=2)
    assert rows_of_csv(out.getvalue()) == wanted
    assert (cited.position.seq, cited.rows) == (13, 12)
    assert len(rows_of_csv(exported(home)[0])) == 37


def test_a_concurrent_rebuild_changes_nothing_and_a_restarted_table_is_detected(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    append(home, *signals(12))
    project(home)
    wanted = expected(home)
    out = HookedFile(lambda times: times == 3 and eventlog("rebuild-database", home=home))
    export(home, out, page_rows=2)
    assert rows_of_csv(out.getvalue()) == wanted

    def reset_checkpoint(times: int) -> None:
        if times == 3:
            with closing(sqlite3.connect(database_of(home))) as db:
                db.execute("UPDATE checkpoint SET seq = 3")
                db.commit()

    with pytest.raises(ProjectionError, match="replaced during the export"):
        export(home, HookedFile(reset_checkpoint), page_rows=2)


# -- the file is complete or missing


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(
    home: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").write_text("old")
    limit = ("prlimit", "--fsize=1000")
    words = ("export", "--format", kind, "--output", out / "x")
    done = eventlog(*words, home=home, under=limit)
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    assert (names_in(out), (out / "x").read_text()) == (["x"], "old")
    full = os.open("/dev/full", os.O_WRONLY)
    done = eventlog("export", "--format", kind, home=home, stdout=full)
    os.close(full)
    assert done.code == 3
    assert "Traceback" not in done.err
    assert "No space left" in done.err


def test_when_stopped_it_leaves_no_file(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def stop(_times: int) -> None:
        raise KeyboardInterrupt

    def write_half() -> None:
        with output_file(out / "x", home=home) as file:
            file.write(b"half")
            export(home, HookedFile(stop))

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names_in(out) == []


def test_an_unfinished_parquet_file_is_never_valid(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    def begin(file: IO[bytes]) -> None:
        with pytest.raises(KeyboardInterrupt):
            export(home, file, format="parquet", page_rows=2, progress=stop)

    out = io.BytesIO()
    begin(out)
    with (tmp_path / "x").open("wb") as file:
        begin(file)
    gc.collect()
    with pytest.raises(pyarrow.ArrowInvalid):
        pq.read_table(io.BytesIO(out.getvalue()))
    assert unraisable == []


@pytest.mark.slow
def test_after_a_kill_at_any_moment_the_old_or_the_new_file_is_there(
    home: Path, tmp_path: Path
) -> None:
    append(home, *signals(3_000, start=1_000))
    project(home)
    whole = eventlog("export", home=home).out
    path = tmp_path / "x.csv"
    words = [*map(str, (COMMAND, "--home", home, "export", "--output", path))]
    seen = set()
    for delay_ms in range(0, 1_500, 100):
        path.write_bytes(b"old")
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(delay_ms / 1_000)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE_S)
        assert path.read_bytes() in (b"old", whole)
        seen.add(path.read_bytes())
    assert b"old" in seen


@pytest.mark.slow
def test_a_new_file_is_ours_alone_whatever_the_umask(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for _ in range(2):  # creates the file, then replaces it
        assert eventlog("export", "--output", path, home=home, umask=0).code == 0
        for name in ("x.csv", "x.csv.meta.json"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        path.chmod(0o644)


@pytest.mark.slow
def test_a_path_that_is_not_a_regular_file_is_left_alone(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "home"):
        with pytest.raises(UnsafePath), output_file(tmp_path / name, home=home):
            raise AssertionError("it is open")
        done = eventlog("export", "--output", tmp_path / name, home=home)
        assert (done.code, done.out) == (3, b"")
    assert target.read_text() == "mine"
    assert names_in(tmp_path) == ["home", "link", "pipe", "target"]


# -- errors


def test_without_pyarrow_the_extra_is_named_and_csv_works(home: Path, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without/pyarrow.py").write_text("raise ImportError('No module named pyarrow')")
    env = {"PYTHONPATH": str(tmp_path / "without")}
    out = tmp_path / "x.parquet"
    done = eventlog("export", "--format", "parquet", "--output", out, home=home, env=env)
    assert done.code == 3
    assert "pip install 'signal-eventlog[parquet]'" in done.err
    assert "Traceback" not in done.err
    assert names_in(tmp_path) == ["home", "without"]
    assert eventlog("export", home=home, env=env).code == 0


def test_a_home_without_a_log_or_a_table_is_reported_and_nothing_is_created(tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    with pytest.raises(LogNotFound):
        exported(tmp_path / "none")
    append(tmp_path / "home", a_signal(1))
    done = eventlog("export", "--output", out, home=tmp_path / "home")
    assert done.code == 3
    assert "there is no database yet" in done.err
    assert names_in(tmp_path) == ["home"]


def test_a_damaged_database_is_reported(home: Path) -> None:
    database_of(home).write_bytes(b"SQLite format 3\0" + b"x" * 5_000)
    done = eventlog("export", home=home)
    assert done.code == 3
    assert "rebuild-database" in done.err
    assert "Traceback" not in done.err


def test_parquet_is_refused_on_a_terminal_and_a_closed_pipe_gives_no_traceback(
    home: Path,
) -> None:
    script = needs_tool("script", apt="bsdutils")
    words = f"{COMMAND} --home '{home}' export --format parquet"
    done = subprocess.run(
        [script, "-qec", words, "/dev/null"], capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert b"name a file with --output" in done.stdout
    read, write = os.pipe()
    os.close(read)
    done_ = eventlog("export", home=home, stdout=write)
    os.close(write)
    assert (done_.code, "Traceback" in done_.err) == (0, False)
