"""Tests. The tree mirrors the packages and tools; a test module is named after what it tests."""
