"""The client of Alpine: one signal in; Accepted, Duplicate, Rejected or Unavailable out.

What each answer means stands in one table below, from the wire contract. Nothing that a server
says can hang, flood or redirect the client: a total deadline, a cap on raw bytes, no content
encoding, no redirects (they would carry the key to another host), no proxy from the environment.

Invariant: the key is in the request's header and nowhere else.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from urllib.parse import urlsplit

import httpx
import orjson
import tenacity

from projections.errors import ProjectionError
from projections.keys import KeySource

logger = logging.getLogger(__name__)

IN_FLIGHT_MAX = 10  # requests at once: what Alpine's operators agreed to
DEADLINE_S = 10.0  # for one request, everything included
ANSWER_BYTES_MAX = 1 << 20  # a page of the list is some 100 KiB; an answer to a signal 200 bytes
SHOWN_CHARS_MAX = 500  # of an answer that is kept with a parked signal
KEEPALIVE_S = 4.0  # below the server's 5 s, so that it does not close under a request
RETRIES_MAX = 3
RETRY_S_FIRST, RETRY_S_MAX = 0.2, 5.0
RETRY_AFTER_S_MAX = 60.0  # what a server may ask for; more is its operator's mistake
REASONING_CHARS_MIN = 20  # Alpine answers 500 to a shorter one, and writes its own for none

SYNC_PATH = "/api/v1/external-signals/sync/signal"
HEALTH_PATH = "/api/v1/external-signals/sync/health"
LIST_PATH = "/api/v1/signals"

# Whose trouble an answer tells of.
REFUSED = "refused"  # the key or the address is wrong: nothing passes until it is mended
FAILING = "failing"  # 500: the server's trouble, or this signal's for ever
DOWN = "down"  # the server's trouble, or the network's
_REJECTED = frozenset({400, 413, 422})  # 413: this signal is too long for it
_DOWN = frozenset({408, 425, 429})

_REQUIRED = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
    *("confidence", "strategy", "asset_type", "data_source", "timestamp", "sha256"),
)
_WHERE_PRESENT = ("regime", "consensus_agreement", "sources_count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Alpine stored it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Alpine has it already: success too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Alpine will never take this signal as it is."""

    status: int
    body: str  # cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """It did not pass now; `kind` is one of REFUSED, FAILING, DOWN."""

    kind: str
    status: int | None  # None: no answer
    detail: str
    retry_after_s: float | None = None


Answer = Accepted | Duplicate | Rejected | Unavailable


class _NotYet(Exception):
    """An answer that is worth another try."""

    def __init__(self, answer: Unavailable) -> None:
        super().__init__(answer.detail)
        self.answer = answer


class AlpineClient:
    """Talks to one Alpine, with at most IN_FLIGHT_MAX requests under way. For one event loop.

    Raises ProjectionError for an address that cannot be one.
    """

    def __init__(self, url: str, key: KeySource, *, deadline_s: float = DEADLINE_S) -> None:
        self._url = checked_url(url)
        self._key = key
        self._deadline_s = deadline_s
        self._places = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=deadline_s,
            limits=httpx.Limits(
                max_connections=IN_FLIGHT_MAX,
                max_keepalive_connections=IN_FLIGHT_MAX,
                keepalive_expiry=KEEPALIVE_S,
            ),
            headers={"Accept-Encoding": "identity", "User-Agent": "eventlog"},
        )

    async def close(self) -> None:
        """Gives the connections back."""
        await self._client.aclose()

    async def send(self, body: bytes) -> Answer:
        """One try at one signal; `body` is from `body_of`."""
        key = self._key.read()
        if not key:
            return Unavailable(kind=REFUSED, status=None, detail="there is no API key")
        headers = {b"X-API-Key": key, b"Content-Type": b"application/json"}
        return await self._ask("POST", SYNC_PATH, headers, body)

    async def send_patiently(
        self, body: bytes, stop: asyncio.Event, *, on_failure: Callable[[], object]
    ) -> Answer:
        """`send` with up to RETRIES_MAX retries, with exponential back-off and full jitter.

        Not retried is what another try cannot change. `stop` ends the waiting; `on_failure` is
        called after each try that did not pass.
        """

        async def sleep(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await stop.wait()

        async def attempt() -> Answer:
            answer = await self.send(body)
            if isinstance(answer, Unavailable) and answer.kind != REFUSED:
                on_failure()
                if not stop.is_set():
                    raise _NotYet(answer)
            return answer

        # A new instance for each call: one that tasks share miscounts attempts.
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(1 + RETRIES_MAX),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_NotYet),
            sleep=sleep,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except _NotYet as last:
            return last.answer

    async def is_healthy(self) -> bool:
        """Whether sync/health answers 200; it asks for no key."""
        answer = await self._ask("GET", HEALTH_PATH, {}, None)
        return isinstance(answer, Accepted)

    async def list_signals(
        self, after: int, limit: int
    ) -> tuple[list[dict[str, object]], int | None]:
        """One page of Alpine's signals with id > `after`, and where the next one starts.

        Raises ProjectionError when it does not answer, or not as the contract says.
        """
        key = self._key.read() or b""
        path = f"{LIST_PATH}?limit={limit}&after={after}"
        status, data, _ = await self._fetch("GET", path, {b"X-API-Key": key}, None)
        if status == 200:
            with suppress(orjson.JSONDecodeError, KeyError, TypeError):
                page = orjson.loads(data)
                return list(page["signals"]), page["next"]
        raise ProjectionError(
            f"Alpine did not list its signals: {_described(status, data)}",
            where=self._url + LIST_PATH,
            do="check ALPINE_API_URL and the key, and that this Alpine can list",
        )

    async def _ask(
        self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes | None
    ) -> Answer:
        try:
            status, data, retry_after = await self._fetch(method, path, headers, body)
        except ProjectionError as error:
            return Unavailable(kind=DOWN, status=None, detail=error.what)
        return meaning(status, data, retry_after, is_health=method == "GET")

    async def _fetch(
        self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes | None
    ) -> tuple[int, bytes, str | None]:
        """Status, raw body and Retry-After. Raises ProjectionError when there is no answer."""
        try:
            async with (
                self._places,
                asyncio.timeout(self._deadline_s),
                self._client.stream(
                    method, self._url + path, headers=list(headers.items()), content=body
                ) as response,
            ):
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise ProjectionError("the answer is encoded, which was not accepted")
                data = b""
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > ANSWER_BYTES_MAX:
                        raise ProjectionError(f"the answer is over {ANSWER_BYTES_MAX:,} bytes")
                return response.status_code, data, response.headers.get("Retry-After")
        except TimeoutError:
            what = f"no answer within {self._deadline_s:g} s"
            raise ProjectionError(what, where=self._url) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            what = f"no answer: {type(error).__name__}"  # its text may hold what was sent
            raise ProjectionError(what, where=self._url) from None


def meaning(status: int, data: bytes, retry_after: str | None, *, is_health: bool) -> Answer:
    """What an answer means: the table of the wire contract."""
    if status in (200, 201):
        return Accepted() if is_health else _stored(status, data)
    if is_health:
        return Unavailable(kind=DOWN, status=status, detail=_described(status, data))
    if status == 409:
        return Duplicate()
    if status in _REJECTED:
        return Rejected(status=status, body=_text(data))
    if status == 500:
        return Unavailable(kind=FAILING, status=status, detail=_described(status, data))
    kind = DOWN if status > 500 or status in _DOWN else REFUSED
    return Unavailable(
        kind=kind,
        status=status,
        detail=_described(status, data),
        retry_after_s=retry_after_seconds(retry_after, now_s=time()) if kind == DOWN else None,
    )


def _stored(status: int, data: bytes) -> Answer:
    said = None
    with suppress(orjson.JSONDecodeError, AttributeError):
        said = orjson.loads(data).get("status")
    if status == 201 and said == "success":
        return Accepted()
    if said == "duplicate":
        return Duplicate()
    # Somebody else answers at this address, a proxy or a portal: the next try will tell.
    detail = f"the answer is not Alpine's: {_described(status, data)}"
    return Unavailable(kind=DOWN, status=status, detail=detail)


def retry_after_seconds(text: str | None, *, now_s: float) -> float | None:
    """Retry-After as seconds or as a date, from 0 to RETRY_AFTER_S_MAX; None for nonsense."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, TypeError, OverflowError):
            return None
    if seconds != seconds:  # "nan" is a float, too
        return None
    return min(max(0.0, seconds), RETRY_AFTER_S_MAX)


def body_of(payload: Mapping[str, object]) -> bytes:
    """The request for a signal's payload. Raises KeyError for one that is no whole signal."""
    fields = {key: payload[key] for key in _REQUIRED}
    fields["verification_hash"] = payload["sha256"]
    reasoning = payload.get("reasoning")
    if isinstance(reasoning, str) and len(reasoning) >= REASONING_CHARS_MIN:
        fields["reasoning"] = reasoning
    for key in _WHERE_PRESENT:
        if payload.get(key) is not None:
            fields[key] = payload[key]
    return orjson.dumps(fields)


def checked_url(url: str) -> str:
    """The address without a slash at its end. Warns of one that sends the key in the clear."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ProjectionError(
            "ALPINE_API_URL is not an http or https address",
            do="give it like https://alpine.example.com",
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        logger.warning("key_in_the_clear host=%s use https", parts.hostname)
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wait(state: tenacity.RetryCallState) -> float:
    """Full jitter under an exponential ceiling; never less than the server asked for."""
    ceiling = tenacity.wait_random_exponential(multiplier=RETRY_S_FIRST, max=RETRY_S_MAX)(state)
    error = state.outcome.exception() if state.outcome is not None else None
    asked_s = error.answer.retry_after_s if isinstance(error, _NotYet) else None
    return max(ceiling, asked_s or 0.0)


def _described(status: int, data: bytes) -> str:
    text = _text(data)
    return f"{status} {text}" if text else str(status)


def _text(data: bytes) -> str:
    text = data.decode("utf-8", "replace")[:SHOWN_CHARS_MAX]
    return "".join(char if char.isprintable() else " " for char in text)
