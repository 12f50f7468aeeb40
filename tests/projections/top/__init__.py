"""Tests of `projections/top`; the tree mirrors the packages."""
