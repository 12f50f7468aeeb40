"""Tests of `repository`; the tree mirrors the packages."""
