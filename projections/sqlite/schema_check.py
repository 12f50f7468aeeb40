"""Compares the schema of a database with the one that we create: no trigger, nothing changed.

Other programs may add tables, views and plain indexes of their own, which are ignored. A trigger,
or an index that can refuse a row, would change what our statements do.

Invariant: on a database without a problem, our statements do what they do on one of ours.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeAlias

from eventlog.plumbing import printable_value

# type, name, table and SQL text of each object, as SQLite stores them
Schema: TypeAlias = frozenset[tuple[object, object, object, object]]

_SELECT_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})  # those that every connection has
# Table-valued functions of our statements: a table or view of such a name would hide the function.
_FUNCTIONS = ("json_each", "pragma_")


def schema_of(statements: Iterable[str]) -> Schema:
    """The schema that these CREATE statements make, in SQLite's own words."""
    with closing(sqlite3.connect(":memory:")) as database:
        for statement in statements:
            database.execute(statement)
        return frozenset(database.execute(_SELECT_SCHEMA))


def schema_problem(database: sqlite3.Connection, expected: Schema) -> str | None:
    """Describes the first object that may change what our statements do; None if there is none."""
    found = frozenset(database.execute(_SELECT_SCHEMA))
    for kind, name, *_ in sorted(expected - found, key=str):
        return f"the {kind} {name} is missing or changed"
    ours = {str(name) for kind, name, *_ in expected if kind == "table"}
    for kind, name, table, _ in sorted(found - expected, key=str):
        shown = f"the {kind} {printable_value(name)}"
        if kind == "trigger":
            return f"{shown} is none of ours"
        if kind != "index" and str(name).lower().startswith(_FUNCTIONS):
            return f"{shown} hides a function of SQLite"
        if kind == "index" and table in ours and not _is_plain(database, str(table), str(name)):
            return f"{shown} can refuse a row of the table {table}"
    return None


def foreign_names(database: sqlite3.Connection, expected: Schema) -> tuple[str, ...]:
    """Names of the tables, views and indexes of other programs, sorted."""
    found = frozenset(database.execute(_SELECT_SCHEMA))
    names = {str(name) for _, name, *_ in found - expected}
    return tuple(sorted(name for name in names if not name.startswith("sqlite_")))


def drop_all(database: sqlite3.Connection) -> None:
    """Drops every table and view, with their indexes and triggers, in the caller's transaction."""
    for kind, name in list(_tables_and_views(database)):
        database.execute(f"DROP {kind} {_quoted(name)}")


def _tables_and_views(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    for kind, name, *_ in database.execute(_SELECT_SCHEMA):
        if kind in ("table", "view") and not str(name).startswith("sqlite_"):
            yield kind, name


def _is_plain(database: sqlite3.Connection, table: str, name: str) -> bool:
    """Whether an index takes any row: not unique, without conditions and expressions."""
    listed = {row[1]: row for row in database.execute(f"PRAGMA index_list({_quoted(table)})")}
    if name not in listed:
        return False
    _, _, is_unique, _, is_partial = listed[name]
    columns = database.execute(f"PRAGMA index_xinfo({_quoted(name)})").fetchall()
    return not (is_unique or is_partial) and all(
        column >= -1 and str(collation).upper() in _COLLATIONS  # -2: an expression
        for _, column, _, _, collation, _ in columns
    )


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
