"""Tests of `eventlog/append`; the tree mirrors the packages."""
