"""The routes: the hash of a received signal is recomputed from the parsed body; it is stored once.

Invariant: a row is stored only when its verification_hash is the hash of the body it came with.
"""

import hashlib
import json
import logging
from typing import Annotated, Literal

import orjson
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, FiniteFloat
from starlette.types import ASGIApp

from tools.alpine.asgi import HEALTH_PATH, BodyLimit, KeyGate
from tools.alpine.store import ID_MAX, NewSignal, Store, StoreFailed

SIGNAL_PATH = "/api/v1/external-signals/sync/signal"
LIST_PATH = "/api/v1/signals"
PAGE_SIGNALS_MAX = 1_000  # a page stays well under a megabyte
HASHED_FIELDS = (
    "signal_id",
    "symbol",
    "action",
    "entry_price",
    "target_price",
    "stop_price",
    "confidence",
    "strategy",
    "timestamp",
)

logger = logging.getLogger(__name__)


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _storable(text: str) -> str:
    text.encode()  # a lone surrogate raises
    if "\0" in text:
        raise ValueError("PostgreSQL stores no NUL")
    return text


Text = Annotated[str, AfterValidator(_storable)]


class SignalBody(BaseModel):
    """What delivery sends. Keys that are not here are ignored."""

    signal_id: Text
    symbol: Text
    action: Annotated[Literal["BUY", "SELL"], BeforeValidator(_upper)]
    entry_price: FiniteFloat
    target_price: FiniteFloat
    stop_price: FiniteFloat
    confidence: FiniteFloat
    strategy: Text
    asset_type: Text = "unknown"
    data_source: Text = "weighted_consensus"
    timestamp: Text
    sha256: Text
    verification_hash: Text
    reasoning: Text | None = None
    regime: Text | None = None
    consensus_agreement: FiniteFloat | None = None
    sources_count: int | None = None


def content_hash(body: SignalBody) -> str:
    """SHA-256 of the nine fields as parsed, in which an integer price is a float."""
    fields = {name: getattr(body, name) for name in HASHED_FIELDS}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def row_of(body: SignalBody) -> NewSignal:
    """The row for a body: confidence as a fraction, and always a rationale."""
    confidence = body.confidence / 100 if body.confidence > 1 else body.confidence
    rationale = body.reasoning
    if rationale is None:
        rationale = (
            f"{body.strategy}: {body.action} {body.symbol} at {body.entry_price}, "
            f"target {body.target_price}, stop {body.stop_price}"
        )
    return NewSignal(
        symbol=body.symbol,
        action=body.action,
        price=body.entry_price,
        confidence=confidence,
        target_price=body.target_price,
        stop_loss=body.stop_price,
        rationale=rationale,
        verification_hash=body.verification_hash,
    )


def create_app(store: Store, key: bytes) -> ASGIApp:
    """The whole backend as one ASGI application, the key and the body limit before the routes."""
    app = FastAPI(title="Alpine, the reference backend", docs_url=None, redoc_url=None)

    @app.post(SIGNAL_PATH, status_code=201)
    async def sync_signal(body: SignalBody) -> dict[str, object]:
        # The hash is looked up before it is checked: a known one is a duplicate with any body.
        known = await store.find(body.verification_hash)
        if known is not None:
            return _accepted("duplicate", known, body)
        if not content_hash(body) == body.verification_hash == body.sha256:
            raise HTTPException(400, "Signal hash verification failed")
        stored = await store.add(row_of(body))
        return _accepted("success" if stored.is_new else "duplicate", stored.id, body)

    @app.get(HEALTH_PATH)
    async def health() -> JSONResponse:
        try:
            await store.ping()
        except StoreFailed:
            return JSONResponse({"status": "unhealthy", "database": "away"}, 503)
        return JSONResponse({"status": "healthy", "database": "connected"})

    @app.get(LIST_PATH)
    async def list_signals(
        limit: Annotated[int, Query(ge=1, le=PAGE_SIGNALS_MAX)] = 100,
        after: Annotated[int, Query(ge=0, le=ID_MAX)] = 0,
    ) -> Response:
        rows = await store.page(
            after=after, limit=limit + 1
        )  # one more, to see whether there is a next page
        more = len(rows) > limit
        page = {"signals": rows[:limit], "next": rows[limit - 1]["id"] if more else None}
        # FastAPI's own encoder checks each value of a large page once more.
        return Response(orjson.dumps(page), media_type="application/json")

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input, and JSON has no NaN and no lone surrogates.
        keys = ("loc", "msg", "type")
        detail = [{key: problem[key] for key in keys} for problem in error.errors()]
        return JSONResponse({"detail": detail}, 422)

    @app.exception_handler(StoreFailed)
    async def store_failed(_: Request, error: StoreFailed) -> JSONResponse:
        logger.warning("alpine.store_failed reason=%s", error.reason)
        return JSONResponse({"detail": "Internal server error"}, 500)

    return BodyLimit(KeyGate(app, key))


def _accepted(status: str, row_id: int, body: SignalBody) -> dict[str, object]:
    return {
        "status": status,
        "signal_id": row_id,
        "alpine_signal_id": row_id,
        "external_signal_id": body.signal_id,
    }
