"""The extra `evidence`, and what its commands share.

Invariant: a command names the extra where a package of it is missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

SEQ_DIGITS_MAX = 18  # more than any log has


@contextmanager
def needs_extra() -> Iterator[None]:
    """Names the extra where `cryptography` is not installed."""
    from projections.errors import ProjectionError

    try:
        yield
    except ModuleNotFoundError as error:
        raise ProjectionError(
            f"evidence needs a package that is not installed: {error.name}",
            do="run `pip install 'signal-eventlog[evidence]'`, or `pip install '.[evidence]'` in a"
            " checkout",
        ) from None
