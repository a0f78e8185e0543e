"""The application: all routes, the page, and what keeps it running."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import fastapi
import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from patchioner import __version__
from patchioner.model import Patchioner
from patchioner.serve import dialects, native
from patchioner.serve.engine import Engine
from patchioner.serve.guard import Guard, PunctualProtocol
from patchioner.serve.native import why_invalid
from patchioner.serve.reading import RequestError, bad_request
from patchioner.serve.settings import ServeSettings

_PAGE = Path(__file__).with_name("static")


def create_app(model: Patchioner, settings: ServeSettings | None = None) -> FastAPI:
    """The server of a model, which its threads use from now on, as an ASGI application.

    Example:
        >>> app = create_app(Patchioner.from_pretrained())  # doctest: +SKIP
    """
    engine = Engine(model, settings or ServeSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    # The documentation pages would load scripts from elsewhere.
    app = FastAPI(
        title="Patchioner", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.engine = engine
    app.add_middleware(Guard, engine=engine)
    for kind in (RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refuse)
    for router in (native.router, dialects.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=_PAGE, check_dir=False), name="static")

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
        return JSONResponse({"ready": not engine.is_full}, 503 if engine.is_full else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        text = prometheus.generate_latest(engine.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4")

    return app


def run_server(model: Patchioner, settings: ServeSettings) -> None:
    """Serve until the process is told to stop; requests under way are finished."""
    uvicorn.run(
        create_app(model, settings),
        host=settings.host,
        port=settings.port,
        http=PunctualProtocol,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.deadline) + 1,
    )


async def _refuse(request: Request, error: Any) -> NoReturn:
    """FastAPI's errors as ours, which the guard answers."""
    if isinstance(error, RequestValidationError):
        raise bad_request(why_invalid(error.errors())) from error
    if error.status_code == 404:
        raise RequestError(404, "not_found", "nothing is here: see /openapi.json") from error
    allowed = (error.headers or {}).get("Allow")
    other = f"not this method, but {allowed}" if allowed else "the body cannot be read"
    raise RequestError(error.status_code, "bad_request", f"{other}: see /openapi.json") from error


if __name__ == "__main__":
    schema = create_app(Patchioner.from_pretrained()).openapi()
    json.dump({**schema, "x-fastapi": fastapi.__version__}, sys.stdout, indent=1)
