"""The files that a browser loads: HTML, modules, styles, an icon.

The shell is the same for every page; its script decides by the path what to show. Only the pages
before a login are files of their own.

Invariant: only files of the folder `static` are served, as they were when the server started.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from projections.serving.app import Request, Response
from projections.web.answers import Refusal

SHELL = "page.html"
PASSWORD_PAGE, ONE_TIME_PAGE = "login.html", "enter.html"
PAGES = ("/", "/log", "/signals", "/signals/{seq:int}", "/outcomes", "/delivery", "/evidence")
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class StaticFile(NamedTuple):
    """One file, ready to be sent."""

    body: bytes
    media_type: str
    tag: str  # of its content


def load_static() -> Mapping[str, StaticFile]:
    """All files of the folder, by their path in it."""
    return dict(_files_in(files("projections.web") / "static", ""))


def _files_in(folder: Traversable, prefix: str) -> Iterator[tuple[str, StaticFile]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _files_in(each, f"{prefix}{each.name}/")
            continue
        media_type = _TYPES.get(each.name.rpartition(".")[2])
        if media_type is not None:
            body = each.read_bytes()
            tag = f'"{sha256(body).hexdigest()[:32]}"'
            yield prefix + each.name, StaticFile(body, media_type, tag)


def wants_page(request: Request) -> bool:
    """Whether a person's browser opens this address, rather than a script."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def page_answer(found: Mapping[str, StaticFile], name: str, status: HTTPStatus) -> Response:
    """A page in place of the requested one, with the status of an error."""
    file, headers = found[name], {"Cache-Control": "no-store"}
    return Response(file.body, status, media_type=file.media_type, headers=headers)


def static_answer(found: Mapping[str, StaticFile], name: str, request: Request) -> Response:
    """The answer with a file, or that the browser has it already."""
    file = found.get(name)
    if file is None:
        raise Refusal(HTTPStatus.NOT_FOUND, "there is no such file")
    # A browser asks again each time, so that it never runs a module of an older version.
    headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
