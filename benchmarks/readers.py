"""Reads the development sets into frozen samples.

Knows: the JSON of every development set and the folder they lie in (`annotations/`, `photos/`).
Does NOT know: models, metrics, or the region classes of `patchioner`; coordinates leave here as
plain numbers, in pixels of the photo (boxes XYXY; x right, y down) or as 0..1 (traces).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from patchioner.base.errors import PatchionerError

XYXY = tuple[float, float, float, float]

FILES = {
    "images": "image_captions_dev.json",
    "region_sets": "region_sets_dev.json",
    "traces": "traces_dev.json",
    "class_boxes": "class_boxes_dev.json",
    "class_names": "instances_dev.json",
    "dense": "dense_refcocos_dev.json",
}
"""Annotation file of each set."""


class BenchmarkDataError(PatchionerError, ValueError):
    """A development set that is missing, cut off, or not in its documented form."""


@dataclass(frozen=True)
class ImageSample:
    """A photo and its reference captions."""

    photo: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class RegionSetSample:
    """A set of boxes (XYXY pixels) in a photo, and what the set as a whole shows."""

    photo: str
    boxes: tuple[XYXY, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class TraceSample:
    """A mouse trace as (x, y) in 0..1 of the photo, and what it passes over."""

    photo: str
    points: tuple[tuple[float, float], ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class ClassBoxSample:
    """A box (XYXY pixels), the name of its class, and its share of the photo's area (0..1)."""

    photo: str
    box: XYXY
    name: str
    area_share: float


@dataclass(frozen=True)
class InstanceSample:
    """An object: its outline as COCO polygons (flat x, y lists), its box (XYXY), both in pixels, and its class.

    Attributes:
        size: (width, height) of the photo in pixels.
        area_share: share (0..1) of the photo's area inside the outline.
    """

    photo: str
    polygons: tuple[tuple[float, ...], ...]
    box: XYXY
    name: str
    size: tuple[int, int]
    area_share: float


@dataclass(frozen=True)
class DenseSample:
    """A box (XYXY pixels) and the phrases that refer to it."""

    photo: str
    box: XYXY
    references: tuple[str, ...]


Captioned = ImageSample | RegionSetSample | TraceSample | DenseSample
"""A sample that a caption is scored on."""

Sample = Captioned | ClassBoxSample


@dataclass(frozen=True)
class DevSets:
    """The development sets of one data folder.

    Attributes:
        root: folder that holds `annotations/` and `photos/`.

    Every reader returns a tuple in file order, and raises `BenchmarkDataError` with the path when
    a file is missing or is not what it should be.

    Example:
        >>> DevSets(Path("../shared/data")).images()  # doctest: +SKIP
    """

    root: Path

    def photo_path(self, photo: str) -> Path:
        """Path of a photo, given its file name."""
        return self.root / "photos" / photo

    def images(self) -> tuple[ImageSample, ...]:
        """Image captioning: photos with all their captions."""
        with self._reading("images") as content:
            names = {image["id"]: image["file_name"] for image in content["images"]}
            groups: dict[str, list[str]] = {name: [] for name in names.values()}
            for annotation in content["annotations"]:
                groups[names[annotation["image_id"]]].append(annotation["caption"])
        return tuple(ImageSample(photo, tuple(texts)) for photo, texts in groups.items() if texts)

    def region_sets(self) -> tuple[RegionSetSample, ...]:
        """Region sets: a key with newlines holds several references of one set."""
        with self._reading("region_sets") as content:
            return tuple(
                RegionSetSample(file_name(key), _boxes(boxes), tuple(captions.split("\n")))
                for key, sets in content.items()
                for captions, boxes in sets.items()
            )

    def traces(self) -> tuple[TraceSample, ...]:
        """Traces: captions and traces are aligned lists; the time of a point is dropped."""
        with self._reading("traces") as content:
            return tuple(
                TraceSample(file_name(key), tuple((p["x"], p["y"]) for p in trace), (caption,))
                for key, entry in content.items()
                for caption, trace in zip(entry["captions"], entry["traces"], strict=True)
            )

    def class_boxes(
        self, *, min_area_share: float = 0.0, without: Iterable[str] = ()
    ) -> tuple[ClassBoxSample, ...]:
        """Boxes with class names, larger than `min_area_share` of the photo, `without` some names.

        The photo's size is read from the head of its file.
        """
        with self._reading("class_boxes") as content:
            samples = [
                ClassBoxSample(photo, corners, box["name"], _area(corners) / area)
                for photo, boxes in ((entry["file_name"], entry["boxes"]) for entry in content)
                for area in (self._photo_area(photo),)
                for box, corners in zip(boxes, _boxes(b["xyxy"] for b in boxes), strict=True)
            ]
        skipped = frozenset(without)
        return tuple(s for s in samples if s.area_share > min_area_share and s.name not in skipped)

    def class_names(self) -> tuple[str, ...]:
        """All class names among which a box is named, in the order of their ids."""
        with self._reading("class_names") as content:
            entries = sorted(content["categories"], key=lambda entry: int(entry["id"]))
            return tuple(entry["name"] for entry in entries)

    def instances(self, *, without: Iterable[str] = ()) -> tuple[InstanceSample, ...]:
        """Objects with polygons, `without` some names; crowds, which have none, are left out."""
        skipped = frozenset(without)
        with self._reading("class_names") as content:
            names = {entry["id"]: entry["name"] for entry in content["categories"]}
            images = {image["id"]: image for image in content["images"]}
            found = [
                _instance(entry, images[entry["image_id"]], names[entry["category_id"]])
                for entry in content["annotations"]
                if not entry.get("iscrowd") and names[entry["category_id"]] not in skipped
            ]
        return tuple(found)

    def dense(self) -> tuple[DenseSample, ...]:
        """Referring phrases; phrases of one and the same box are its references together."""
        groups: dict[tuple[str, XYXY], list[str]] = {}
        with self._reading("dense") as content:
            names = {image["id"]: image["file_name"] for image in content["images"]}
            for annotation in content["annotations"]:
                (box,) = _boxes([annotation["bbox"]])
                key = (names[annotation["image_id"]], box)
                groups.setdefault(key, []).append(annotation["caption"])
        return tuple(DenseSample(photo, box, tuple(g)) for (photo, box), g in groups.items())

    def fingerprints(self) -> dict[str, str]:
        """Sha256 of each annotation file that is there, so that a figure names its data."""
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in ((n, self._path(n)) for n in FILES)
            if path.is_file()
        }

    def _path(self, name: str) -> Path:
        return self.root / "annotations" / FILES[name]

    @contextmanager
    def _reading(self, name: str) -> Iterator[Any]:
        """Yield the JSON of a set; what goes wrong in reading it names the file."""
        path = self._path(name)
        try:
            yield json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BenchmarkDataError(
                f"{path} is missing: give the folder that holds annotations/ and photos/"
            ) from error
        except json.JSONDecodeError as error:
            raise BenchmarkDataError(f"{path} is not JSON ({error}): fetch it again") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, BenchmarkDataError):
                raise
            raise BenchmarkDataError(
                f"{path} is not in the form of its set ({type(error).__name__}: {error}): is it"
                " the file of another set?"
            ) from error

    def _photo_area(self, photo: str) -> int:
        path = self.photo_path(photo)
        try:
            with Image.open(path) as image:
                return image.width * image.height
        except OSError as error:
            raise BenchmarkDataError(f"{path} cannot be opened as a photo: {error}") from error


def file_name(key: str) -> str:
    """Photo file name of an image id: COCO ids are padded to 12 digits, other keys kept.

    Example:
        >>> file_name("359"), file_name("frame_07")
        ('000000000359.jpg', 'frame_07.jpg')
    """
    return f"{int(key):012d}.jpg" if key.isdigit() else f"{key}.jpg"


def _boxes(rows: Iterable[Iterable[float]]) -> tuple[XYXY, ...]:
    boxes = []
    for row in rows:
        corners = tuple(float(value) for value in row)
        if len(corners) != 4:
            raise BenchmarkDataError(f"a box needs 4 numbers x1, y1, x2, y2, not {list(corners)}")
        boxes.append((corners[0], corners[1], corners[2], corners[3]))
    return tuple(boxes)


def _instance(entry: Any, image: Any, name: str) -> InstanceSample:
    x, y, width, height = (float(value) for value in entry["bbox"])
    size = int(image["width"]), int(image["height"])
    return InstanceSample(
        image["file_name"],
        tuple(tuple(float(value) for value in ring) for ring in entry["segmentation"]),
        (x, y, x + width, y + height),
        name,
        size,
        float(entry["area"]) / (size[0] * size[1]),
    )


def _area(box: XYXY) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
