"""Tests of `projections/cli`; the tree mirrors the packages."""
