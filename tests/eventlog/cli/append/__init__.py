"""Tests of `eventlog/cli/append`; the tree mirrors the packages."""
