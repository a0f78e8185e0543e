"""The application: the page, what keeps it running, and our own API, of which docs/serve.md says all."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import fastapi
import prometheus_client as prometheus
import torch
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from torch.nn import functional as F

from patchioner import __version__
from patchioner.base.errors import PatchionerError
from patchioner.detail import DetailedCaption
from patchioner.images import is_picture
from patchioner.model import Patchioner
from patchioner.regions import Patch
from patchioner.serve import ServeSettings, dialects, schemas
from patchioner.serve.engine import LONGEST_TEXT, MOST_TEXTS, Asker, Encoded, Engine, as_json
from patchioner.serve.guard import Guard, PunctualProtocol
from patchioner.serve.schemas import RequestError, bad_image, bad_request, failure, named_photo

_PAGE = Path(__file__).with_name("static")
_ALIVE = 5.0  # seconds between signs of life while a description is made
_MOST_OF = 0.9  # the deadline, at which the connection is cut: a description is given up before
_MOST_LISTED = 10_000  # photos of `--root`
_FILE = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
_FORMS = {"multipart/form-data": _FILE, "application/json": schemas.Upload.model_json_schema()}
_UPLOAD = {"requestBody": {"content": {kind: {"schema": one} for kind, one in _FORMS.items()}}}
router = APIRouter(prefix="/v1", responses={400: {"model": schemas.Failure}})


@router.post("/images", responses={200: {"model": schemas.ImageAnswer}}, openapi_extra=_UPLOAD)
async def upload(request: Request, engine: Asker) -> JSONResponse:
    """Encode a photo; its id is made of its content."""
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith(("image/", "application/octet-stream")):
        return JSONResponse(_image(await engine.photo(await request.body())))
    if not kind.startswith("multipart/form-data"):
        data = await request.body()
        try:  # whatever its content type says
            body = schemas.Upload.model_validate_json(data.decode(json.detect_encoding(data), "replace"))
        except ValidationError as error:
            raise bad_request(why_invalid(error.errors())) from None
        return JSONResponse(_image(await engine.upload(body.image, body.path)))
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise bad_request("the form has no file with a name in its field 'file': send one")
        return JSONResponse(_image(await engine.photo(await file.read())))


@router.post("/images/{id}/captions", responses={200: {"model": schemas.CaptionsAnswer}})
async def captions(id: str, question: schemas.CaptionQuestion, engine: Asker) -> JSONResponse:
    """Caption regions, or choose among candidates."""
    found = await engine.captions(engine.known(id), question.regions, question.asked(engine.model), question.candidates)
    return JSONResponse({"captions": found})


@router.post("/caption", responses={200: {"model": schemas.OneGoAnswer}})
async def caption(question: schemas.OneGo, engine: Asker) -> JSONResponse:
    """Encode a photo and caption its regions."""
    asked = question.asked(engine.model)
    photo = await engine.upload(question.image, question.path)
    found = await engine.captions(photo, question.regions, asked, question.candidates)
    return JSONResponse({**_image(photo), "captions": found})


@router.post("/images/{id}/labels", responses={200: {"model": schemas.LabelsAnswer}})
async def labels(id: str, question: schemas.LabelQuestion, engine: Asker) -> JSONResponse:
    """Choose a name for each region."""
    photo, names = engine.known(id), engine.checked(question.names)
    found = await engine.ask(("label", names, question.threshold), photo, question.regions)
    return JSONResponse({"labels": await as_json(found, lambda label: label.to_dict())})


@router.post("/images/{id}/embed", responses={200: {"model": schemas.EmbedAnswer}})
async def embed(id: str, question: schemas.RegionQuestion, engine: Asker) -> JSONResponse:
    """Embed regions, before the memory bank."""
    photo = engine.known(id)
    found = await engine.ask(("embed",), photo, question.regions)
    return JSONResponse({"dim": photo.features.dim, "embeddings": await as_json(found, torch.Tensor.tolist)})


@router.post("/images/{id}/explain", responses={200: {"model": schemas.ExplainAnswer}})
async def explain(id: str, question: schemas.ExplainQuestion, engine: Asker) -> JSONResponse:
    """What a region's caption rests on."""
    (found,) = await engine.ask(("explain", question.k), engine.known(id), [question.region])
    if isinstance(found, PatchionerError):
        raise found
    shares = (torch.tensor(found.similarities) / engine.model.settings.temperature).softmax(0).tolist()
    rows = zip(found.texts, found.similarities, shares, strict=True)
    texts = [{"text": text, "similarity": round(near, 6), "weight": round(share, 6)} for text, near, share in rows]
    return JSONResponse({"texts": texts, "weights": _rounded(found.weights.tolist())})


@router.post("/images/{id}/patches", responses={200: {"model": schemas.PatchesAnswer}})
async def patches(id: str, question: schemas.PatchQuestion, engine: Asker) -> JSONResponse:
    """Find words among the patches, or caption some of them."""
    photo = engine.known(id)
    if (question.text is None) == (question.cells is None):
        raise bad_request("give either 'text' or 'cells'")
    if question.text is None:
        cells = [Patch(*cell).to_json() for cell in question.cells or ()]
        found = await engine.captions(photo, cells, question.asked(engine.model))
        return JSONResponse({"captions": found})
    tokens = F.normalize(photo.features.tokens.float(), dim=-1)
    words = F.normalize(await engine.texts([question.text]), dim=1)[0]
    near = _rounded((tokens @ words.to(tokens.device)).tolist())
    return JSONResponse({"grid": photo.features.geometry.grid, "similarities": near})


@router.post("/images/{id}/detail", response_class=StreamingResponse)
async def detail(id: str, question: schemas.DetailQuestion, engine: Asker) -> StreamingResponse:
    """A long description as server-sent events, one for each sentence."""
    work = asyncio.ensure_future(engine.detail(engine.known(id), question.seed, question.preset))
    return StreamingResponse(_events(work, _MOST_OF * engine.settings.deadline), media_type="text/event-stream")


@router.get("/models")
async def models(engine: Asker) -> JSONResponse:
    """The model, what it can do, and the limits of requests."""
    return JSONResponse({"object": "list", "data": [_model(engine)]})


@router.get("/models/{id}")
async def model(id: str, engine: Asker) -> JSONResponse:
    """The same, of its name."""
    engine.require_model(id)
    return JSONResponse(_model(engine))


def _model(engine: Engine) -> dict[str, Any]:
    settings, parts = engine.model.settings, engine.model.parts
    limits = {one: getattr(engine.settings, f"max_{one}") for one in ("bytes", "pixels", "regions")}
    known = {"id": settings.name, "object": "model", "created": 0, "owned_by": "patchioner"}
    return known | {
        "labels": parts.text_tower is not None,
        "explain": parts.bank is not None and parts.bank.texts is not None,
        "detail": "detail" in settings.calibration,
        "confidence": "captions" in settings.calibration,
        "limits": limits | {"texts": MOST_TEXTS, "text": LONGEST_TEXT},
    }


@router.get("/photos")
def names(engine: Asker) -> JSONResponse:
    """Names of the photos in `--root`, at most 10,000; none without it."""
    if engine.settings.root is None:
        return JSONResponse({"photos": []})
    base = engine.settings.root.resolve()
    found = (one for one in base.rglob("*") if is_picture(one) and one.is_file() and one.resolve().is_relative_to(base))
    return JSONResponse({"photos": sorted(one.relative_to(base).as_posix() for one in islice(found, _MOST_LISTED))})


@router.get("/photos/{name:path}", response_class=Response)
def photo(name: str, engine: Asker) -> Response:
    """The file of one of them."""
    if not is_picture(name):
        raise bad_image(f"no photo {name!r:.80} in the server's --root")
    return Response(named_photo(name, engine.settings), media_type="application/octet-stream")


def why_invalid(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors in our words."""
    kind, parts = errors[0]["type"], [str(part) for part in errors[0]["loc"] if part != "body"]
    if kind.startswith("json"):
        return "the body is no JSON: see /openapi.json"
    known = {"missing": "is missing", "extra_forbidden": "is no field of this request"}
    known["model_attributes_type"] = "is no object sent with Content-Type: application/json"
    said = known.get(kind, "has a value that cannot be used")
    return f"{'.'.join(parts) or 'the body'!r:.80} {said}: see /openapi.json"


def _image(photo: Encoded) -> dict[str, Any]:
    geometry = photo.features.geometry
    width, height = geometry.image_size
    corners = geometry.to_pixels([[0, 0], [1, 1]])
    patches = {"origin": corners[0].tolist(), "cell": (corners[1] - corners[0]).tolist()}
    return {"id": photo.id, "width": width, "height": height, "grid": geometry.grid, **patches}


def _rounded(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(value, 5) for value in row] for row in rows]


async def _events(work: asyncio.Future[DetailedCaption], seconds: float) -> AsyncIterator[str]:
    ends = time.monotonic() + seconds
    try:
        while not work.done():
            if (left := ends - time.monotonic()) <= 0:
                raise RequestError(504, "deadline", f"no description within {seconds:g} seconds")
            yield ": working\n\n"
            await asyncio.wait({work}, timeout=min(_ALIVE, left))
        found = work.result()
    except Exception as error:
        yield _event("error", failure(error))
        return
    finally:
        work.cancel()
    regions = {one.id: one.region.to_json() for one in found.regions}
    for sentence in found.sentences:
        seen = [{"id": name, "region": regions[name]} for name in sentence.region_ids]
        about = {"support": sentence.support, "regions": seen, "agreement": sentence.agreement}
        yield _event("sentence", {"text": sentence.text, **about})
    yield _event("done", {"text": found.text, "reason": found.reason})


def _event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


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
    app = FastAPI(title="Patchioner", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.engine = engine
    app.add_middleware(Guard, engine=engine)
    for kind in (RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refuse)
    for routes in (router, dialects.router):
        app.include_router(routes)
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
        return Response(prometheus.generate_latest(engine.metrics.registry), media_type="text/plain; version=0.0.4")

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
