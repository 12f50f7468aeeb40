"""Tests of `tools/alpine`; the tree mirrors the packages."""
