"""Commands with fewer powers or resources than the test has.

    eventlog("append", home=home, under=bound_by_modes())
    eventlog("signals", home=home, under=without_threads())

Invariant: the limits end with the command.
"""

import os

from tests.harness.command import strace
from tests.harness.requirements import needs_tool


def bound_by_modes() -> tuple[str, ...]:
    """A prefix: file modes apply to the command, also where root runs it."""
    if os.getuid() != 0:
        return ()
    setpriv = needs_tool("setpriv", apt="util-linux")
    return (setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


def without_threads(*, nth: str = "1+") -> tuple[object, ...]:
    """A prefix: the system refuses new threads, as under `ulimit -u`; `nth` says which ones."""
    # A thread is made by clone3; a process by clone, which is refused with it.
    return strace("-e", "trace=clone,clone3", "-e", f"inject=clone,clone3:error=EAGAIN:when={nth}")
