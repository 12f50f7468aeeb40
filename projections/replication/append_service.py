"""Carries out requests to append that come from other machines.

Invariant: a reply has a receipt only for an entry that is durable in this home.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from eventlog import (
    EventLog,
    EventLogError,
    LogFenced,
    LogIsReplica,
    LogPoisoned,
    Receipt,
    Unsupported,
)
from eventlog.plumbing import (
    ALL,
    EACH,
    POLICIES,
    REQUEST_ITEMS_MAX,
    Reply,
    append_each_line,
    fence_state,
    parse_json_line,
    replica_state,
    run_in_thread,
    state_of_log,
)

logger = logging.getLogger(__name__)

# After one of these the service must end: another home is the primary, or the handle is disabled.
ENDING = (LogFenced, LogIsReplica, LogPoisoned)


class AppendService:
    """Appends to one home what requests bring. Used by one event loop.

    Opening reads the log once, for the epoch of its last promotion. Raises LogFenced and
    LogIsReplica where the home is not the primary, and what opening a log raises.
    """

    def __init__(self, home: Path, stream: str) -> None:
        self._log = EventLog(home)
        self._require_primary()
        # While this home is the primary, its epoch stays as it is.
        self.epoch = state_of_log(self._log.home, stream, self._log.last_seq).epoch
        self.ending: EventLogError | None = None  # why the service must end

    @property
    def home(self) -> str:
        """The absolute path of the home."""
        return self._log.home

    def _require_primary(self) -> None:
        """Raises LogFenced or LogIsReplica. An append would find it out as well, but too late."""
        where, do = self.home, "nothing was started: run `eventlog serve` at the primary"
        fence, state = fence_state(where), replica_state(where)
        if fence is not None:
            raise LogFenced(f"this home is fenced: {fence.to_text()}", where=where, do=do)
        if state is not None:
            what = f"this home is a replica of the stream {state.stream}, and appends nothing"
            raise LogIsReplica(what, where=where, do=do)

    async def reply(self, data: bytes, policy: str) -> Reply:
        """Carries out one request. Raises nothing but CancelledError."""
        results: Sequence[Receipt | EventLogError] = ()
        error = None
        try:
            results = await self._append(data.removesuffix(b"\n").split(b"\n"), policy)
        except EventLogError as raised:
            error = raised
        except Exception as raised:  # one request must not end the daemon
            logger.exception("request_failed")
            error = EventLogError(
                f"the server failed: {raised!r}", where=self.home, do="see the log of the server"
            )
        for found in (error, *results):
            if isinstance(found, ENDING):
                self.ending = self.ending or found
        return Reply(self.epoch, tuple(results), error)

    async def _append(
        self, lines: Sequence[bytes], policy: str
    ) -> Sequence[Receipt | EventLogError]:
        """The results of the lines of a request."""
        if policy not in POLICIES or len(lines) > REQUEST_ITEMS_MAX:
            raise Unsupported(
                f"a request of {len(lines):,} items with the policy {policy!r} is not supported",
                do=f"send at most {REQUEST_ITEMS_MAX:,} items with one of {', '.join(POLICIES)}",
            )
        log = self._log
        if policy != ALL:
            return await run_in_thread(
                lambda: append_each_line(log, lines, skip_invalid=policy == EACH)
            )
        items = [parse_json_line(line) for line in lines]
        if len(items) == 1:  # shares its commit with all others that wait
            return [await log.append_async(items[0])]
        return await run_in_thread(lambda: log.append_many(items))

    def close(self) -> None:
        """Waits for the appends in progress, and closes the log."""
        self._log.close()
