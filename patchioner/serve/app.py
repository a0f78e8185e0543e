"""The application: all routes, the page, and what keeps it running."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fastapi
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from patchioner import __version__
from patchioner.base.errors import PatchionerError
from patchioner.model import Patchioner
from patchioner.serve import folder, label_studio, native, ollama_api, openai_api
from patchioner.serve.engine import Engine
from patchioner.serve.errors import RequestError, bad_request, told
from patchioner.serve.guard import Guard, error_response
from patchioner.serve.metrics import Metrics
from patchioner.serve.native import Photos, why_invalid
from patchioner.serve.settings import ServeSettings

_PAGE = Path(__file__).with_name("static")
_HTTP = {404: ("not_found", "there is nothing here"), 405: ("bad_request", "not this method")}


def create_app(model: Patchioner, settings: ServeSettings | None = None) -> FastAPI:
    """The server of a model as an ASGI application.

    Args:
        model: loaded; used by the server's threads from now on.
        settings: limits and protection; where it listens is up to whoever runs it.

    Example:
        >>> app = create_app(Patchioner.from_pretrained())  # doctest: +SKIP
    """
    metrics = Metrics()
    engine = Engine(model, settings or ServeSettings(), metrics)
    _watch(engine, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="Patchioner",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.photos = Photos(engine)
    app.add_middleware(Guard, engine=engine, metrics=metrics)
    app.add_exception_handler(PatchionerError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    for dialect in (native, folder, openai_api, ollama_api, label_studio):
        app.include_router(dialect.router)
    _add_page(app, engine, metrics)
    return app


def run_server(model: Patchioner, settings: ServeSettings) -> None:
    """Serve until the process is told to stop; requests under way are finished."""
    uvicorn.run(
        create_app(model, settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.deadline) + 1,
    )


def _watch(engine: Engine, metrics: Metrics) -> None:
    cache = engine.cache
    metrics.watch("active_requests", "Requests under way", lambda: engine.active)
    metrics.watch("waiting_rows", "Rows in the queue", lambda: engine.batcher.waiting)
    metrics.watch("cache_photos", "Encoded photos", lambda: len(cache))
    for name in ("bytes", "hits", "misses", "evicted"):
        metrics.watch(f"cache_{name}", "Of encoded photos", partial(getattr, cache, name))


def _add_page(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "UP", "model_class": "Patchioner", "version": __version__}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether it takes work now."""
        full = engine.batcher.is_full or engine.active >= engine.settings.queue
        return JSONResponse({"ready": not full}, 503 if full else 200)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    app.mount("/static", StaticFiles(directory=_PAGE, check_dir=False), name="static")


async def _refuse(request: Request, error: Any) -> Response:
    """Any error as our own JSON."""
    if isinstance(error, RequestValidationError):
        error = bad_request(why_invalid(error.errors()))
    elif isinstance(error, HTTPException):
        kind, message = _HTTP.get(error.status_code, ("bad_request", "this cannot be answered"))
        error = RequestError(error.status_code, kind, message)
    found = told(error)
    if found.status == 500:
        logging.getLogger("patchioner.serve").exception("a request failed", exc_info=error)
    return error_response(found, request.url.path)


if __name__ == "__main__":
    schema = create_app(Patchioner.from_pretrained()).openapi()
    json.dump({**schema, "x-fastapi": fastapi.__version__}, sys.stdout, indent=1)
