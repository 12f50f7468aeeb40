"""The HTTP client of Alpine: sends one signal; returns Stored, Duplicate, Rejected or Unavailable.

No server can hang, flood or redirect it: there is a total deadline, a cap on raw bytes, no content
encoding, no redirects (they would carry the key to another host), no cookies, and no proxy from the
environment.

Invariant: the key is only in the header of the request.
"""

import asyncio
import logging
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

import certifi
import httpx
import orjson

from eventlog import ThreadUnavailable
from eventlog.plumbing import starting_thread
from projections.alpine.contract import (
    DOWN,
    REFUSED,
    SendResult,
    Unavailable,
    classify_response,
    describe_response,
)
from projections.alpine.credentials import KeySource, KeyUnavailable
from projections.errors import ProjectionError
from projections.hosts import is_loopback

logger = logging.getLogger(__name__)

IN_FLIGHT_MAX = 10  # concurrent requests, as agreed with Alpine's operators
DEADLINE_S = 10.0  # for one request, from connecting to the last byte
RESPONSE_BYTES_MAX = 1 << 20  # an answer to a signal has 200 bytes, an error page some thousand
PAGE_SIGNALS = 200  # per page of the list; with the longest rationales a page has 13 MB
PAGE_SIGNALS_MAX = 1_000  # where the backend allows it: with usual rationales less than a megabyte
PAGE_BYTES_MAX = 16 << 20
KEEPALIVE_S = 4.0  # below the server's 5 s, so that it does not close during a request
ABANDONED_SLOT_S = 0.05  # until a server has noticed that a request was abandoned

KEY_HEADER = b"X-API-Key"
SYNC_PATH = "/api/v1/external-signals/sync/signal"
HEALTH_PATH = "/api/v1/external-signals/sync/health"
LIST_PATH = "/api/v1/signals"
LIST_ID_MAX = 2**63 - 1  # PostgreSQL's and SQLite's largest integer


class Alpine(Protocol):
    """The client as delivery uses it."""

    async def send(self, body: bytes) -> SendResult:
        """Sends one signal once; `body` is from `contract.body_of`."""

    async def is_healthy(self) -> bool:
        """Whether sync/health answers 200."""

    async def close(self) -> None:
        """Gives the connections back."""


class NoResponse(ProjectionError):
    """There was no answer, or an unreadable one."""


class ResponseTooLarge(NoResponse):
    """The answer has more bytes than are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A complete answer of bounded size."""

    status: int
    data: bytes
    retry_after: str | None = None
    secret: bytes = field(default=b"", repr=False)  # the key that was sent; `data` may repeat it


class AlpineClient:
    """Talks to one Alpine, with at most IN_FLIGHT_MAX requests in flight. For one event loop.

    Each slot has a transport of its own with one connection, which is discarded unless the answer
    was complete: a request that was cancelled or cut off leaves nothing behind, and finding a free
    connection takes no time. Raises ProjectionError for an invalid address.
    """

    def __init__(self, url: str, key: KeySource, *, deadline_s: float = DEADLINE_S) -> None:
        self.url = validated_url(url)
        self._sync_url = httpx.URL(self.url + SYNC_PATH)
        self._key = key
        self._deadline_s = deadline_s
        self._ssl = _ssl_context(self.url)
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Gives the connections back."""
        idle, self._idle = self._idle, []
        for transport in idle:
            self._discard_transport(transport)
        if self._closing:
            await asyncio.wait(self._closing)

    async def send(self, body: bytes) -> SendResult:
        """Sends one signal once; `body` is from `contract.body_of`."""
        try:
            headers = [(KEY_HEADER, self._key.read()), (b"Content-Type", b"application/json")]
            request = httpx.Request("POST", self._sync_url, headers=headers, content=body)
            response = await self._fetch(request, RESPONSE_BYTES_MAX)
        except KeyUnavailable as error:
            return Unavailable(kind=REFUSED, status=None, detail=str(error))
        except NoResponse as error:
            return Unavailable(kind=DOWN, status=None, detail=error.what)
        return classify_response(
            response.status,
            response.data,
            response.retry_after,
            now_s=time.time(),
            secret=response.secret,
        )

    async def is_healthy(self) -> bool:
        """Whether sync/health answers 200."""
        try:
            return (await self.health()).status == 200
        except NoResponse:
            return False

    async def health(self) -> Response:
        """The answer of sync/health, which needs no key and gets none. Raises NoResponse."""
        request = httpx.Request("GET", self.url + HEALTH_PATH)
        return await self._fetch(request, RESPONSE_BYTES_MAX)

    async def page(self, after: int, count: int = PAGE_SIGNALS) -> Response:
        """One page of Alpine's list: at most `count` signals with an id above `after`.

        Raises NoResponse, KeyUnavailable.
        """
        url = f"{self.url}{LIST_PATH}?limit={count}&after={after}"
        request = httpx.Request("GET", url, headers=[(KEY_HEADER, self._key.read())])
        return await self._fetch(request, PAGE_BYTES_MAX)

    async def _fetch(self, request: httpx.Request, bytes_max: int) -> Response:
        """Sends a request, and reads the complete answer. Raises NoResponse."""
        await self._slots.acquire()
        is_whole = False
        try:
            async with asyncio.timeout(self._deadline_s):
                with starting_thread():  # a name is looked up in one
                    response = await self._exchange(request, bytes_max)
            is_whole = True
            return response
        except TimeoutError:
            what = f"no answer within {self._deadline_s:g} s"
        except httpx.ConnectError as error:  # its text names the cause: name, port, certificate
            what = f"no answer: ConnectError: {error}"
        except ThreadUnavailable as error:
            what = f"no answer: {error.what}"
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            what = f"no answer: {type(error).__name__}"  # its text may contain the key
        finally:
            # After an abandoned request the server may be busy for a moment longer; the next one
            # from this slot would exceed the agreed number.
            if is_whole:
                self._slots.release()
            else:
                asyncio.get_running_loop().call_later(ABANDONED_SLOT_S, self._slots.release)
        raise NoResponse(what, where=self.url)

    async def _exchange(self, request: httpx.Request, bytes_max: int) -> Response:
        request.headers["Accept-Encoding"] = "identity"
        transport = self._idle.pop() if self._idle else self._new_transport()
        try:
            response = await transport.handle_async_request(request)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding.lower() != "identity":
                raise NoResponse("the answer is encoded, which was not accepted", where=self.url)
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > bytes_max:
                    what = f"the answer is over {bytes_max:,} bytes"
                    raise ResponseTooLarge(what, where=self.url)
        except BaseException:
            self._discard_transport(transport)
            raise
        self._idle.append(transport)
        return Response(
            status=response.status_code,
            data=bytes(data),
            retry_after=response.headers.get("Retry-After"),
            secret=next((value for name, value in request.headers.raw if name == KEY_HEADER), b""),
        )

    def _new_transport(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._ssl,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_S
            ),
        )

    def _discard_transport(self, transport: httpx.AsyncHTTPTransport) -> None:
        # A task of its own: cancelling the request must not cancel this as well.
        closing = asyncio.ensure_future(transport.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def validated_url(url: str) -> str:
    """The address without a trailing slash. Warns if it would send the key unencrypted.

    Raises ProjectionError unless it is an http(s) address without user name and password.
    """
    do = "use an address like https://alpine.example.com"
    what = "ALPINE_API_URL is not an http or https address"
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
        httpx.URL(url).host  # noqa: B018  # this property raises for an invalid host
    except (ValueError, httpx.InvalidURL):
        raise ProjectionError(what, do=do) from None
    is_address = parts.scheme in ("http", "https") and url.isprintable() and " " not in url
    if not is_address or not host or "?" in url or "#" in url:
        raise ProjectionError(what, do=do)
    if parts.username is not None:
        what = "ALPINE_API_URL contains a user name or password, which messages would show"
        raise ProjectionError(what, do=do)
    if parts.scheme == "http" and not is_loopback(host):
        logger.warning(
            "key_in_the_clear host=%s: the API key goes over the network unencrypted, use https",
            host,
        )
    return url.rstrip("/")


def _ssl_context(url: str) -> ssl.SSLContext:
    """One context for all slots: loading the certificates takes about 20 ms."""
    if httpx.URL(url).scheme == "https":
        # Not httpx.create_ssl_context, which opens the file that SSLKEYLOGFILE names.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=certifi.where())
        # Trusts the certificates of this machine too, or those of SSL_CERT_FILE.
        context.load_default_certs()
        return context
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used


def _is_page(page: object) -> bool:
    if not isinstance(page, dict) or not {"signals", "next"} <= page.keys():
        return False
    rows, following = page["signals"], page["next"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return False
    ids = [row["id"] for row in rows if row.get("id") is not None]
    return (following is None or _is_list_id(following)) and (
        not ids or (len(ids) == len(rows) and all(map(_is_list_id, ids)))
    )


def _is_list_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LIST_ID_MAX


def parse_page(response: Response, url: str) -> tuple[list[dict[str, object]], int | None]:
    """The signals of a page, and the `after` of the next one. Raises NoResponse.

    Either all signals have an id, from 1 to LIST_ID_MAX, or none has.
    """
    if response.status == 200:
        with suppress(orjson.JSONDecodeError):
            page = orjson.loads(response.data)
            if _is_page(page):
                return page["signals"], page["next"]
    description = describe_response(response.status, response.data, response.secret)
    raise NoResponse(
        f"Alpine did not list its signals: {description}",
        where=url + LIST_PATH,
        do="check ALPINE_API_URL and the key, and that this Alpine can list",
    )
