"""Tests of `tools/crash`; the tree mirrors the packages."""
