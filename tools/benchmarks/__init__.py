"""The benchmarks: `tools/bench` measures the log against peers on the same machine.

Invariant: a target compares two things measured in turn in one run; nothing asserts a time.
"""
