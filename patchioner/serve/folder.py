"""The photos of `--root` by name, for the page's review of a folder that lies with the server."""

from __future__ import annotations

from itertools import islice
from pathlib import PurePath

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from patchioner.images import readable_formats
from patchioner.serve.errors import RequestError
from patchioner.serve.native import Asker
from patchioner.serve.reading import named_photo

_MOST = 10_000
router = APIRouter(prefix="/v1/photos")


@router.get("")
def names(photos: Asker) -> JSONResponse:
    """Names of the photos in `--root`, at most 10,000; none without it."""
    root = photos.settings.root
    if root is None:
        return JSONResponse({"photos": []})
    base = root.resolve()
    found = (file for file in base.rglob("*") if _is_photo(file) and file.is_file())
    inside = (file for file in found if file.resolve().is_relative_to(base))
    names = sorted(file.relative_to(base).as_posix() for file in islice(inside, _MOST))
    return JSONResponse({"photos": names})


@router.get("/{name:path}", response_class=Response)
def photo(name: str, photos: Asker) -> Response:
    """The file of one of them."""
    if not _is_photo(PurePath(name)):
        raise RequestError(400, "bad_image", f"no photo {name!r:.80} in the server's --root")
    data = named_photo(name, photos.settings.root, photos.settings.max_bytes)
    return Response(data, media_type="application/octet-stream")


def _is_photo(path: PurePath) -> bool:
    return path.suffix.lower() in readable_formats()
