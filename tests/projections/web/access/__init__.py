"""Tests of `projections/web/access`; the tree mirrors the packages."""
