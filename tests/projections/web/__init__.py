"""Tests of `projections/serving`; the tree mirrors the packages."""
