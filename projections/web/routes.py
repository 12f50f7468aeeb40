"""The routes of the console: pages, files, and the JSON API.

Invariant: each handler answers with JSON or a file of its own, and says what to do about an error.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus

from projections.serving.app import Request, Response, Route, Starlette, StreamingResponse
from projections.web.access.login import Login
from projections.web.access.login_routes import json_object, login_routes
from projections.web.answers import Handler, Refusal, error_answer, json_answer
from projections.web.console import Console
from projections.web.pages import (
    PAGES,
    SHELL,
    page_answer,
    static_answer,
    wants_page,
)
from projections.web.views.evidence import read_evidence, read_proof
from projections.web.views.log_rows import ROWS_MAX, read_page
from projections.web.views.moment import whole_number
from projections.web.views.parked import read_parked_page, request_action
from projections.web.views.past_status import read_past_status
from projections.web.views.signal import read_prices, read_signal
from projections.web.views.signals import (
    as_of_table,
    count_signals,
    read_signals,
    selection_of,
)

LOAD_S_MAX = 0.3  # then a request for outcomes gets the progress of their loading


def make_app(console: Console, login: Login | None) -> Starlette:
    """The application, without its guard."""
    routes = [Route(path, _shell(console)) for path in PAGES]
    routes.append(Route("/static/{path:path}", _static(console)))
    for path, handler in {
        "/api/status": _status,
        "/api/live": _live,
        "/api/log": _log,
        "/api/signals": _signals,
        "/api/signals/count": _signals_count,
        "/api/signals/{seq:int}": _signal,
        "/api/prices": _prices,
        "/api/evidence": _evidence,
        "/api/proofs/{seq:int}": _proof,
        "/api/outcomes": _outcomes,
        "/api/parked": _parked,
    }.items():
        routes.append(Route(path, _api(console, handler)))
    routes.append(Route("/api/parked", _api(console, _act), methods=["POST"]))
    if login is not None:
        routes += login_routes(console, login)
    return Starlette(
        routes=routes,
        exception_handlers={404: _missing(console), 405: _wrong_method, 413: _too_large},
    )


def _api(console: Console, handler: Callable[[Console, Request], Awaitable[Response]]) -> Handler:
    return console.redactor.answering(partial(handler, console))


def _shell(console: Console) -> Handler:
    async def shell(request: Request) -> Response:
        return static_answer(console.static, SHELL, request)

    return console.redactor.answering(shell)


def _static(console: Console) -> Handler:
    async def static(request: Request) -> Response:
        return static_answer(console.static, request.path_params["path"], request)

    return console.redactor.answering(static)


async def _status(console: Console, request: Request) -> Response:
    query = request.query_params
    if not (query.get("as_of") or query.get("as_of_seq")):
        return json_answer(console.vitals.whole())

    def read() -> dict[str, object]:
        moment = console.moments.of(query)
        found = read_past_status(console.home, console.moments, console.signal_count, moment)
        return found | console.vitals.constants

    return json_answer(await console.workers.run(read))


async def _live(console: Console, request: Request) -> Response:
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    messages = await console.streams.open(whole_number("Last-Event-ID", text) if text else None)
    if messages is None:
        raise Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too many pages follow the log",
            do="close some; the page asks again by itself",
        )
    return StreamingResponse(
        messages,
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

    def read() -> dict[str, object]:
        return read_signals(console.home, console.moments, console.signal_count, query)

    return json_answer(await console.workers.run(read))


async def _signals_count(console: Console, request: Request) -> Response:
    query = request.query_params
    return json_answer(
        await console.workers.run(lambda: count_signals(console.home, console.moments, query))
    )


async def _signal(console: Console, request: Request) -> Response:
    seq, query = request.path_params["seq"], request.query_params
    return json_answer(
        await console.workers.run(lambda: read_signal(console.home, console.moments, query, seq))
    )


async def _prices(console: Console, request: Request) -> Response:
    query = request.query_params
    return json_answer(
        await console.workers.run(lambda: read_prices(console.home, console.moments, query))
    )


async def _evidence(console: Console, request: Request) -> Response:
    query = request.query_params

    def read() -> dict[str, object]:
        return read_evidence(console.home, console.moments, console.redactor, query)

    return json_answer(await console.workers.run(read))


async def _proof(console: Console, request: Request) -> Response:
    seq, query = request.path_params["seq"], request.query_params
    data = await console.workers.run(lambda: read_proof(console.home, console.moments, query, seq))
    headers = {"Content-Disposition": f'attachment; filename="entry-{seq}.tlog-proof"'}
    return Response(data, media_type="application/octet-stream", headers=headers)


async def _outcomes(console: Console, request: Request) -> Response:
    query = request.query_params

    def read() -> dict[str, object] | None:
        moment = console.moments.of(query)
        names = ("strategy", "symbol", "action", "since", "until")
        chosen = selection_of(query, None, *names).filter
        found = console.outcomes.try_answer(chosen, moment.past_seq)
        if found is None:
            return None
        body = dict(found)
        as_of = as_of_table(console.moments, moment, body.pop("seq"))
        return {"as_of": as_of.to_json(), **body}

    found = None
    with suppress(TimeoutError):  # begun, it goes on in its thread; the page asks again
        async with asyncio.timeout(LOAD_S_MAX):
            found = await console.workers.run(read)
    if found is None:
        share, text = console.outcomes.progress
        return json_answer({"progress": share, "text": text}, HTTPStatus.ACCEPTED)
    return json_answer(found)


async def _parked(console: Console, request: Request) -> Response:
    query = request.query_params

    def read() -> dict[str, object]:
        moment = console.moments.of(query)
        if not moment.is_live:
            nothing = {"parked": None, "total": None, "state": None, "asked": None}
            return {"as_of": moment.to_json(), **nothing}
        page = read_parked_page(console.home)
        return {"as_of": moment.to_json(), **page}

    return json_answer(await console.workers.run(read))


async def _act(console: Console, request: Request) -> Response:
    if console.is_read_only:
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            "this console is read-only",
            do="use `eventlog parked`, or start the console without --read-only",
        )
    body = json_object(await request.body())
    asked = await console.workers.run(lambda: request_action(console.home, body), is_read=False)
    return json_answer({"asked": asked}, HTTPStatus.ACCEPTED)


def _missing(console: Console) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def missing(request: Request, _error: Exception) -> Response:
        if wants_page(request):  # the shell says that there is no such page
            return page_answer(console.static, SHELL, HTTPStatus.NOT_FOUND)
        refusal = Refusal(HTTPStatus.NOT_FOUND, "there is no such page", do="go to the overview: /")
        return error_answer(refusal)

    return missing


async def _too_large(_request: Request, _error: Exception) -> Response:
    return error_answer(
        Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "the body is too large",
            headers={"Connection": "close"},
        )
    )


async def _wrong_method(_request: Request, _error: Exception) -> Response:
    refusal = Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "this path does not take that method")
    return error_answer(refusal)
