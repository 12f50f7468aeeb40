"""Tests of `projections/web`; the tree mirrors the packages."""
