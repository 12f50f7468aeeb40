"""Tests of `eventlog/read`; the tree mirrors the packages."""
