"""Tests of `projections/runtime`; the tree mirrors the packages."""
