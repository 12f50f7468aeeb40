"""Errors that JetStream answers, as errors of the engine.

Invariant: an answer that is not known counts as an outage: the outcome of the request is unknown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eventlog.replica.engine import (
    StreamError,
    StreamMissing,
    StreamShort,
    StreamUnavailable,
    StreamUnfit,
    WrongLastSequence,
)
from eventlog.replica.stream_rules import StreamSettings

# The numbers of JetStream for its errors.
_NOT_FOUND = 10059
_NO_MESSAGE = 10037
_WRONG_LAST = frozenset({10071, 10164})
_NO_ATOMIC = 10174
_NO_CLUSTER = 10074
_NO_PEERS = 10005


def answered_error(error: Mapping[str, Any], settings: StreamSettings) -> StreamError:
    """The error that the `error` object of an answer means."""
    code, text = error.get("err_code"), str(error.get("description"))
    where = settings.where
    if code in _WRONG_LAST:
        what = f"the stream does not end where the lines go on: {text}"
        return WrongLastSequence(what, where=where, do="its end is read again")
    if code == _NOT_FOUND:
        do = "create it with `eventlog mirror create`"
        return StreamMissing("the server has no such stream", where=where, do=do)
    if code == _NO_MESSAGE:
        do = "create a stream of another name, and set EVENTLOG_STREAM to it"
        return StreamShort("a message is missing from the stream", where=where, do=do)
    if code == _NO_ATOMIC:
        return unfit_error(["allow_atomic must be true"], settings)
    if code == _NO_CLUSTER:
        what = "the server is alone, and cannot hold several replicas of a stream"
        do = (
            "start three servers as a cluster; for a trial: "
            "`eventlog mirror create --replicas 1 --allow-single`"
        )
        return StreamUnavailable(what, where=where, do=do)
    if code == _NO_PEERS:
        what = "too few servers of the cluster agree with each other to hold the stream"
        do = "start the others; where disks are lost, do what docs/machines.md says, and wipe none"
        return StreamUnavailable(what, where=where, do=do)
    what = f"the server answers: {text} (code {code})"
    return StreamUnavailable(what, where=where, do="see the log of the server")


def unfit_error(broken: Sequence[str], settings: StreamSettings) -> StreamUnfit:
    """The error for a stream or a server that breaks rules."""
    return StreamUnfit(
        f"the stream breaks a rule: {'; '.join(broken)}",
        where=settings.where,
        do="nothing was written to it; create a stream with `eventlog mirror create`",
    )
