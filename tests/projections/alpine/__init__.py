"""Tests of `projections/alpine`; the tree mirrors the packages."""
