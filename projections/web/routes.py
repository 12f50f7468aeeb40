"""The routes of the console: pages, files, and the JSON API.

Invariant: each handler answers with JSON or a file of its own, and says what to do about an error.
"""

from collections.abc import Callable
from http import HTTPStatus

from projections.serving.app import Request, Response, Route, Starlette, StreamingResponse
from projections.web.answers import Handler, Refusal, error_answer, json_answer
from projections.web.console import Console
from projections.web.log_rows import ROWS_MAX, read_page
from projections.web.login import Login
from projections.web.login_routes import login_routes
from projections.web.moment import whole_number
from projections.web.pages import PAGES, SHELL, static_answer
from projections.web.signals import read_signals


def make_app(console: Console, login: Login | None) -> Starlette:
    """The application, without its guard."""
    routes = [Route(path, _shell(console)) for path in PAGES]
    routes.append(Route("/static/{path:path}", _static(console)))
    for path, handler in {
        "/api/status": _status,
        "/api/live": _live,
        "/api/log": _log,
        "/api/signals": _signals,
    }.items():
        routes.append(Route(path, _api(console, handler)))
    if login is not None:
        routes += login_routes(console.redactor, login)
    return Starlette(routes=routes, exception_handlers={404: _missing, 405: _wrong_method})


def _api(console: Console, handler: "Callable[[Console, Request], object]") -> Handler:
    async def handle(request: Request) -> Response:
        return await handler(console, request)  # type: ignore[misc,no-any-return]

    return console.redactor.answering(handle)


def _shell(console: Console) -> Handler:
    async def shell(request: Request) -> Response:
        return static_answer(console.static, SHELL, request)

    return console.redactor.answering(shell)


def _static(console: Console) -> Handler:
    async def static(request: Request) -> Response:
        return static_answer(console.static, request.path_params["path"], request)

    return console.redactor.answering(static)


async def _status(console: Console, _request: Request) -> Response:
    return json_answer(console.vitals.whole())


async def _live(console: Console, request: Request) -> Response:
    if console.streams.is_full:
        raise Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too many pages follow the log",
            do="close some; the page asks again by itself",
        )
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    last_id = whole_number("Last-Event-ID", text) if text else None
    return StreamingResponse(
        console.streams.messages(last_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _log(console: Console, request: Request) -> Response:
    query = request.query_params
    limit = min(whole_number("limit", query.get("limit") or str(ROWS_MAX)), ROWS_MAX)
    after = whole_number("after", query.get("after") or "0")
    before = query.get("before")

    def read() -> dict[str, object]:
        moment = console.moments.of(query)
        end = moment.seq + 1
        if before:
            end = min(end, whole_number("before", before))
        event = query.get("event") or None
        page = read_page(console.home, after=after, before=end, limit=max(1, limit), event=event)
        return {
            "as_of": moment.to_json(),
            "rows": page.rows,
            "left_out": page.left_out,
            "searched_to": page.searched_to,
        }

    return json_answer(await console.workers.run(read))


async def _signals(console: Console, request: Request) -> Response:
    query = request.query_params
    return json_answer(
        await console.workers.run(lambda: read_signals(console.home, console.moments, query))
    )


async def _missing(_request: Request, _error: Exception) -> Response:
    refusal = Refusal(HTTPStatus.NOT_FOUND, "there is no such page", do="go to the overview: /")
    return error_answer(refusal)


async def _wrong_method(_request: Request, _error: Exception) -> Response:
    refusal = Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "this path does not take that method")
    return error_answer(refusal)
