"""Our own API: photos in, captions, labels, reasons, patches and descriptions out; docs/serve.md says it all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, TypeVar

import torch
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from patchioner.base.errors import PatchionerError, TextError, UnknownNameError
from patchioner.detail import DetailedCaption
from patchioner.regions import Patch, Region
from patchioner.serve import schemas
from patchioner.serve.cache import Encoded
from patchioner.serve.engine import Asked, Engine, Found
from patchioner.serve.errors import bad_request
from patchioner.serve.reading import named_photo, photo_bytes, region_list
from patchioner.serve.schemas import caption_json, choice_json, failure

B = TypeVar("B", bound=BaseModel)
_LIMITS = ("bytes", "pixels", "regions", "texts", "text")
_ALIVE = 5.0  # seconds between signs of life while a description is made


class Photos:
    """What requests of every dialect ask of the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.settings, self.model = engine, engine.settings, engine.model

    async def upload(self, image: str | None, path: str | None = None) -> Encoded:
        """The photo in base64 or a data URL, or of a name in `--root`, encoded."""
        if (image is None) == (path is None):
            raise bad_request("give the photo as 'image' (base64 or a data URL)")
        if image is not None:
            return await self.engine.photo(photo_bytes(image))
        most = self.settings.max_bytes
        return await self.engine.photo(named_photo(path or "", self.settings.root, most))

    async def captions(
        self,
        photo: Encoded,
        regions: Sequence[Any] | None,
        asked: Asked,
        candidates: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Captions as JSON, or the error of each region."""
        read = await self.regions(regions, photo)
        if candidates is not None:
            labels = await self.engine.labels(photo, read, self.texts(candidates), None)
            return await as_json(labels, choice_json)
        return await as_json(await self.engine.captions(photo, read, asked), caption_json)

    async def regions(self, regions: Sequence[Any] | None, photo: Encoded) -> Found:
        """Each as a region or its error; masks take a while, and so a thread."""
        return await asyncio.to_thread(region_list, regions, photo.size, self.settings)

    def texts(self, texts: Sequence[str]) -> list[str]:
        """The texts, if they are neither too many nor too long."""
        most, longest = self.settings.max_texts, self.settings.max_text
        if len(texts) > most or any(len(text) > longest for text in texts):
            raise TextError(f"give at most {most} texts of at most {longest} characters")
        return list(texts)

    def require_model(self, name: str) -> None:
        """UnknownNameError for a model that is not the one of this server."""
        own = self.model.settings.name
        if name not in (own, f"{own}:latest"):
            raise UnknownNameError.among("model", name[:80], [own])


def _said(kind: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": kind}}


def _photos(request: Request) -> Photos:
    found: Photos = request.app.state.photos
    return found


Asker = Annotated[Photos, Depends(_photos)]
_FILE = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
_FORMS = {"multipart/form-data": _FILE, "application/json": schemas.Upload.model_json_schema()}
_UPLOAD = {"requestBody": {"content": {kind: {"schema": one} for kind, one in _FORMS.items()}}}
router = APIRouter(prefix="/v1", responses={400: {"model": schemas.Failure}})


@router.post("/images", responses=_said(schemas.ImageAnswer), openapi_extra=_UPLOAD)
async def upload(request: Request, photos: Asker) -> JSONResponse:
    """Encode a photo; its id is made of its content."""
    return JSONResponse(_image(await _uploaded(request, photos)))


@router.post("/images/{id}/captions", responses=_said(schemas.CaptionsAnswer))
async def captions(id: str, question: schemas.CaptionQuestion, photos: Asker) -> JSONResponse:
    """Caption regions, or choose among candidates."""
    photo, asked = photos.engine.known(id), question.asked(photos.model)
    found = await photos.captions(photo, question.regions, asked, question.candidates)
    return JSONResponse({"captions": found})


@router.post("/caption", responses=_said(schemas.OneGoAnswer))
async def caption(question: schemas.OneGo, photos: Asker) -> JSONResponse:
    """Encode a photo and caption its regions."""
    asked = question.asked(photos.model)
    photo = await photos.upload(question.image, question.path)
    found = await photos.captions(photo, question.regions, asked, question.candidates)
    return JSONResponse({**_image(photo), "captions": found})


@router.post("/images/{id}/labels", responses=_said(schemas.LabelsAnswer))
async def labels(id: str, question: schemas.LabelQuestion, photos: Asker) -> JSONResponse:
    """Choose a name for each region."""
    photo, names = photos.engine.known(id), photos.texts(question.names)
    read = await photos.regions(question.regions, photo)
    found = await photos.engine.labels(photo, read, names, question.threshold)
    return JSONResponse({"labels": await as_json(found, lambda label: label.to_dict())})


@router.post("/images/{id}/embed", responses=_said(schemas.EmbedAnswer))
async def embed(id: str, question: schemas.RegionQuestion, photos: Asker) -> JSONResponse:
    """Embed regions, before the memory bank."""
    photo = photos.engine.known(id)
    rows = await photos.engine.embeddings(photo, await photos.regions(question.regions, photo))
    listed = await as_json(rows, lambda tensor: tensor.tolist())
    return JSONResponse({"dim": photo.features.dim, "embeddings": listed})


@router.post("/images/{id}/explain", responses=_said(schemas.ExplainAnswer))
async def explain(id: str, question: schemas.ExplainQuestion, photos: Asker) -> JSONResponse:
    """What a region's caption rests on."""
    photo = photos.engine.known(id)
    (region,) = await photos.regions([question.region], photo)
    if not isinstance(region, Region):
        raise region
    found = await photos.engine.explain(photo, region, question.k)
    near = torch.tensor(found.similarities) / photos.model.settings.temperature
    shares = near.softmax(0).tolist()
    texts = [
        {"text": text, "similarity": round(cosine, 6), "weight": round(share, 6)}
        for text, cosine, share in zip(found.texts, found.similarities, shares, strict=True)
    ]
    return JSONResponse({"texts": texts, "weights": _rounded(found.weights.tolist())})


@router.post("/images/{id}/patches", responses=_said(schemas.PatchesAnswer))
async def patches(id: str, question: schemas.PatchQuestion, photos: Asker) -> JSONResponse:
    """Find words among the patches, or caption some of them."""
    photo = photos.engine.known(id)
    if (question.text is None) == (question.cells is None):
        raise bad_request("give either 'text' or 'cells'")
    if question.text is not None:
        (text,) = photos.texts([question.text])
        near = await photos.engine.similarities(photo, text)
        grid = photo.features.geometry.grid
        return JSONResponse({"grid": grid, "similarities": _rounded(near.tolist())})
    cells = [Patch(*cell).to_json() for cell in question.cells or ()]
    found = await photos.captions(photo, cells, question.asked(photos.model))
    return JSONResponse({"captions": found})


@router.post("/images/{id}/detail", response_class=StreamingResponse)
async def detail(id: str, question: schemas.DetailQuestion, photos: Asker) -> StreamingResponse:
    """A long description as server-sent events, one for each sentence."""
    photo = photos.engine.known(id)
    work = asyncio.ensure_future(photos.engine.detail(photo, question.seed, question.preset))
    return StreamingResponse(_events(work), media_type="text/event-stream")


@router.get("/models")
async def models(photos: Asker) -> JSONResponse:
    """The model, what it can do, and the limits of requests."""
    model, parts = photos.model, photos.model.parts
    known = {"id": model.settings.name, "object": "model", "created": 0, "owned_by": "patchioner"}
    able = {
        "labels": parts.text_tower is not None,
        "explain": parts.bank is not None and parts.bank.texts is not None,
        "detail": "detail" in model.settings.calibration,
        "confidence": "captions" in model.settings.calibration,
        "limits": {one: getattr(photos.settings, f"max_{one}") for one in _LIMITS},
    }
    return JSONResponse({"object": "list", "data": [known | able]})


async def read_body(request: Request, kind: type[B]) -> B:
    """The JSON of a request, whatever its content type says; RequestError where it is another."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise bad_request(why_invalid(error.errors())) from None


def why_invalid(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors in our words."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    if first["type"] == "missing":
        return f"{place!r:.80} is missing"
    if first["type"] == "extra_forbidden":
        return f"{place!r:.80} is no field of this request: see /openapi.json"
    if first["type"].startswith("json"):
        return "the body is no JSON"
    return f"{place!r:.80} has a value that cannot be used: see /openapi.json"


async def _uploaded(request: Request, photos: Photos) -> Encoded:
    """A photo of a form or of JSON."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        body = await read_body(request, schemas.Upload)
        return await photos.upload(body.image, body.path)
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise bad_request("the form has no file in its field 'file'")
        return await photos.engine.photo(await file.read())


def _image(photo: Encoded) -> dict[str, Any]:
    width, height = photo.size
    geometry = photo.features.geometry
    corners = geometry.to_pixels([[0, 0], [1, 1]])
    patches = {"origin": corners[0].tolist(), "cell": (corners[1] - corners[0]).tolist()}
    return {"id": photo.id, "width": width, "height": height, "grid": geometry.grid, **patches}


async def as_json(found: Sequence[Any], write: Callable[[Any], Any]) -> list[Any]:
    """Each as JSON, or its error; masks take a while, and so a thread."""

    def work() -> list[Any]:
        return [failure(one) if isinstance(one, PatchionerError) else write(one) for one in found]

    return await asyncio.to_thread(work)


def _rounded(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(value, 5) for value in row] for row in rows]


async def _events(work: asyncio.Future[DetailedCaption]) -> AsyncIterator[str]:
    try:
        while not work.done():
            yield ": working\n\n"
            await asyncio.wait({work}, timeout=_ALIVE)
        found = work.result()
    except Exception as error:
        yield _event("error", failure(error))
        return
    finally:
        work.cancel()
    regions = {one.id: one.region.to_json() for one in found.regions}
    for sentence in found.sentences:
        seen = [{"id": name, "region": regions[name]} for name in sentence.region_ids]
        said = {"text": sentence.text, "support": sentence.support, "regions": seen}
        yield _event("sentence", said | {"agreement": sentence.agreement})
    yield _event("done", {"text": found.text, "reason": found.reason})


def _event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
