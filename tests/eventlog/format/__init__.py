"""Tests of `eventlog/format`; the tree mirrors the packages."""
