"""Tests of `projections/replication`; the tree mirrors the packages."""
