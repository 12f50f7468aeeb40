"""JSON answers of the console, and its errors: what happened, and what to do.

Invariant: no answer holds the path of the home, a key or a variable of the environment.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path

import orjson

from eventlog import EventLogError
from projections.serving.app import Request, Response

Handler = Callable[[Request], Awaitable[Response]]


class Refusal(Exception):
    """A request that gets an error: its status, what is wrong, and what to do."""

    def __init__(
        self,
        status: HTTPStatus,
        what: str,
        *,
        do: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.do = do
        self.headers = headers


def json_answer(
    body: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer with a JSON body."""
    return Response(
        orjson.dumps(body), status, media_type="application/json", headers=dict(headers or {})
    )


def error_answer(refusal: Refusal) -> Response:
    """The answer for a request that is refused."""
    body = {"error": refusal.what, "do": refusal.do}
    return json_answer(body, refusal.status, refusal.headers)


class Redactor:
    """Replaces the path of the home in texts of errors."""

    def __init__(self, home: Path) -> None:
        shown = {str(home.absolute()), str(home.resolve())} - {"/"}
        self._paths = sorted(shown, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text with `HOME` in place of the path."""
        for path in self._paths:
            text = text.replace(path, "HOME")
        return text

    def answering(self, handler: Handler) -> Handler:
        """A handler whose refusals and errors of ours become answers."""

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except Refusal as refusal:
                return error_answer(refusal)
            except EventLogError as error:
                what, do = self.text(error.what), self.text(error.do)
                return error_answer(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, what, do=do))

        return answer
