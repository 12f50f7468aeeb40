"""Tests of `projections/monitoring`; the tree mirrors the packages."""
