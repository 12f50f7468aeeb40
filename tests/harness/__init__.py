"""Shared by several test modules: fakes of the real protocols, small verbs, requirements."""
