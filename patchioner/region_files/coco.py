"""COCO annotation files: which annotations belong to a photo. Does NOT know shapes in detail."""

from __future__ import annotations

from collections.abc import Mapping

from patchioner.base.errors import RegionError
from patchioner.region_files.lookup import part_of
from patchioner.region_files.named import NamedRegion
from patchioner.regions import from_coco
from patchioner.regions.values import items_of

_Dictionary = Mapping[str, object]


def coco_regions(
    content: _Dictionary, image_size: tuple[int, int], image_name: str | None
) -> list[NamedRegion]:
    """The regions of one photo, in the file's order, named by their categories.

    Args:
        content: with ``images``, ``annotations`` and perhaps ``categories``.
        image_size: (width, height) of the photo; the file must agree.
        image_name: the photo's ``file_name``, folders do not matter; may be None when the file
            has one photo only.

    Raises:
        RegionError: the photo is not in the file, has another size there, or an annotation is
            broken.
    """
    images = {str(image.get("file_name")): image for image in _dictionaries(content, "images")}
    image = part_of(images, image_name)
    stated = (image.get("width"), image.get("height"))
    if None not in stated and stated != tuple(image_size):
        raise RegionError(
            f"its annotations are for {image.get('file_name')!r} of {stated[0]}x{stated[1]}, "
            f"but the image is {image_size[0]}x{image_size[1]}; give the image they were drawn on"
        )
    names = {c.get("id"): c.get("name") for c in _dictionaries(content, "categories", needed=False)}
    found = []
    for index, annotation in enumerate(_dictionaries(content, "annotations")):
        if annotation.get("image_id") == image.get("id"):
            name = names.get(annotation.get("category_id"))
            found.append(_named(annotation, index, image_size, name))
    return found


def _named(
    annotation: _Dictionary, index: int, image_size: tuple[int, int], name: object
) -> NamedRegion:
    try:
        region = from_coco(annotation, image_size)
    except RegionError as error:
        raise RegionError(f"annotation {index} (id {annotation.get('id')}): {error}") from error
    return NamedRegion(region, None if name is None else str(name))


def _dictionaries(content: _Dictionary, key: str, needed: bool = True) -> list[_Dictionary]:
    if key not in content and not needed:
        return []
    entries = items_of(content.get(key), f"{key!r} of the COCO file")
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise RegionError(f"entry {index} of {key!r} is {entry!r:.80}, no dictionary")
    return entries  # type: ignore[return-value]
