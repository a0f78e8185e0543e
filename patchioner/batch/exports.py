"""Finished rows as other tools read them: COCO, Label Studio, CVAT, FiftyOne, files beside the photos."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from itertools import chain, groupby, islice, starmap
from pathlib import Path, PurePosixPath
from typing import Any, TextIO
from xml.etree.ElementTree import Element, SubElement, tostring

from patchioner.base.errors import ImageError, OptionError, UnknownNameError
from patchioner.base.files import AnyPath, atomic_path
from patchioner.batch.rows import Row
from patchioner.images import ImageSource, data_url, load_image
from patchioner.markup import Child, Markup, element, page

BESIDE = ("txt", "json", "xmp")
Entry = dict[str, Any]
Photos = Iterable[tuple[str, list[Row]]]
Size = tuple[int, int]
_WHOLE = "whole_image"
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # for XML 1.0
_XMP = {
    "xmlns:x": "adobe:ns:meta/",
    "xmlns:rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmlns:dc": "http://purl.org/dc/elements/1.1/",
    "xmlns:mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "xmlns:stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "xmlns:stArea": "http://ns.adobe.com/xmp/sType/Area#",
}
_FIFTYONE = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.{})"
_IN_ORDER = """select said from rows join (select photo, min(rowid) as first from rows group by photo)
               using (photo) order by first, rows.rowid"""
_SIDE = 320  # pixels of the longer side of a thumbnail
_CSS, _SCRIPT = (Path(__file__).with_name(f"gallery.{one}").read_text("utf-8") for one in ("css", "js"))


def export(rows: Iterable[Row], to: str, out: AnyPath, *, prefix: str = "") -> int:
    """Write rows in the form of another tool. Files are whole or absent, and few rows are held at a time.

    Returned is how many rows the form has no place for: without text or box, or about regions where it is of photos.
    UnknownNameError: no such form; OptionError: a photo's name that leads out of the folder.

    Args:
        to: a key of `EXPORTS`; docs/batch.md says what each holds.
        out: the file; of those in `BESIDE` the folder that gets a file for each photo, named like it.
        prefix: put before the names of photos inside a file, such as "/data/local-files/?d=" for Label Studio.

    Example:
        >>> export(read_rows("captions.parquet"), "coco", "captioned.json")  # doctest: +SKIP
        0
    """
    if to not in EXPORTS:
        raise UnknownNameError.among("export", to, EXPORTS)
    with closing(photos_of(rows, "" if to in BESIDE else prefix)) as photos:
        return EXPORTS[to](photos, Path(out))


def photos_of(rows: Iterable[Row], front: str = "") -> Generator[tuple[str, list[Row]], None, None]:
    """(name, its rows) of each photo, in the order of their first rows."""
    # A table may have them apart: they wait in a nameless database, on the disk where it is large.
    with closing(sqlite3.connect("")) as disk:
        disk.execute("create table rows (photo text, said text)")
        told = ((json.dumps(row.photo), json.dumps(row.to_dict())) for row in rows)
        disk.executemany("insert into rows values (?, ?)", told)
        read = (Row.from_dict(json.loads(said)) for (said,) in disk.execute(_IN_ORDER))
        for photo, own in groupby(read, lambda row: row.photo):
            yield front + photo, list(own)


def size_of(rows: Iterable[Row]) -> Size | None:
    """(width, height) of the photo of these rows, where one of them has it."""
    return next(((row.width, row.height) for row in rows if row.width and row.height), None)


class _Ids:
    """Whole numbers for keys: the one that is wanted where it is free, else the next free one."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}
        self._taken: set[int] = set()
        self._last = 0

    def new(self, wanted: object) -> int:
        number = int(str(wanted)) if re.fullmatch(r"-?[0-9]{1,18}", str(wanted)) else None
        while number is None or number in self._taken:
            number = self._last = self._last + 1
        self._taken.add(number)
        return number

    def of(self, key: Any, wanted: object) -> int:
        if key not in self.known:
            self.known[key] = self.new(wanted)
        return self.known[key]


def _coco(photos: Photos, out: Path, make: Callable[[Row, _Ids], Entry | None]) -> int:
    """Annotations first: they come one by one, and the images and categories are known when all have been seen."""
    annotations, images, categories = _Ids(), _Ids(), _Ids()
    listed, named = list[Entry](), list[Entry]()

    def entries() -> Iterator[Entry | None]:
        for name, rows in photos:
            image = images.of(name, _carried(rows[0]).get("image_id"))
            listed.append({"id": image, "file_name": name, **_sides(rows)})
            for row in rows:
                if (made := make(row, categories)) is not None:
                    made |= {"id": annotations.new(row.annotation_id), "image_id": image}
                yield made
        named.extend({"id": number, "name": name} for name, number in categories.known.items())

    return _write(out, "annotations", entries(), images=listed, categories=named)


def _boxed(row: Row, categories: _Ids) -> Entry | None:
    """A COCO annotation with the keys that it came with."""
    if row.bbox is None:
        return None
    carried, (x, y, right, bottom) = _carried(row), row.bbox
    category = categories.of(row.category or "region", carried.get("category_id"))
    box: list[float] = [round(side, 3) for side in (x, y, right - x, bottom - y)]
    kept = carried if carried.keys() & {"bbox", "segmentation"} else {}
    kept.pop("bbox_mode", None)
    if not _alike(kept.get("bbox"), box):  # corners, shares, or no box
        kept.pop("bbox", None)
    if "caption" in kept:
        kept["source_caption"] = kept.pop("caption")
    # "score" is a detector's, which may have come with it.
    said = {"caption": row.text, "caption_score": row.score, "caption_confidence": row.confidence}
    whole = {"segmentation": [], "iscrowd": 0, "bbox": box, "area": box[2] * box[3], **kept}
    return whole | {"category_id": category} | _given({**said, "caption_error": row.error})


def _alike(given: object, box: list[float]) -> bool:
    """Whether they are the same four numbers, but for rounding."""
    if not isinstance(given, list) or len(given) != 4:
        return False
    return all(isinstance(one, int | float) and abs(one - other) <= 1 for one, other in zip(given, box, strict=True))


def _label_studio(name: str, rows: list[Row]) -> Iterator[Entry | None]:
    """A task with a prediction; the names of its tags are label, box and caption."""
    found = [list(_results(place, row, size_of(rows))) for place, row in enumerate(rows)]
    yield from (None for one in found if not one)
    least = min((row.confidence for row in rows if row.confidence is not None), default=None)
    prediction = {"model_version": rows[0].model, **_given({"score": least}), "result": [*chain.from_iterable(found)]}
    yield {"data": {"image": name}, "predictions": [prediction]}


def _results(place: int, row: Row, size: Size | None) -> Iterator[Entry]:
    own = str(place) if row.annotation_id is None else f"{place}-{row.annotation_id}"
    common = {"id": own, "to_name": "image", **_given({"score": row.confidence})}
    box, where = _shares(row, size), dict[str, Any]()
    if row.kind != _WHOLE:
        if box is None or size is None:
            return
        x, y, width, height = (100 * share for share in box)
        where = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
        common |= {"original_width": size[0], "original_height": size[1], "image_rotation": 0}
        kind, tag = ("rectangle", "box") if row.category is None else ("rectanglelabels", "label")
        named = {} if row.category is None else {"rectanglelabels": [row.category]}
        yield {**common, "from_name": tag, "type": kind, "value": {**where, **named}}
    if row.text is not None:
        yield {**common, "from_name": "caption", "type": "textarea", "value": {**where, "text": [row.text]}}


def _fiftyone(name: str, rows: list[Row]) -> Iterator[Entry | None]:
    """A sample with the fields `regions` (Detections) and `caption` (Classification)."""
    size, found, whole = size_of(rows), list[Entry](), None
    for row in rows:
        sure, box = _given({"confidence": row.confidence}), _shares(row, size)
        if _is_caption(row):
            whole = {"_cls": "Classification", "label": row.text, **sure}
        elif row.kind != _WHOLE and box is not None:
            own = {"_cls": "Detection", "label": row.category or "region", "bounding_box": box, **sure}
            told = {"caption": row.text, "score": row.score, "annotation_id": row.annotation_id, "error": row.error}
            found.append(own | _given(told))
        else:
            yield None
    about = {"filepath": name, "tags": [], "metadata": {"_cls": "ImageMetadata", **_sides(rows)}}
    yield {**about, "regions": {"_cls": "Detections", "detections": found}, "caption": whole}


def _write_fiftyone(photos: Photos, out: Path) -> int:
    fields = {"regions": _FIFTYONE.format("Detections"), "caption": _FIFTYONE.format("Classification")}
    samples = chain.from_iterable(starmap(_fiftyone, photos))
    return _write(out, "samples", samples, name=out.stem, media_type="image", sample_fields=fields)


def _cvat(photos: Photos, out: Path) -> int:
    """CVAT for images 1.1: boxes and tags with the attributes caption, confidence and annotation_id."""
    left = 0
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("<annotations>\n<version>1.1</version>\n")
        for number, (name, rows) in enumerate(photos):
            width, height = size_of(rows) or (0, 0)
            image = _inside(None, "image", id=number, name=name, width=width, height=height)
            left += sum(not _cvat_shape(image, row) for row in rows)
            stream.write(tostring(image, encoding="unicode") + "\n")
        stream.write("</annotations>\n")
    return left


def _cvat_shape(image: Element, row: Row) -> bool:
    if _is_caption(row):
        shape = _inside(image, "tag", label=row.category or "photo", source="auto")
    elif row.kind != _WHOLE and row.bbox is not None:
        edges = dict(zip(("xtl", "ytl", "xbr", "ybr"), row.bbox, strict=True))
        shape = _inside(image, "box", label=row.category or "region", source="auto", occluded=0, **edges, z_order=0)
    else:
        return False
    told = {"caption": row.text, "confidence": row.confidence, "annotation_id": row.annotation_id}
    for name, value in _given(told).items():
        _inside(shape, "attribute", value, name=name)
    return True


def _txt(rows: list[Row], stream: TextIO) -> int:
    """A caption a line."""
    texts = [" ".join(row.text.split()) for row in rows if row.text is not None]
    stream.write("".join(_fit(text) + "\n" for text in texts))
    return len(rows) - len(texts)


def _json(rows: list[Row], stream: TextIO) -> int:
    """All of them, as they are."""
    stream.write(json.dumps([row.to_dict() for row in rows], indent=2, allow_nan=False) + "\n")
    return 0


def _xmp(rows: list[Row], stream: TextIO) -> int:
    """dc:description, and regions as the Metadata Working Group defines them."""
    size, meta = size_of(rows), _inside(None, "x:xmpmeta", **_XMP)
    about = _inside(_inside(meta, "rdf:RDF"), "rdf:Description", **{"rdf:about": ""})
    places = [(row, box) for row in rows if row.kind != _WHOLE and (box := _shares(row, size))]
    texts = [row.text for row in rows if _is_caption(row)][:1]
    for text in texts:
        choices = _inside(_inside(about, "dc:description"), "rdf:Alt")
        _inside(choices, "rdf:li", text, **{"xml:lang": "x-default"})
    if places and size is not None:
        regions = _inside(about, "mwg-rs:Regions", **{"rdf:parseType": "Resource"})
        pixels = {"stDim:w": size[0], "stDim:h": size[1], "stDim:unit": "pixel"}
        _inside(regions, "mwg-rs:AppliedToDimensions", **pixels)
        bag = _inside(_inside(regions, "mwg-rs:RegionList"), "rdf:Bag")
        for row, (x, y, width, height) in places:
            told = {"mwg-rs:Name": row.category, "mwg-rs:Description": row.text}
            entry = _inside(_inside(bag, "rdf:li"), "rdf:Description", **_given(told))
            area = {"stArea:x": x + width / 2, "stArea:y": y + height / 2, "stArea:w": width, "stArea:h": height}
            _inside(entry, "mwg-rs:Area", **area, **{"stArea:unit": "normalized"})
    stream.write(tostring(meta, encoding="unicode") + "\n")
    return len(rows) - len(places) - len(texts)


def _inside(above: Element | None, element: str, text: object = "", /, **given: object) -> Element:
    """A new element; what no XML may hold becomes a sign."""
    told = {key: _fit(one) for key, one in given.items()}
    found = Element(element, told) if above is None else SubElement(above, element, told)
    found.text = _fit(text)
    return found


def _fit(value: object) -> str:
    return _UNFIT.sub("\ufffd", f"{value:.8g}" if isinstance(value, float) else str(value))


def _beside(photos: Photos, folder: Path, write: Callable[..., int], suffix: str) -> int:
    """A file for each photo, at its name with another suffix; at name and suffix where that is taken."""
    left, taken = 0, set[Path]()
    for name, rows in photos:
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "/"]
        if not parts or ".." in parts:
            raise OptionError(f"{name!r} leads out of {folder}: nothing more is written")
        path = folder.joinpath(*parts).with_suffix(suffix)
        while path in taken:  # a.jpg, a.png, a.png.jpg
            path = path.with_name(parts[-1] + suffix)
            parts[-1] += "_"
        taken.add(path)
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            left += write(rows, stream)
    return left


def _write(out: Path, key: str | None, entries: Iterable[Entry | None], **rest: Any) -> int:
    """A JSON list of entries, under a key of an object with the rest, which they may fill; how many were None."""
    left, start = 0, "[\n"
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("" if key is None else f'{{"{key}": ')
        for entry in entries:
            if entry is None:
                left += 1
            else:
                stream.write(start + json.dumps(entry, allow_nan=False))
                start = ",\n"
        stream.write("[]" if start == "[\n" else "\n]")
        for name, value in rest.items():
            stream.write(f',\n"{name}": {json.dumps(value)}')
        stream.write("\n" if key is None else "}\n")
    return left


def _given(values: Entry) -> Entry:
    return {key: value for key, value in values.items() if value is not None}


def _is_caption(row: Row) -> bool:
    """Whether it is the text of a whole photo."""
    return row.kind == _WHOLE and row.text is not None


def _sides(rows: list[Row]) -> Entry:
    return dict(zip(("width", "height"), size_of(rows) or (), strict=False))


def _carried(row: Row) -> Entry:
    """The annotation that a row was made of."""
    found: Entry = json.loads(row.source) if row.source else {}
    inner = found.get("annotation")
    return inner if isinstance(inner, dict) else found


def _shares(row: Row, size: Size | None) -> list[float] | None:
    """x, y, width and height in 0..1 of the photo."""
    if row.bbox is None or size is None:
        return None
    (x, y, right, bottom), (width, height) = row.bbox, size
    return [x / width, y / height, (right - x) / width, (bottom - y) / height]


EXPORTS: Mapping[str, Callable[[Photos, Path], int]] = {
    "coco": partial(_coco, make=_boxed),
    "coco-captions": partial(_coco, make=lambda row, _: {"caption": row.text} if _is_caption(row) else None),
    "label-studio": lambda photos, out: _write(out, None, chain.from_iterable(starmap(_label_studio, photos))),
    "cvat": _cvat,
    "fiftyone": _write_fiftyone,
    "txt": partial(_beside, write=_txt, suffix=".txt"),
    "json": partial(_beside, write=_json, suffix=".json"),
    "xmp": partial(_beside, write=_xmp, suffix=".xmp"),
}


def write_gallery(
    rows: Iterable[Row], photos: Iterable[tuple[str, ImageSource | None]], out: AnyPath, *, limit: int = 1000
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
    by = "confidence" if any(row.confidence is not None for one in shown.values() for row in one) else "score"
    cards = [_card(own, pictures.get(name), by, at) for at, (name, own) in enumerate(shown.items())]
    with atomic_path(out) as temporary:
        temporary.write_text(_page(cards), encoding="utf-8")
    return len(cards)


def _page(cards: list[Markup]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (_CSS, _SCRIPT))
    policy = "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*digests)
    title = f"{len(cards)} photos, captioned"
    orders = {"file": "as in the file", "least": "least sure first", "most": "surest first"}
    buttons = [
        element("button", text, type="button", value=one, aria_pressed="true" if one == "file" else "false")
        for one, text in orders.items()
    ]
    top = element("header", element("h1", title), element("nav", buttons, aria_label="Order"))
    return page(title, _CSS, top, element("main", cards), element("script", Markup(_SCRIPT)), policy=policy)


def _card(rows: list[Row], picture: str | None, by: str, place: int) -> Markup:
    known = [value for row in rows if (value := getattr(row, by)) is not None]
    size = size_of(rows)
    drawn = None if size is None or picture is None else _drawn(rows, picture, size)
    parts = (element("h2", rows[0].photo), drawn, element("ol", map(_line, rows)))
    return element("article", *parts, data_sure=str(min(known)) if known else None, data_place=place)


def _drawn(rows: list[Row], picture: str, size: Size) -> Markup:
    width, height = size
    layers: list[Child] = [element("image", href=picture, width=width, height=height)]
    large = max(size) / 16
    for number, row in enumerate(rows, 1):
        if row.bbox is not None:
            x, y, right, bottom = row.bbox
            edge = element("rect", x=x, y=y, width=right - x, height=bottom - y)
            label = element("text", number, x=x + large / 4, y=y + large, font_size=large, stroke_width=large / 8)
            layers.append(element("g", edge, edge, label))  # a light edge on a dark one
    return element("svg", layers, viewBox=f"0 0 {width} {height}", role="img", aria_label=rows[0].photo)


def _line(row: Row) -> Markup:
    if row.error is not None:
        return element("li", f"{row.error}: {row.message}", class_="failed")
    sure = None if row.confidence is None else f"{row.confidence:.0%} sure"
    told = [part for part in (row.category, row.annotation_id, sure) if part]
    said = row.text if row.text is not None else row.reason or "no text"
    return element("li", said, element("small", f" ({', '.join(told)})") if told else None)


def _thumbnail(source: ImageSource | None) -> str | None:
    if source is not None:
        with suppress(ImageError):
            picture = load_image(source)
            picture.thumbnail((_SIDE, _SIDE))
            return data_url(picture, quality=90)
    return None
