"""Tests of `eventlog/archive`; the tree mirrors the packages."""
