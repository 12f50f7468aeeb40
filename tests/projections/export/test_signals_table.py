"""signals_table, `--columns` and `--raw`: typed further keys, and no copy in polars and DuckDB."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd  # type: ignore[import-untyped]  # its types are a package of their own
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from projections import ProjectionError, SignalStore, signals_table
from projections.export.csv_lines import unescape_cell
from projections.export.pages import COLUMNS
from tests.harness.command import eventlog
from tests.harness.read_side import append, project
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import raw_entries

# Values of a further key, and the type of their column.
FURTHER: Mapping[str, tuple[list[Any], str]] = {
    "rsi": ([50.7, None, 51], "double"),
    "bars": ([1, 2**63 - 1, None], "int64"),
    "huge": ([2**60 + 1, 0.5, None], "string"),
    "live": ([True, None, False], "bool"),
    "regime": (["rising", None, "NA"], "string"),
    "mixed": ([1, "1", [1, {"ü": None}]], "string"),
    "flags": ([True, 1, None], "string"),
    "none": ([None, None, None], "string"),
}


def text_of(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    for number in range(3):
        further = {key: values[number] for key, (values, _) in FURTHER.items()}
        given = {key: value for key, value in further.items() if value is not None}
        append(home, a_signal(number, symbol=("NA", "AAPL", "AAPL")[number], **given))
    append(
        home, {"event": "executed", "signal_id": "s-1", "order_id": "o", "fill_price": 0.1 + 0.2}
    )
    append(home, closed(1, closed_at="2025-11-18T04:00:00+01:00"))
    project(home)
    return home


def test_the_table_is_typed_and_names_its_data(home: Path) -> None:
    table = signals_table(home)
    assert tuple(table.column_names) == COLUMNS
    moment = pa.timestamp("us", tz="UTC")
    for name in ("timestamp", "created_at", "recorded_at", "executed_at", "closed_at"):
        assert table.schema.field(name).type == moment
    for name in ("entry_price", "exit_price", "profit_loss_pct", "fill_price", "confidence"):
        assert table.schema.field(name).type == pa.float64()
    assert table.schema.field("id").type == pa.int64()
    assert table.column("state").to_pylist() == ["open", "closed", "open"]
    assert table.column("closed_at")[1].as_py() == datetime(2025, 11, 18, 3, tzinfo=UTC)
    assert table.column("fill_price").to_pylist() == [None, 0.1 + 0.2, None]
    last = raw_entries(home)[-1]
    inside = json.loads(table.schema.metadata[b"eventlog"])
    assert (inside["seq"], inside["chain"]) == (last.seq, last.chain)
    assert (inside["recorded_at"], inside["as_of"]) == (last.recorded_at, None)


def test_a_past_table_is_what_was_known_then(home: Path) -> None:
    moment = raw_entries(home)[3].recorded_at
    table = signals_table(home, moment, "aapl")
    assert table.column("signal_id").to_pylist() == ["s-1", "s-2"]
    assert table.column("state").to_pylist() == ["executed", "open"]
    inside = json.loads(table.schema.metadata[b"eventlog"])
    assert (inside["seq"], inside["as_of"], inside["symbol"]) == (4, moment, "AAPL")


def test_an_empty_table_has_the_same_types(home: Path) -> None:
    empty = signals_table(home, symbol="NONE", columns=["rsi"])
    assert empty.num_rows == 0
    assert empty.schema.names == signals_table(home, columns=["rsi"]).schema.names
    assert signals_table(home, limit=0).num_rows == 0


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_further_keys_have_the_type_of_their_values(home: Path, tmp_path: Path, kind: str) -> None:
    if kind == "arrow":
        table = signals_table(home, columns=list(FURTHER))
    else:
        words = ("--format", "parquet", "--output", tmp_path / "x.parquet")
        done = eventlog("export", *words, "--columns", ",".join(FURTHER), home=home)
        assert done.code == 0, done.err
        table = pq.read_table(tmp_path / "x.parquet")
    for key, (values, type_) in FURTHER.items():
        assert str(table.schema.field(key).type) == type_, key
        wanted = list(map(text_of, values)) if type_ == "string" else values
        assert table.column(key).to_pylist() == wanted, key


def test_pandas_polars_and_duckdb_take_it(home: Path) -> None:
    table = signals_table(home, columns=["rsi"])
    frame = table.to_pandas()
    assert frame.symbol.tolist() == ["NA", "AAPL", "AAPL"]
    assert str(frame.timestamp.dt.tz) == "UTC"
    assert frame.timestamp[0] == pd.Timestamp("2025-11-18T02:00:00Z")
    polars = pl.DataFrame(table)
    assert polars["rsi"].to_list() == [50.7, None, 51.0]
    assert polars.schema["timestamp"] == pl.Datetime("us", "UTC")
    found = duckdb.from_arrow(table).aggregate("symbol, max(rsi)").order("symbol")
    assert found.fetchall() == [("AAPL", 51.0), ("NA", 50.7)]


def test_without_pyarrow_the_extra_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('No module named pyarrow')")
    code = """
import sys
import projections
try:
    projections.signals_table(sys.argv[1])
except projections.ProjectionError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        cwd=CHECKOUT,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'signal-eventlog[parquet]'" in done.stdout


# -- CSV

HOSTILE = '@ESZ25,=1+1,\'x,"q",plain'


def test_csv_has_further_keys_as_columns(home: Path) -> None:
    text = eventlog("export", "--columns", ",".join(FURTHER), home=home).out.decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for key, (values, _) in FURTHER.items():
        cells = [unescape_cell(row[key]) for row in rows]
        assert cells == ["" if value is None else text_of(value) for value in values], key


def test_raw_csv_holds_the_text_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "hostile"
    texts = HOSTILE.split(",")
    append(home, *(a_signal(n, symbol=f"{t}".replace(" ", "")) for n, t in enumerate(texts)))
    project(home)
    guarded = eventlog("export", home=home)
    raw = eventlog("export", "--raw", "--json", home=home)
    symbols = [
        [row["symbol"] for row in csv.DictReader(io.StringIO(done.out.decode(), newline=""))]
        for done in (guarded, raw)
    ]
    upper = [text.upper() for text in texts]
    assert symbols == [[f"'{t}" if t[0] in "@='" else t for t in upper], upper]
    assert json.loads(raw.err)["raw"] is True


# -- the synchronous store


def test_the_synchronous_store_returns_what_the_other_returns(home: Path) -> None:
    moment = raw_entries(home)[3].recorded_at

    async def ask() -> list[object]:
        async with SignalStore(home) as store:
            return [
                await store.latest("AAPL", 5, outcome="open", columns=["rsi"]),
                await store.latest(as_of=moment),
                await store.get("s-1"),
                await store.get("s-1", as_of=moment),
                await store.get("unknown"),
                await store.count(action="buy"),
                await store.stats(by="symbol", as_of=moment),
                await store.stats("AAPL"),
            ]

    with SignalStore.open(home) as store:
        found = [
            store.latest("AAPL", 5, outcome="open", columns=["rsi"]),
            store.latest(as_of=moment),
            store.get("s-1"),
            store.get("s-1", as_of=moment),
            store.get("unknown"),
            store.count(action="buy"),
            store.stats(by="symbol", as_of=moment),
            store.stats("AAPL"),
        ]
    assert asyncio.run(ask()) == found


def test_the_synchronous_store_works_inside_a_running_event_loop(home: Path) -> None:
    async def cell_of_a_notebook() -> int:
        with SignalStore.open(home) as store:
            return store.count()

    assert asyncio.run(cell_of_a_notebook()) == 3


def test_the_synchronous_store_reports_a_missing_table(tmp_path: Path) -> None:
    append(tmp_path / "home", *signals(1))
    with (
        SignalStore.open(tmp_path / "home") as store,
        pytest.raises(ProjectionError, match="no database yet"),
    ):
        store.latest()


def test_a_cached_answer_is_not_changed_by_its_reader(home: Path) -> None:
    async def run() -> None:
        async with SignalStore(home) as store:
            first = await store.stats()
            first["wins"] = "changed"
            rows = await store.latest()
            rows[0]["symbol"] = "changed"
            assert (await store.stats())["wins"] == 1
            assert (await store.latest())[0]["symbol"] == "AAPL"

    asyncio.run(run())
