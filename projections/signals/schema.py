"""The SQLite tables of the read side, and the statements that fill them. Pure.

Invariant: the live projection and a rebuild execute the same statements, so equal changes make
equal tables.
"""

from typing import TypeAlias

APPLICATION_ID = 0x53474C47  # "SGLG": a database without it is not ours
SCHEMA_VERSION = 2  # PRAGMA user_version; the old tracker's databases have 0

# `signals` is the old tracker's table, unchanged, so that its readers still work.
TABLES = (
    """CREATE TABLE signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, signal_id TEXT UNIQUE NOT NULL, symbol TEXT NOT NULL, action TEXT NOT NULL,
    entry_price REAL NOT NULL, target_price REAL NOT NULL, stop_price REAL NOT NULL, confidence REAL NOT NULL,
    strategy TEXT NOT NULL, asset_type TEXT NOT NULL, data_source TEXT DEFAULT 'weighted_consensus', timestamp TEXT NOT NULL,
    outcome TEXT DEFAULT NULL, exit_price REAL DEFAULT NULL, profit_loss_pct REAL DEFAULT NULL, sha256 TEXT NOT NULL,
    order_id TEXT DEFAULT NULL, created_at TEXT DEFAULT CURRENT_TIMESTAMP)""",  # noqa: E501 - the old text, to the letter
    "CREATE TABLE signal_extras(signal_id TEXT PRIMARY KEY, extra TEXT NOT NULL)",
    # Every entry that applied. `known_seq` is the later of the seqs of the entry and of its signal;
    # the columns behind it are the signal's state and values after the entry, and the seqs of the
    # `executed` and the `closed` that are in force then.
    "CREATE TABLE lifecycle(seq INTEGER PRIMARY KEY, signal_id TEXT NOT NULL, event TEXT NOT NULL,"
    " recorded_at TEXT NOT NULL, detail TEXT, known_seq INTEGER NOT NULL, state TEXT NOT NULL,"
    " order_id TEXT, outcome TEXT, exit_price REAL, profit_loss_pct REAL,"
    " executed_seq INTEGER, closed_seq INTEGER)",
    # Facts whose signal has not arrived yet.
    "CREATE TABLE held(seq INTEGER PRIMARY KEY, signal_id TEXT NOT NULL, event TEXT NOT NULL,"
    " recorded_at TEXT NOT NULL, payload TEXT NOT NULL)",
    "CREATE TABLE conflicts(seq INTEGER PRIMARY KEY, signal_id TEXT, reason TEXT NOT NULL)",
    "CREATE TABLE checkpoint(name TEXT PRIMARY KEY, seq INTEGER NOT NULL, chain TEXT NOT NULL,"
    " segment INTEGER, byte_offset INTEGER)",
    # SELECT_STATES and SELECT_HELD read through these indexes, in a rebuild too, so they are made
    # with the tables. Rows of `signal`, most of the table, are left out: no query needs them here.
    "CREATE INDEX lifecycle_signal_id ON lifecycle(signal_id) WHERE event <> 'signal'",
    "CREATE INDEX held_signal_id ON held(signal_id)",
)

# The tables that are filled from entries; `checkpoint` has one row.
ENTRY_TABLES = ("signals", "signal_extras", "lifecycle", "held", "conflicts")

# Whether a signal has a timestamp that lies in a later second than its recording: few have. The
# slash follows the point, so the text is above all timestamps of its second.
IS_AHEAD = "timestamp > replace(created_at, ' ', 'T') || '/'"

# Each index slows every insert, so there are few, each for a query; a rebuild creates them last.
# SQLite ends each entry with the rowid, so newest first by (timestamp, id) needs no sort.
INDEXES = (
    "CREATE INDEX signals_symbol_timestamp ON signals(symbol, timestamp)",  # latest of a symbol
    "CREATE INDEX signals_timestamp ON signals(timestamp)",  # latest of all
    "CREATE INDEX signals_confidence ON signals(confidence)",
    # Wins, losses and the mean return, from the index alone, and only for trades that ended.
    "CREATE INDEX signals_outcome ON signals(outcome, profit_loss_pct) WHERE outcome IS NOT NULL",
    f"CREATE INDEX signals_ahead ON signals(timestamp) WHERE {IS_AHEAD}",  # latest as of a time
    "CREATE INDEX lifecycle_known_seq ON lifecycle(known_seq) WHERE event <> 'signal'",  # new facts
)

COLUMNS = (
    *("id", "signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
    *("confidence", "strategy", "asset_type", "data_source", "timestamp", "outcome", "exit_price"),
    *("profit_loss_pct", "sha256", "order_id", "created_at"),
)
SELECT_SIGNALS = f"SELECT {', '.join(COLUMNS)} FROM signals ORDER BY id"  # the input of `digest`

# Plain tuples, so that marshal can carry a batch to another process.
SignalRow: TypeAlias = tuple[
    *tuple[int, str, str, str],  # id, signal_id, symbol, action
    *tuple[float, float, float, float],  # entry_price, target_price, stop_price, confidence
    *tuple[str, str, str, str],  # strategy, asset_type, data_source, timestamp
    *tuple[str, str],  # sha256, created_at
]
ExtraRow: TypeAlias = tuple[int, str, str]  # seq, signal_id, JSON
ConflictRow: TypeAlias = tuple[int, str | None, str]
# order_id, outcome, exit_price, profit_loss_pct
ChangingValues: TypeAlias = tuple[str | None, str | None, float | None, float | None]
ValuesRow: TypeAlias = tuple[*ChangingValues, int]  # and the id of the signal
SignalLifecycleRow: TypeAlias = tuple[int, str, str]  # seq, signal_id, recorded_at
LifecycleRow: TypeAlias = tuple[
    *tuple[int, str, str, str, str | None],  # seq, signal_id, event, recorded_at, detail
    *tuple[int, str],  # known_seq, state
    *ChangingValues,
    *tuple[int | None, int | None],  # executed_seq, closed_seq
]
HeldRow: TypeAlias = tuple[int, str, str, str, str]  # seq, signal_id, event, recorded_at, payload
StateRow: TypeAlias = tuple[
    *tuple[str, int, str, float, str],  # signal_id, id, action, entry_price, sha256
    *tuple[int | None, str, str | None],  # seq and event of a fact, if any; detail of `reduced`
    *ChangingValues,
    *tuple[int | None, int | None],  # executed_seq, closed_seq
]

SQLITE = "sqlite"  # the name of the projection that these tables are
INSERT_CHECKPOINT = "INSERT INTO checkpoint(name, seq, chain) VALUES (?, 0, ?)"
# No row where another program wrote a value that is not a seq or no chain; no position, which is
# only a hint, where it is none.
SELECT_CHECKPOINT = """SELECT seq, chain,
    CASE WHEN typeof(segment) = 'integer' AND segment > 0 THEN segment END,
    CASE WHEN typeof(byte_offset) = 'integer' AND byte_offset >= 0 THEN byte_offset END
    FROM checkpoint
    WHERE name = ? AND typeof(seq) = 'integer' AND seq >= 0 AND typeof(chain) = 'text'"""

INSERT_SIGNAL = (
    "INSERT INTO signals(id, signal_id, symbol, action, entry_price, target_price, stop_price,"
    " confidence, strategy, asset_type, data_source, timestamp, sha256, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SET_VALUES = (
    "UPDATE signals SET order_id = ?, outcome = ?, exit_price = ?, profit_loss_pct = ? WHERE id = ?"
)
# The rowid is the seq of the signal, as in every table here, so a rebuild gives the same one.
INSERT_EXTRA = "INSERT INTO signal_extras(rowid, signal_id, extra) VALUES (?, ?, ?)"
# For the rows of `signal`, most of the table: less than half the time of INSERT_LIFECYCLE.
INSERT_SIGNAL_LIFECYCLE = (
    "INSERT INTO lifecycle(seq, signal_id, event, recorded_at, known_seq, state)"
    " VALUES (?1, ?2, 'signal', ?3, ?1, 'open')"
)
INSERT_LIFECYCLE = (
    "INSERT INTO lifecycle(seq, signal_id, event, recorded_at, detail, known_seq, state, order_id,"
    " outcome, exit_price, profit_loss_pct, executed_seq, closed_seq)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_CONFLICT = "INSERT INTO conflicts(seq, signal_id, reason) VALUES (?, ?, ?)"

DELETE_CONFLICT = "DELETE FROM conflicts WHERE seq = ?"
INSERT_HELD = "INSERT INTO held(seq, signal_id, event, recorded_at, payload) VALUES (?, ?, ?, ?, ?)"
DELETE_HELD = "DELETE FROM held WHERE seq = ?"

# The signals whose ids are in a JSON array: one row for each fact that applied to them, and one row
# without a fact for a signal that has none.
SELECT_STATES = """SELECT s.signal_id, s.id, s.action, s.entry_price, s.sha256,
    l.seq, l.event, CASE WHEN l.event = 'reduced' THEN l.detail END,
    l.order_id, l.outcome, l.exit_price, l.profit_loss_pct, l.executed_seq, l.closed_seq
    FROM json_each(?) AS given CROSS JOIN signals AS s ON s.signal_id = given.value
    LEFT JOIN lifecycle AS l ON l.signal_id = s.signal_id AND l.event <> 'signal'"""
# The held facts of the signal_ids in a JSON array. While `held` is empty, no id is looked up.
SELECT_HELD = """SELECT h.seq, h.signal_id, h.event, h.recorded_at, h.payload
    FROM json_each(?) AS given CROSS JOIN held AS h ON h.signal_id = given.value
    WHERE EXISTS (SELECT 1 FROM held)"""
