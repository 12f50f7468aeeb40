"""Compatibility with the old tracker: its Python interface, and the import of its files.

Invariant: the files of the old tracker are only read.

May import: everything below it, queries included; eventlog.
"""
