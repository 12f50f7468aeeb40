"""Ordinary signals and facts for tests of other things.

Invariant: `a_signal(n)` returns the same on each call.
"""

from typing import Any


def a_signal(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Signal `s-<number>`; a change of None leaves the key out."""
    signal = {
        "signal_id": f"s-{number}",
        "symbol": "AAPL",
        "action": "BUY",
        "entry_price": 150.0 + number,
        "target_price": 160.0 + number,
        "stop_price": 140.0 + number,
        "confidence": 85.5,
        "strategy": "momentum",
        "timestamp": "2025-11-18T02:00:00Z",
        **changes,
    }
    return {key: value for key, value in signal.items() if value is not None}


def signals(count: int, *, start: int = 1) -> list[dict[str, Any]]:
    """`count` signals with numbers from `start` on."""
    return [a_signal(number) for number in range(start, start + count)]


def closed(number: int = 1, **changes: Any) -> dict[str, Any]:
    """The fact that trade `s-<number>` ended."""
    return {"event": "closed", "signal_id": f"s-{number}", "exit_price": 161.0, **changes}
