"""Tests: one module for each module of the packages, test_<module>.py, and what they share."""
