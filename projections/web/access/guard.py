"""The guard of the console: what is checked before any handler sees a request.

Any web site can make a browser send requests to this machine, under any name that leads here. So
the Host header must be a name that the operator gave, and an action must come from a page of ours:
the browser says where a request comes from (Sec-Fetch-Site, Origin), and the header X-Eventlog and
a JSON body cannot be sent from another site without a preflight request, which is refused.

Invariant: a handler sees only requests to a known name, from a session, and from our own pages.
"""

from http import HTTPStatus
from typing import Protocol

from projections.serving.address import parse_host
from projections.serving.app import (
    ASGIApp,
    Headers,
    Message,
    MutableHeaders,
    Receive,
    RedirectResponse,
    Response,
    Scope,
    Send,
)
from projections.web.answers import Refusal, error_answer

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
PATH_CHARS_MAX = 256  # far more than any path has; Python refuses a number of 4,301 digits
SAFE_METHODS = ("GET", "HEAD")
API, STATIC, LOGIN = "/api/", "/static/", "/login"
OPEN_PATHS = (LOGIN, "/enter")  # without a session


class Sessions(Protocol):
    """Decides whether a request carries the cookie of a session."""

    def is_valid(self, headers: Headers) -> bool: ...


class Guard:
    """Wraps the application. `sessions` is None where no login is needed."""

    def __init__(self, app: ASGIApp, names: frozenset[str], sessions: Sessions | None) -> None:
        self._app = app
        self._names = names
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def seal(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_request(scope, headers)
            answer = self._login_answer(scope["path"], headers)
        except Refusal as refusal:
            answer = error_answer(refusal)
        await (answer or self._app)(scope, receive, seal)

    def _check_request(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if parse_host(host) not in self._names:
            raise Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this console does not answer to that name",
                do="start it with --name for each further name",
                headers={"Connection": "close"},
            )
        if len(scope["path"]) > PATH_CHARS_MAX:
            raise Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "the path is too long")
        site = headers.get("sec-fetch-site")
        if scope["method"] not in SAFE_METHODS:
            _require_own_page(headers, site, host)
        elif scope["path"].startswith(API) and site not in (None, "same-origin", "none"):
            raise Refusal(HTTPStatus.FORBIDDEN, "another site asks for this")

    def _login_answer(self, path: str, headers: Headers) -> Response | None:
        """The answer to a request without a session; None where it may pass."""
        is_open = path in OPEN_PATHS or path.startswith(STATIC)
        if self._sessions is None or is_open or self._sessions.is_valid(headers):
            return None
        if not path.startswith(API):
            return RedirectResponse(LOGIN, HTTPStatus.SEE_OTHER)
        raise Refusal(HTTPStatus.UNAUTHORIZED, "you are not logged in", do="log in at /login")


def _require_own_page(headers: Headers, site: str | None, host: str) -> None:
    """Raises Refusal unless an action comes from a page of this console."""
    origin = headers.get("origin", "")
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    problem = None
    if site != "same-origin":
        problem = "Sec-Fetch-Site is not same-origin"
    elif origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        problem = "its Origin is not this console"
    elif headers.get("x-eventlog") != "1":
        problem = "the header X-Eventlog: 1 is missing"
    elif content_type != "application/json":
        problem = "its body is not JSON"
    if problem is not None:
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            f"the action was not sent by a page of this console: {problem}",
            do="use the page, or the command `eventlog parked`",
        )
