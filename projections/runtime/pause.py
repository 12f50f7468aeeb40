"""Waits for an event of one event loop, but not for ever.

Invariant: a pause ends as soon as its event is set.
"""

import asyncio


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> bool:
    """Returns when the event is set; False if that took longer than `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
