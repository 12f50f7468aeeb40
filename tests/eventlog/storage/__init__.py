"""Tests of `eventlog/storage`; the tree mirrors the packages."""
