"""Tests of `eventlog/repair`; the tree mirrors the packages."""
