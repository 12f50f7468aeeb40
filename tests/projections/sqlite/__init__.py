"""Tests of `projections/sqlite`; the tree mirrors the packages."""
