"""Tests of `projections/signals`; the tree mirrors the packages."""
