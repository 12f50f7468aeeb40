"""Tests of `eventlog/cli`; the tree mirrors the packages."""
