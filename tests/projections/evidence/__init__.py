"""Tests of `projections/evidence`; the tree mirrors the packages."""
