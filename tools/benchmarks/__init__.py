"""What is fast and what is slow, against peers on the same machine: `tools/bench`.

Invariant: a mark compares two things measured in turn in one run; nothing asserts a time.
"""
