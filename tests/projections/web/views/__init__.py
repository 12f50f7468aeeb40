"""Tests of `projections/web/views`; the tree mirrors the packages."""
