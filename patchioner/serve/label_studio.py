"""A machine learning backend for Label Studio: /setup and /predict (its /health is the server's own)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from patchioner.base.errors import PatchionerError, RegionError
from patchioner.regions import Box, Mask, Polygon, Region
from patchioner.serve.errors import bad_request
from patchioner.serve.native import Asker, Photos
from patchioner.serve.schemas import Decoding, failure

router = APIRouter()
Entry = Mapping[str, Any]
_KINDS = ("rectangle", "polygon", "brush")
_PLACE = ("x", "y", "width", "height", "rotation", "points", "format", "rle")


class Setup(BaseModel):
    """Label Studio tells of a project."""

    project: str | int | None = None


class PredictRequest(BaseModel):
    """Tasks to look at; what people drew stands in `params.context.result` or in the tasks."""

    tasks: list[dict[str, Any]]
    label_config: str = ""
    params: dict[str, Any] | None = None


@router.post("/setup")
async def setup(question: Setup, photos: Asker) -> JSONResponse:
    """Say which model this is."""
    return JSONResponse({"model_version": photos.model.settings.name})


@router.post("/predict")
async def predict(question: PredictRequest, photos: Asker) -> JSONResponse:
    """Texts of drawn regions, or of whole photos where nothing is drawn; an error costs its task alone."""
    names = _names(question.label_config)
    context = (question.params or {}).get("context") or {}
    drawn = context.get("result") if isinstance(context, Mapping) else None
    results = []
    for task in question.tasks[: photos.settings.max_texts]:
        try:
            found = await _predict(task, drawn, names, photos)
        except PatchionerError as error:
            found = {"result": [], "score": 0.0, **failure(error)}
        results.append(found | {"model_version": photos.model.settings.name})
    return JSONResponse({"results": results})


async def _predict(task: Entry, drawn: Any, names: dict[str, str], photos: Photos) -> dict[str, Any]:
    photo = await _photo(task, names["key"], photos)
    entries = _drawn(drawn if drawn is not None else task)
    regions: list[Any] = [_region(one, photo.size) for one in entries] or [{"whole": True}]
    found = await photos.captions(photo, regions, Decoding().asked(photos.model))
    said = {"from_name": names["text"], "to_name": names["image"], "type": "textarea"}
    result: list[dict[str, Any]] = []
    for place, one in enumerate(found):
        if "error" in one:
            raise RegionError(f"region {place}: {one['error']['message']}")
        own: dict[str, Any] = {"value": {"text": [one["text"] or ""]}}
        if entries:
            drawing = entries[place]
            result.append(dict(drawing))
            where = {key: drawing["value"][key] for key in _PLACE if key in drawing["value"]}
            sizes = ("id", "original_width", "original_height", "image_rotation")
            own = {key: drawing[key] for key in sizes if key in drawing}
            own["value"] = where | {"text": [one["text"] or ""]}
        sure = one["confidence"]
        result.append(said | own | ({} if sure is None else {"score": sure}))
    sure = [one["confidence"] for one in found if one["confidence"] is not None]
    return {"result": result, "score": min(sure, default=0.0)}


def _names(config: str) -> dict[str, str]:
    """What the project's labelling interface calls image, text, and the image's key in tasks."""
    names = {"image": "image", "text": "caption", "key": "image"}
    if not config or "<!" in config:  # no declarations: entities could grow without end
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


async def _photo(task: Entry, key: str, photos: Photos) -> Any:
    data = task.get("data")
    named = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(named, str):
        raise bad_request(f"the task has no photo under {key!r:.40}")
    if named.startswith("data:"):
        return await photos.upload(named)
    # As Label Studio names files: /data/upload/1/a.jpg, /data/local-files/?d=folder/a.jpg
    parts = urlsplit(named)
    local = parse_qs(parts.query).get("d")
    path = local[0] if local else re.sub("^/?(data/)?", "", unquote(parts.path), count=1)
    return await photos.upload(None, named if parts.scheme else path)


def _drawn(source: Any) -> list[Entry]:
    """The regions of a list of results, or those of a task's first annotation, prediction or draft."""
    results = source
    if isinstance(source, Mapping):
        lists = (source.get(key) for key in ("annotations", "predictions", "drafts"))
        first = next((found[0] for found in lists if isinstance(found, list) and found), {})
        results = first.get("result") if isinstance(first, Mapping) else None
    return [
        one
        for one in (results if isinstance(results, list) else ())
        if isinstance(one, Mapping)
        and isinstance(one.get("value"), Mapping)
        and str(one.get("type")).startswith(_KINDS)
    ]


def _region(result: Entry, size: tuple[int, int]) -> dict[str, Any] | RegionError:
    """A drawn region, in per cent of the photo, as our own JSON."""
    value, kind = result["value"], str(result["type"])
    try:
        if kind.startswith("brush"):
            return {"mask": _brush(value["rle"], size)}
        return _shape(value, kind, size).to_json()
    except RegionError as error:
        return error
    except (KeyError, TypeError, ValueError, IndexError):
        return RegionError(f"the {kind:.20} {result.get('id')!r:.40} is damaged: draw it again")


def _shape(value: Entry, kind: str, size: tuple[int, int]) -> Region:
    width, height = (side / 100.0 for side in size)
    if kind.startswith("polygon"):
        return Polygon([(x * width, y * height) for x, y in value["points"]])
    left, top = value["x"] * width, value["y"] * height
    across, down = value["width"] * width, value["height"] * height
    turn = math.radians(value.get("rotation") or 0.0)
    if not turn:
        return Box(left, top, left + across, top + down)
    # Clockwise, around the left top corner
    corners = [(0.0, 0.0), (across, 0.0), (across, down), (0.0, down)]
    cos, sin = math.cos(turn), math.sin(turn)
    return Polygon([(left + x * cos - y * sin, top + x * sin + y * cos) for x, y in corners])


def _brush(rle: Sequence[int], size: tuple[int, int]) -> dict[str, Any]:
    """A brush's run lengths of RGBA pixels (thi.ng's rle-pack) as our own."""
    bits = "".join(f"{byte:08b}" for byte in bytes(rle))
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise RegionError(f"the brush was drawn on another size than {size[0]} x {size[1]} pixels")
    values = np.zeros(total, dtype=np.uint32)
    done = 0
    while done < total:
        repeats = read(1)
        stop = done + 1 + read(lengths[read(2)])
        if stop > total:
            raise RegionError("the brush's run lengths do not fit its size")
        values[done:stop] = read(word) if repeats else [read(word) for _ in range(done, stop)]
        done = stop
    alpha = values.reshape(size[1], size[0], 4)[..., 3]
    found: dict[str, Any] = Mask(alpha > 0).to_json()["mask"]
    return found
