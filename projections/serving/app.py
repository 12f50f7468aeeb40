"""The names of starlette that applications are written with. The only door to it for them.

Invariant: nothing here but names of starlette.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

__all__ = [
    "HTMLResponse",
    "PlainTextResponse",
    "RedirectResponse",
    "Request",
    "Response",
    "Route",
    "Starlette",
    "StreamingResponse",
]
