"""The routes of the login: its page, the one-time URL, and the password.

Invariant: a session begins only after the right code or password.
"""

from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Network, ip_address

import orjson

from projections.serving.app import RedirectResponse, Request, Response, Route
from projections.web.access.login import Login
from projections.web.answers import Refusal, json_answer
from projections.web.console import Console
from projections.web.pages import (
    ONE_TIME_PAGE,
    PASSWORD_PAGE,
    page_answer,
    static_answer,
    wants_page,
)


def login_routes(console: Console, login: Login) -> list[Route]:
    """The routes that begin a session."""
    page_name = PASSWORD_PAGE if login.has_password else ONE_TIME_PAGE

    async def page(request: Request) -> Response:
        return static_answer(console.static, page_name, request)

    async def enter(request: Request) -> Response:
        if login.is_valid(request.headers) and wants_page(request):
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)  # the address was opened again
        try:
            login.enter(request.query_params.get("code", ""), _address(request))
        except Refusal as refusal:
            if not wants_page(request) or refusal.status != HTTPStatus.UNAUTHORIZED:
                raise
            return page_answer(console.static, page_name, HTTPStatus.UNAUTHORIZED)
        return RedirectResponse("/", HTTPStatus.SEE_OTHER, headers={"Set-Cookie": login.cookie()})

    async def check(request: Request) -> Response:
        body = json_object(await request.body())
        password = body.get("password")
        if not isinstance(password, str):
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "password is not text")
        if not login.has_password:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "there is no password", do=login.how)
        login.check_password(password, _address(request))
        return json_answer({"ok": True}, headers={"Set-Cookie": login.cookie()})

    redactor = console.redactor
    return [
        Route("/enter", redactor.answering(enter)),
        Route("/login", redactor.answering(page)),
        Route("/login", redactor.answering(check), methods=["POST"]),
    ]


def json_object(body: bytes) -> dict[str, object]:
    """The JSON object in the body of an action. Raises Refusal for anything else."""
    try:
        found = orjson.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    return found


def _address(request: Request) -> str:
    return network_of(request.client.host if request.client is not None else "")


def network_of(host: str) -> str:
    """The network whose attempts count together: an address; for IPv6 its /64, a client's share."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address.packed[:8] + bytes(8), 64)))
