"""Tests of `eventlog/verify`; the tree mirrors the packages."""
