"""Tests of `eventlog`; the tree mirrors the packages."""
