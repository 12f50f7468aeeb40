"""Logging in: a one-time code or a password, then a signed cookie.

The cookie is signed with a key in `run/`, so it outlives the server. With a password it is signed
with that too: a new password ends all sessions.

Invariant: the time of a comparison does not depend on how much of what a client sends is right.
"""

import hmac
import logging
import os
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from eventlog import EventLogError, UnsafePath
from eventlog.plumbing import Directory
from projections.errors import ProjectionError
from projections.run_directory import make_run_directory
from projections.serving.app import Headers
from projections.web.answers import Refusal

logger = logging.getLogger(__name__)

KEY_FILE, KEY_BYTES = "web.key", 32
SESSION_S_MAX = 30 * 86_400  # then a person logs in again
ATTEMPTS_MAX, ATTEMPTS_S = 5, 60.0  # wrong ones from one address
ADDRESSES_MAX = 1_000  # remembered; the one that failed first is forgotten
PASSWORD_CHARS_MIN, PASSWORD_BYTES_MAX = 8, 1_024


class Login:
    """The login of one console."""

    def __init__(
        self, key: bytes, password: str | None, now_s: Callable[[], float] = time.time
    ) -> None:
        self._secret = hmac.digest(key, b"session\0" + (password or "").encode(), "sha256")
        self._password = password
        self._now_s = now_s
        self.code: str | None = secrets.token_urlsafe(32) if password is None else None
        # Cookies do not know ports: two consoles on one host must not replace each other's.
        self.cookie_name = f"eventlog-{sha256(b'name' + self._secret).hexdigest()[:12]}"
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def has_password(self) -> bool:
        """Whether a person logs in by a password, not by the one-time URL."""
        return self._password is not None

    def is_valid(self, headers: Headers) -> bool:
        """Whether a request has a cookie that this console has signed."""
        return any(
            self._is_session(value)
            for value in _cookie_values(headers.get("cookie", ""), self.cookie_name)
        )

    def _is_session(self, value: str) -> bool:
        issued, _, signature = value.partition(".")
        if not (issued.isascii() and issued.isdecimal() and len(issued) <= 12):
            return False
        is_signed = hmac.compare_digest(self._sign(issued).encode(), signature.encode())
        return is_signed and 0 <= self._now_s() - int(issued) + 60 <= SESSION_S_MAX

    def cookie(self) -> str:
        """The value of Set-Cookie for a new session."""
        issued = str(int(self._now_s()))
        return (
            f"{self.cookie_name}={issued}.{self._sign(issued)}; Path=/; Max-Age={SESSION_S_MAX};"
            " HttpOnly; SameSite=Strict"
        )

    def enter(self, code: str, address: str) -> None:
        """Uses the one-time code. Raises Refusal for a wrong one, and for the second use."""
        self._attempt(address, self.code, code, "the one-time URL is wrong or was used")
        self.code = None

    def check_password(self, password: str, address: str) -> None:
        """Raises Refusal for a wrong password."""
        self._attempt(address, self._password, password, "the password is wrong")

    def _attempt(self, address: str, expected: str | None, given: str, problem: str) -> None:
        failures = self._failures.get(address) or deque()
        now_s = time.monotonic()
        while failures and failures[0] <= now_s - ATTEMPTS_S:
            failures.popleft()
        if len(failures) >= ATTEMPTS_MAX:
            wait_s = max(1, round(ATTEMPTS_S - (now_s - failures[0])))
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong attempts from this address",
                do=f"wait {wait_s} s",
                headers={"Retry-After": str(wait_s)},
            )
        if expected is not None and _is_same(expected, given):
            self._failures.pop(address, None)
            return
        failures.append(now_s)
        self._failures[address] = failures
        while len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)
        raise Refusal(HTTPStatus.UNAUTHORIZED, problem, do=self.how)

    @property
    def how(self) -> str:
        """The way to log in, for a refusal."""
        if self.has_password:
            return "the password is the first line of the file that --token-file names"
        return "restart `eventlog web`, and open the URL that it prints"

    def _sign(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode(), "sha256").hex()


def _cookie_values(header: str, name: str) -> Iterator[str]:
    """The values of a cookie.

    Not by `http.cookies`: its time is quadratic, seconds for 16 KiB, and it reads no further than
    a cookie that it does not understand, which another server on this host may have set.
    """
    for pair in header.split(";"):
        found, _, value = pair.strip().partition("=")
        if found == name:
            yield value


def _is_same(expected: str, given: str) -> bool:
    # Digests have one length, so that the time does not show that of the secret either.
    digests = (sha256(text.encode(errors="replace")).digest() for text in (expected, given))
    return hmac.compare_digest(*digests)


def load_key(home: Path) -> bytes:
    """The key in `run/`, made at the first start.

    Where this account may not write there, the key is a new one, and sessions end with the server.
    """
    try:
        with Directory.open(make_run_directory(home)) as run:
            try:
                key = run.read(KEY_FILE, KEY_BYTES)
            except FileNotFoundError:
                key = b""
            if len(key) != KEY_BYTES or run.stat(KEY_FILE).st_mode & 0o077:
                key = secrets.token_bytes(KEY_BYTES)
                run.replace(KEY_FILE, key)
            return key
    except (OSError, EventLogError) as error:
        logger.warning("session_key_not_kept error=%s: sessions end with this process", error)
        return secrets.token_bytes(KEY_BYTES)


def read_password(path: Path) -> str:
    """The first line of a token file. Raises ProjectionError."""
    do = "write a password of at least 8 characters into its first line, and `chmod 600` the file"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(PASSWORD_BYTES_MAX + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ProjectionError(
            f"the token file cannot be read: {error.strerror}", where=str(path), do=do
        ) from None
    if mode & 0o077:
        raise UnsafePath("other accounts may read the token file", where=str(path), do=do)
    try:
        password = line.decode()
    except UnicodeDecodeError:
        password = ""
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_BYTES_MAX:
        raise ProjectionError("the token file holds no usable password", where=str(path), do=do)
    return password
