"""The current time, in the two forms that are stored.

Invariant: UTC, with six digits of a second.
"""

import time
from functools import lru_cache

_SECOND_US = 1_000_000


def now_recorded() -> str:
    """`2025-11-18T02:00:00.123456Z`, by the log's own clock."""
    seconds, us = divmod(time.time_ns() // 1_000, _SECOND_US)
    return f"{_format_second(seconds)}.{us:06d}Z"


def now_stored() -> str:
    """`2025-11-18T02:00:00.123456+00:00`, as a signal's timestamp is stored."""
    return now_recorded()[:-1] + "+00:00"


@lru_cache(maxsize=1)  # thousands of appends share a second, and formatting is slow
def _format_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
