"""A machine learning backend for Label Studio: /setup and /predict (its /health is the server's own)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from patchioner.base.errors import PatchionerError, RegionError
from patchioner.pipeline import attempt
from patchioner.regions.label_studio import from_label_studio
from patchioner.serve.cache import Encoded
from patchioner.serve.errors import bad_request
from patchioner.serve.native import Asker, Photos
from patchioner.serve.schemas import Decoding, failure

router = APIRouter()
Entry = Mapping[str, Any]
_KINDS = ("rectangle", "polygon", "brush", "ellipse", "keypoint")
_NO_PLACE = ("labels", "text", "rectanglelabels", "polygonlabels", "brushlabels")


class Setup(BaseModel):
    """Label Studio tells of a project."""

    project: str | int | None = None


class PredictRequest(BaseModel):
    """Tasks to look at; what people drew stands in `params.context.result` or in the tasks."""

    tasks: list[dict[str, Any]]
    label_config: str | None = None
    params: dict[str, Any] | None = None


@router.post("/setup")
async def setup(question: Setup, photos: Asker) -> JSONResponse:
    """Say which model this is."""
    return JSONResponse({"model_version": photos.model.settings.name})


@router.post("/predict")
async def predict(question: PredictRequest, photos: Asker) -> JSONResponse:
    """Texts of drawn regions, or of whole photos where nothing is drawn; an error costs its task alone."""
    names = _names(question.label_config or "")
    context = (question.params or {}).get("context")
    drawn = context.get("result") if isinstance(context, Mapping) else None
    results = []
    for task in question.tasks:
        try:
            found = await _predict(task, drawn, names, photos)
        except PatchionerError as error:
            found = {"result": [], "score": 0.0, **failure(error)}
        results.append(found | {"model_version": photos.model.settings.name})
    return JSONResponse({"results": results})


async def _predict(
    task: Entry, drawn: Any, names: dict[str, str], photos: Photos
) -> dict[str, Any]:
    photo = await _photo(task, names["key"], photos)
    drawings = _drawings(task if drawn is None else drawn)
    regions = await asyncio.to_thread(_regions, drawings, photo.size)
    found = await photos.captions(photo, regions, Decoding().asked(photos.model))
    bad = next((one["error"]["message"] for one in found if "error" in one), None)
    if bad is not None:
        raise RegionError(bad)
    said = {"from_name": names["text"], "to_name": names["image"], "type": "textarea"}
    result: list[dict[str, Any]] = [dict(one) for one in drawings]
    for one, drawing in zip(found, drawings or [{"value": {}}], strict=True):
        where = {key: value for key, value in drawing["value"].items() if key not in _NO_PLACE}
        text = {"value": where | {"text": [one["text"] or ""]}, "score": one["confidence"] or 0.0}
        result.append({**drawing, **said, **text})
    score = min((one["confidence"] or 0.0 for one in found), default=0.0)
    return {"result": result, "score": score}


def _names(config: str) -> dict[str, str]:
    """What the project's labelling interface calls image and text, and the image's key in tasks."""
    names = {"image": "image", "text": "caption", "key": "image"}
    if not config or "<!" in config:  # a declaration's entities could grow without end
        return names
    try:
        tags = list(ElementTree.fromstring(config).iter())
    except ElementTree.ParseError:
        raise bad_request("'label_config' is no XML") from None
    for tag in tags:
        if tag.tag == "Image":
            names["image"] = tag.get("name", "image")
            names["key"] = tag.get("value", "$image").lstrip("$")
        elif tag.tag == "TextArea":
            names["text"] = tag.get("name", "caption")
    return names


async def _photo(task: Entry, key: str, photos: Photos) -> Encoded:
    data = task.get("data")
    named = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(named, str):
        raise bad_request(f"the task has no photo under {key!r:.40}")
    if re.match(r"\w+:", named):  # a data URL, or a link, which is refused
        return await photos.upload(named)
    # As Label Studio names files: /data/upload/1/a.jpg, /data/local-files/?d=folder/a.jpg
    path, _, query = named.partition("?")
    local = parse_qs(query).get("d")
    name = local[0] if local else re.sub("^/?(data/)?", "", unquote(path), count=1)
    return await photos.upload(None, name)


def _drawings(source: Any) -> list[Entry]:
    """The regions of a list of results, or those of a task's first annotation, prediction or draft."""
    if isinstance(source, Mapping):
        lists = (source.get(key) for key in ("annotations", "predictions", "drafts"))
        first = next((found[0] for found in lists if isinstance(found, list) and found), None)
        source = first.get("result") if isinstance(first, Mapping) else None
    results = source if isinstance(source, list) else []
    known = (one for one in results if isinstance(one, Mapping) and "value" in one)
    return [one for one in known if str(one.get("type")).startswith(_KINDS)]


def _regions(drawings: Sequence[Entry], size: tuple[int, int]) -> list[Any] | None:
    """Each as our JSON or its error; None, the whole photo, where there are none."""
    work = lambda some: [from_label_studio(one, size).to_json() for one in some]  # noqa: E731
    return attempt(work, drawings) if drawings else None
