"""Asks a time stamp authority over HTTP, and keeps its reply beside the checkpoint.

The second module, beside projections.alpine.client, that uses httpx. Redirects, proxies of the
environment and content encodings are not followed; size and time of a reply are limited.

Invariant: a reply is kept only after it was verified.
"""

import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import certifi
import httpx

from eventlog.plumbing import Disk, starting_thread
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import STAMP_BYTES_MAX, Stamp
from projections.evidence.kept.kept_files import KeptFiles, kept_files
from projections.evidence.kept.locks import held_lock
from projections.evidence.kept.newest import read_newest
from projections.evidence.stamps.stamp import (
    TrustedAuthorities,
    stamp_request,
    verify_stamp,
)

DEADLINE_S = 20.0  # for one request: authorities answer within a second
LOCK_NAME = "anchor.lock"
_HEADERS = {
    "Content-Type": "application/timestamp-query",
    "Accept": "application/timestamp-reply",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """A time stamp of the newest checkpoint."""

    path: str
    size: int
    stamp: Stamp
    is_new: bool


def anchor(
    home: Path, url: str, trusted: TrustedAuthorities, *, disk: Disk | None = None
) -> Anchored:
    """Has the newest checkpoint stamped; returns the stamp that it has where one verifies already.

    Raises NotProved where nothing was signed yet and where the reply does not verify, and then
    nothing is kept; ProjectionError where the authority does not answer.
    """
    require_url(url)
    with kept_files(home, disk=disk) as kept:
        newest = read_newest(kept)
        with held_lock(home, LOCK_NAME, doing="asking for a time stamp"):
            known = _known_stamp(kept, newest.head.size, newest.data, trusted)
            if known is not None:
                return known
            request = stamp_request(newest.data)
            reply = ask_authority(url, request.data)
            stamp = verify_stamp(reply, newest.data, trusted, nonce=request.nonce)
            name = kept.write_stamp(newest.head.size, reply)
        path = kept.stamp_path(name)
        return Anchored(path=path, size=newest.head.size, stamp=stamp, is_new=True)


def require_url(url: str) -> None:
    """Raises ValueError unless it is an http(s) address without a user name and a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise ValueError("it is not an http or https address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it contains a user name or password, which messages would show")
    try:
        httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError("it is not an http or https address") from None


def ask_authority(url: str, request: bytes, *, deadline_s: float = DEADLINE_S) -> bytes:
    """The reply to a request, not verified. Raises ProjectionError."""
    # httpx limits each read, and not the whole: a server that sends a byte now and then holds it
    # for ever. So the request is made in a thread that is left to itself at the deadline.
    answers: SimpleQueue[bytes | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_post(url, request, deadline_s))
        except Exception as error:  # noqa: BLE001  # it is raised where the answer is awaited
            answers.put(error)

    with starting_thread():
        threading.Thread(target=ask, name="eventlog-tsa", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline_s)
    except Empty:
        raise _no_reply_error(url, f"its reply takes longer than {deadline_s:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _post(url: str, request: bytes, deadline_s: float) -> bytes:
    give_up_s = time.monotonic() + deadline_s
    try:
        with (
            httpx.Client(trust_env=False, verify=_ssl_context(), timeout=deadline_s) as client,
            client.stream("POST", url, content=request, headers=_HEADERS) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _no_reply_error(url, f"it answered with status {response.status_code}")
            reply = b""
            for part in response.iter_raw():
                reply += part
                if len(reply) > STAMP_BYTES_MAX:
                    raise _no_reply_error(url, f"its reply has more than {STAMP_BYTES_MAX} bytes")
                if time.monotonic() > give_up_s:  # nobody waits for it any more
                    raise _no_reply_error(url, f"its reply takes longer than {deadline_s:g} s")
            return reply
    except httpx.HTTPError as error:
        raise _no_reply_error(url, str(error) or type(error).__name__) from error


def _known_stamp(
    kept: KeptFiles, size: int, checkpoint: bytes, trusted: TrustedAuthorities
) -> Anchored | None:
    """A stamp of the checkpoint that is kept and verifies by these certificates."""
    for name in kept.stamps(size):
        with suppress(NotProved):
            stamp = verify_stamp(kept.read_stamp(name), checkpoint, trusted)
            return Anchored(path=kept.stamp_path(name), size=size, stamp=stamp, is_new=False)
    return None


def _ssl_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=certifi.where())
    context.load_default_certs()  # of this machine too, or those of SSL_CERT_FILE
    return context


def _no_reply_error(url: str, problem: str) -> ProjectionError:
    return ProjectionError(
        f"the authority gave no time stamp: {problem}",
        where=url,
        do="check the address, or name another authority; nothing was kept",
    )
