"""The dividers: photo -> regions, from what a detector or a person gave or from what the features show.

Knows: how the whole, the things and the parts by place make one list. Does not know: how each of them is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from patchioner.base.errors import OptionError
from patchioner.detail.divide.detections import Detection, Given, as_detection, trusted
from patchioner.detail.divide.discover import discover_objects
from patchioner.detail.divide.rectangles import Rectangle, area, merge_overlapping
from patchioner.detail.divide.semantic import detail_regions, union_of_named
from patchioner.detail.divide.settings import DivideSettings
from patchioner.detail.divide.spatial import grid, grow, quadrants
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion, RegionKind
from patchioner.geometry import ImageGeometry

if TYPE_CHECKING:
    from patchioner.backbones import PatchFeatures
    from patchioner.model import Patchioner


class PhotoDivider:
    """Divide a photo into the whole, things in it, and parts by place (`stages.Divider`).

    Args:
        settings: which regions are wanted.
        model: captions the whole photo and names what is found; needed only for the "union" and for names.
        given: things in the photo in place of those found in its features: any regions with an inside, entries of
            `patchioner.region_files.read_regions` (our JSON, COCO, SAM), or `Detection`s with name and score. They are
            of one photo, so such a divider is made for one photo.

    Example:
        >>> divider = PhotoDivider(model=model)
        >>> [region.id for region in divider.divide(photo)]  # doctest: +SKIP
        ['global', 'semantic-1', 'semantic-2', 'spatial-1', 'spatial-2', 'spatial-3', 'spatial-4']
    """

    def __init__(
        self,
        settings: DivideSettings | None = None,
        *,
        model: Patchioner | None = None,
        given: Sequence[Given] | None = None,
    ) -> None:
        self._settings = settings or DivideSettings()
        self._model = model
        self._given = None if given is None else tuple(given)
        if self._settings.objects == "union" and model is None:
            raise OptionError(
                "objects='union' goes by the caption of the whole photo: give a model, or objects='each'"
            )

    @property
    def settings(self) -> dict[str, object]:
        """Those of `DivideSettings`, and where the things come from."""
        return {**asdict(self._settings), "things": "found" if self._given is None else "given"}

    def divide(self, photo: Photo) -> list[DetailRegion]:
        """The whole photo first, then things, then parts by place in reading order.

        Parts that the model sees nothing of (where its preprocessing crops) are left out. The same photo gives the same
        regions.

        Raises:
            OptionError: things are to be found, but the photo has no features.
            RegionError: something given is no region of this photo.
        """
        things = self._things(photo)
        regions = [whole_photo(photo.size), *self._semantic(things, photo)]
        regions += self._spatial(things, regions, photo)
        return [region for region in regions if _is_seen(region.box, photo)]

    def _things(self, photo: Photo) -> list[Detection]:
        settings = self._settings
        if self._given is not None:
            found = [as_detection(given, photo.size) for given in self._given]
            return trusted(found, settings.least_score, settings.fallback)
        wanted = settings.objects != "none" or (
            settings.spatial == "quadrants" and settings.grow is not None
        )
        if not wanted:
            return []
        features = _features(photo)
        return discover_objects(features, self._model, settings.discovery)

    def _semantic(self, things: list[Detection], photo: Photo) -> list[DetailRegion]:
        kind: RegionKind = "semantic" if self._given is None else "user"
        if self._settings.objects == "each":
            return detail_regions(things, kind)
        if self._settings.objects == "none" or self._model is None or not things:
            return []
        caption = self._model.caption(_features(photo))[0].text
        box = union_of_named(things, caption, photo.size, self._settings.union_coverage)
        return [] if box is None else detail_regions([Detection(box)], "semantic")

    def _spatial(
        self, things: list[Detection], regions: list[DetailRegion], photo: Photo
    ) -> list[DetailRegion]:
        settings = self._settings
        if settings.spatial == "none":
            return []
        if settings.spatial == "grid":
            cells = grid(photo.size, settings.rows, settings.columns, settings.overlap)
            return [
                DetailRegion(f"grid-{number}", "grid", box, parents=("global",))
                for number, box in enumerate(cells, 1)
            ]
        growing = [thing.box for thing in things if self._grows(thing.box, photo.size)]
        merged = merge_overlapping(growing, settings.merge_iou) if settings.grow is not None else []
        grown = grow(quadrants(photo.size), merged, settings.grow or 0.0)
        return [
            DetailRegion(
                f"spatial-{number}",
                "spatial",
                box,
                parents=("global", *_made_of([merged[place] for place in joined], regions)),
            )
            for number, (box, joined) in enumerate(grown, 1)
        ]

    def _grows(self, box: Rectangle, image_size: tuple[int, int]) -> bool:
        return area(box) <= self._settings.growing_area * image_size[0] * image_size[1]


def whole_photo(image_size: tuple[int, int]) -> DetailRegion:
    """The region that is the whole photo, "global".

    Example:
        >>> whole_photo((640, 480)).box
        (0.0, 0.0, 640.0, 480.0)
    """
    return DetailRegion("global", "global", (0.0, 0.0, float(image_size[0]), float(image_size[1])))


def _features(photo: Photo) -> PatchFeatures:
    if photo.features is None:
        raise OptionError(
            f"{photo.name!r} has no features to find objects in: open it with open_photo(source, model), "
            "give the regions, or divide with objects='none' and grow=None"
        )
    return photo.features


def _made_of(boxes: list[Rectangle], regions: list[DetailRegion]) -> list[str]:
    """Ids of the things inside the boxes that a quadrant grew by."""
    return [
        region.id
        for region in regions
        if region.kind in ("semantic", "user") and any(_holds(box, region.box) for box in boxes)
    ]


def _holds(box: Rectangle, other: Rectangle) -> bool:
    return box[0] <= other[0] and box[1] <= other[1] and box[2] >= other[2] and box[3] >= other[3]


def _is_seen(box: Rectangle, photo: Photo) -> bool:
    geometry: ImageGeometry | None = None if photo.features is None else photo.features.geometry
    if geometry is None:
        return True
    x1, y1, x2, y2 = geometry.visible
    return box[0] < x2 and box[2] > x1 and box[1] < y2 and box[3] > y1
