"""Tests of `projections/rebuild`; the tree mirrors the packages."""
