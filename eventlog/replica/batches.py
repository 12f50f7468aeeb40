"""Cuts items into batches: of an append to a stream, which is atomic, of a replica's write, and of
a request to append.

Invariant: the batches are the items, in order; none is empty.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(
    items: Sequence[T], size_of: Callable[[T], int], *, count_max: int, bytes_max: int
) -> Iterator[Sequence[T]]:
    """Cuts items into batches of bounded count and size. An item that is larger stands alone."""
    start, size = 0, 0
    for index, item in enumerate(items):
        item_bytes = size_of(item)
        if index > start and (index - start >= count_max or size + item_bytes > bytes_max):
            yield items[start:index]
            start, size = index, 0
        size += item_bytes
    if start < len(items):
        yield items[start:]
