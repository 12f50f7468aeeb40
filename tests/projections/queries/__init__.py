"""Tests of `projections/queries`; the tree mirrors the packages."""
