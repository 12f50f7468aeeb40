"""The salt: a random payload key that keeps a line from being guessed from its hash. Pure.

A proof of one line discloses the hashes of others, and a line with few unknowns can be found from
its hash by trying them all. With 16 random bytes it cannot. A retry brings another salt, so no
comparison of two items includes it.

Invariant: an item that has the key keeps it as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from eventlog.schema.signal import Signal

SALT = "salt"
SALT_BYTES = 16  # 2^128 values cannot be tried


def with_salt(item: object, new_salt: Callable[[], str]) -> object:
    """The item with a salt; unchanged if it has one, or is no item, which validation refuses."""
    if isinstance(item, Signal):
        if SALT in item.extra:
            return item
        return replace(item, extra={**item.extra, SALT: new_salt()})
    if not isinstance(item, Mapping) or SALT in item:
        return item
    return {**item, SALT: new_salt()}
