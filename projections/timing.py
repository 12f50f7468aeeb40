"""The intervals of delivery: one home for each default.

Invariant: none of them decides what is sent in the end, only when.
"""

from dataclasses import dataclass, field

from projections.alpine import Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The intervals of delivery, in seconds."""

    patience: Patience = field(default_factory=Patience)  # between the tries at one signal
    probe_s_min: float = 5.0  # between probes while nothing passes, growing
    probe_s_max: float = 60.0
    slow_probe_s: float = 900.0  # the same while nothing can pass before somebody mends it
    key_poll_s: float = 1.0
    failing_s_min: float = 60.0  # between tries at a signal that is parked as failing, growing
    failing_s_max: float = 6 * 3600.0
    tick_s: float = 0.5  # between looks at what is due, or was asked for
    once_s: float = 13.0  # `--once` waits so long while nothing passes: for two probes
