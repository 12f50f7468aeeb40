"""Tests of `projections/delivery`; the tree mirrors the packages."""
