"""Tests of `projections/web/outcomes`; the tree mirrors the packages."""
