"""Tests of `projections/doctor`; the tree mirrors the packages."""
