"""Exports signals with the log position that they were read at: CSV, Parquet, pyarrow.Table.

Invariant: an export names exactly the data that it holds.

May import: projections.errors, projection, signals, sqlite, queries; eventlog.
"""
