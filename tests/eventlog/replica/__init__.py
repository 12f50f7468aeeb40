"""Tests of `eventlog/replica`; the tree mirrors the packages."""
