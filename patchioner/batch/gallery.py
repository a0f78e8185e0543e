"""Photos, their regions and captions on one HTML page, sorted by a click; it loads nothing and sends nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from contextlib import closing, suppress
from importlib import resources
from itertools import islice

from patchioner.base.errors import ImageError
from patchioner.base.files import atomic_path
from patchioner.batch.exports import Size, photos_of, size_of
from patchioner.batch.rows import Row
from patchioner.images import ImageSource, data_url, load_image
from patchioner.markup import Attribute, Child, Markup, element, page

_SIDE = 320  # pixels of the longer side of a thumbnail
_CSS, _SCRIPT = (
    resources.files("patchioner.batch").joinpath(f"gallery.{kind}").read_text("utf-8") for kind in ("css", "js")
)
_ORDERS = {"file": "as in the file", "least": "least sure first", "most": "surest first"}


def write_gallery(
    rows: Iterable[Row],
    photos: Iterable[tuple[str, ImageSource | None]],
    out: str | os.PathLike[str],
    *,
    limit: int = 1000,
) -> int:
    """Write the page, atomically, about 20 KiB a photo; how many photos are on it.

    A photo is as sure as the least sure of its captions, by confidence, or by score where no row has a confidence.

    Args:
        photos: (name as in the rows, the photo or None), in any order; one without a picture is shown by its texts.
        limit: photos shown, the first ones.

    Example:
        >>> write_gallery(rows, [("a.jpg", "photos/a.jpg")], "gallery.html")  # doctest: +SKIP
        1
    """
    with closing(photos_of(rows)) as found:
        shown = dict(islice(found, limit))
    pictures: dict[str, str | None] = {}
    for name, source in photos:
        if name in shown and name not in pictures:
            pictures[name] = _thumbnail(source)
        if len(pictures) == len(shown):
            break
    calibrated = any(row.confidence is not None for one in shown.values() for row in one)
    by = "confidence" if calibrated else "score"
    placed = enumerate(shown.items())
    cards = [_card(own, pictures.get(name), by, data_place=at) for at, (name, own) in placed]
    with atomic_path(out) as temporary:
        temporary.write_text(_page(cards), encoding="utf-8")
    return len(cards)


def _page(cards: list[Markup]) -> str:
    hashes = (f"'sha256-{_digest(text)}'" for text in (_CSS, _SCRIPT))
    policy = "default-src 'none'; img-src data:; style-src {}; script-src {}".format(*hashes)
    title = f"{len(cards)} photos, captioned"
    pressed = {"file": "true"}
    buttons = [
        element("button", text, type="button", value=one, aria_pressed=pressed.get(one, "false"))
        for one, text in _ORDERS.items()
    ]
    top = element("header", element("h1", title), element("nav", buttons, aria_label="Order"))
    script = element("script", Markup(_SCRIPT))
    return page(title, _CSS, top, element("main", cards), script, policy=policy)


def _card(rows: list[Row], picture: str | None, by: str, **more: Attribute) -> Markup:
    known = [value for row in rows if (value := getattr(row, by)) is not None]
    name, size = rows[0].photo, size_of(rows)
    drawn = None if size is None or picture is None else _drawn(rows, picture, size)
    sure = str(min(known)) if known else None
    listed = element("ol", map(_line, rows))
    return element("article", element("h2", name), drawn, listed, data_sure=sure, **more)


def _drawn(rows: list[Row], picture: str, size: Size) -> Markup:
    width, height = size
    layers: list[Child] = [element("image", href=picture, width=width, height=height)]
    large = max(size) / 16
    for number, row in enumerate(rows, 1):
        if row.bbox is not None:
            x, y, right, bottom = row.bbox
            box: dict[str, Attribute] = {"x": x, "y": y, "width": right - x, "height": bottom - y}
            edges = [element("rect", **box), element("rect", **box)]
            where: dict[str, Attribute] = {"x": x + large / 4, "y": y + large, "font_size": large}
            label = element("text", number, stroke_width=large / 8, **where)
            layers.append(element("g", edges, label))
    about: dict[str, Attribute] = {"role": "img", "aria_label": rows[0].photo}
    return element("svg", layers, viewBox=f"0 0 {width} {height}", **about)


def _line(row: Row) -> Markup:
    if row.error is not None:
        return element("li", f"{row.error}: {row.message}", class_="failed")
    told = [f"{row.confidence:.0%} sure"] if row.confidence is not None else []
    told = [part for part in (row.category, row.annotation_id, *told) if part]
    said = row.text if row.text is not None else row.reason or "no text"
    return element("li", said, element("small", f" ({', '.join(told)})") if told else None)


def _thumbnail(source: ImageSource | None) -> str | None:
    with suppress(ImageError):
        picture = None if source is None else load_image(source)
        if picture is not None:
            picture.thumbnail((_SIDE, _SIDE))
            return data_url(picture, quality=90)
    return None


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
