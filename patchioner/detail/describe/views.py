"""What a vision-language model is shown of a region.

Knows: photos and boxes. Does NOT know: models, prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image, ImageDraw

from patchioner.base.errors import OptionError
from patchioner.detail.values import DetailRegion
from patchioner.images import cut_out

ViewKind = Literal["crop", "context", "marked"]
_LEAST = 32  # pixels: what vision encoders can be given at all
_SLIMMEST = 10.0  # aspect ratio: several refuse, or squash, what is longer
_RED, _WHITE = (255, 0, 0), (255, 255, 255)

_Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """How a region is shown.

    Attributes:
        kind: "crop" is the box alone; "context" the box with a margin; "marked" the whole photo with a red frame around
            the box. The global region is the whole photo, without a frame, for all three.
        margin: of "context": share of the box's width and height that is added on every side.
        max_side: pixels of the longer side; larger pictures are brought down, smaller ones are left.

    Raises:
        OptionError: an unknown kind, a negative margin, a side under 32 pixels.

    Example:
        >>> View("context", margin=0.5).kind
        'context'
    """

    kind: ViewKind = "crop"
    margin: float = 0.25
    max_side: int = 1024

    def __post_init__(self) -> None:
        if self.kind not in get_args(ViewKind):
            raise OptionError(f"view {self.kind!r} is none of {', '.join(get_args(ViewKind))}")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise OptionError(
                f"margin is {self.margin!r}; it must be 0 or more, a share of the box"
            )
        if isinstance(self.max_side, bool) or self.max_side < _LEAST:
            raise OptionError(f"max_side is {self.max_side!r}; it must be at least {_LEAST} pixels")

    def as_json(self) -> dict[str, object]:
        """The values that decide what is seen, with no others: a margin that is not used tells nothing apart."""
        used: dict[str, object] = {"kind": self.kind, "max_side": self.max_side}
        return {**used, "margin": float(self.margin)} if self.kind == "context" else used

    def of(self, image: Image.Image, region: DetailRegion) -> Image.Image:
        """The picture to show: RGB, a new one.

        Args:
            image: the photo; it is not changed.
            region: its box is cut at the photo's edges; slivers are widened to at least 32 pixels and to an aspect
                ratio of at most 10.
        """
        if region.kind == "global":
            return _fitted(image.convert("RGB"), self.max_side)
        if self.kind == "marked":
            return _marked(image, region.box, self.max_side)
        margin = self.margin if self.kind == "context" else 0.0
        crop = cut_out(image, _shown_box(region.box, image.size, margin))
        return _fitted(crop.convert("RGB"), self.max_side)


def _shown_box(box: _Bounds, size: tuple[int, int], margin: float) -> _Bounds:
    """The box with its margin, wide and high enough, within the photo."""
    (left, right), (top, bottom) = (
        _inside(low, high, extent) for low, high, extent in zip(box[:2], box[2:], size, strict=True)
    )
    width, height = (right - left) * (1 + 2 * margin), (bottom - top) * (1 + 2 * margin)
    left, right = _span(left, right, max(width, _LEAST, height / _SLIMMEST), size[0])
    top, bottom = _span(top, bottom, max(height, _LEAST, width / _SLIMMEST), size[1])
    return left, top, right, bottom


def _inside(low: float, high: float, extent: int) -> tuple[float, float]:
    low = min(max(low, 0.0), extent - 1.0)
    return low, min(max(high, low + 1.0), float(extent))


def _span(low: float, high: float, length: float, extent: int) -> tuple[float, float]:
    """A stretch of that length around the old one's middle, cut at the photo's edges."""
    if length <= high - low:
        return low, high
    middle, half = (low + high) / 2, length / 2
    return max(0.0, middle - half), min(float(extent), middle + half)


def _fitted(picture: Image.Image, max_side: int) -> Image.Image:
    """Within `max_side`, and with no side under 32 pixels, whatever the photo was."""
    if max(picture.size) > max_side:
        picture = picture.copy()
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    least = max(_LEAST, math.ceil(max(picture.size) / _SLIMMEST))
    if min(picture.size) >= least:
        return picture
    return picture.resize(
        (max(picture.width, least), max(picture.height, least)), Image.Resampling.BICUBIC
    )


def _marked(image: Image.Image, box: _Bounds, max_side: int) -> Image.Image:
    picture = _fitted(image.convert("RGB"), max_side)
    picture = picture.copy() if picture is image else picture
    across, down = picture.width / image.width, picture.height / image.height
    (left, right), (top, bottom) = (
        _inside(low, high, extent)
        for low, high, extent in zip(box[:2], box[2:], image.size, strict=True)
    )
    line = max(2, round(max(picture.size) / 200))
    frame = (left * across, top * down, right * across - 1, bottom * down - 1)
    draw = ImageDraw.Draw(picture)
    # Around the box, not over its contents; a white edge shows the red on red as well.
    for colour, grown, width in ((_WHITE, line + 1, line + 2), (_RED, line, line)):
        x1, y1 = max(0.0, frame[0] - grown), max(0.0, frame[1] - grown)
        x2 = min(picture.width - 1.0, frame[2] + grown)
        y2 = min(picture.height - 1.0, frame[3] + grown)
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=width)
    return picture
