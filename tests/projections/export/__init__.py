"""Tests of `projections/export`; the tree mirrors the packages."""
