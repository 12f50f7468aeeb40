"""Tests of `projections/legacy`; the tree mirrors the packages."""
