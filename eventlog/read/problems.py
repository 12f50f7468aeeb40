"""Texts of problems that a reader and `verify` report in the same words.

Invariant: each text continues "entry 42 ...".
"""


def beyond_end_problem(durable_seq: int) -> str:
    """The problem of a log that ends before its durable end; continues "entry 42 ..."."""
    return (
        f"is gone: the log was durable up to entry {durable_seq} "
        "(damage, or a copy taken while writing)"
    )
