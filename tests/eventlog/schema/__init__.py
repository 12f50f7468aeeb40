"""Tests of `eventlog/schema`; the tree mirrors the packages."""
