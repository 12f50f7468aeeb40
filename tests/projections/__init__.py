"""Tests of `projections`; the tree mirrors the packages."""
