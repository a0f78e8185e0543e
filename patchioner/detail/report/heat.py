"""Heat maps of sentences over patches: asked for, and as small pictures.

Knows: arrays, colours, data URLs, the patch grid of a photo. Does NOT know: how a map is computed, pages.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailedCaption

FloatArray = npt.NDArray[np.float64]
_SMOOTH: Final = (
    160  # pixels of the longer side: cells blend into one another, and a page stays small
)
_LEVELS: Final = 64
# Night blue, violet, red, orange, light yellow: brighter is hotter, also for those who cannot tell red from green; and
# what is cold is darkened, so that a map shows on a photo that has those colours itself.
_COLOURS: Final = ((8, 12, 52), (84, 18, 108), (222, 58, 58), (255, 186, 40), (255, 246, 150))
_OPACITIES: Final = (185, 165, 140, 140, 150)  # of 255


class Heated(Protocol):
    """What says where in a photo a sentence is borne out, such as `patchioner.detail.filter.DenseScorer`."""

    def heat_map(self, photo: Photo, sentence: str) -> npt.NDArray[np.float32]:
        """(rows, columns) float32 of the photo's patches."""


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where in a photo a sentence is borne out.

    Attributes:
        values: (rows, columns) float, larger where it fits better; not finite where nothing is known.
        box: left, top, right, bottom of the patch grid in pixels of the original photo; may reach over its edges.
    """

    values: npt.NDArray[np.float32]
    box: tuple[float, float, float, float]

    def picture(self) -> str:
        """Data URL of a PNG with transparency; colours span this map's own range."""
        return _data_url(_coloured(_shares(self.values)))


def heat_maps(photo: Photo, caption: DetailedCaption, source: Heated) -> dict[str, HeatMap]:
    """Sentence -> its map, for the sentences of the paragraph; empty for a photo without features.

    Args:
        photo: encoded.
        caption: of that photo.
        source: a scorer that makes maps.
    """
    if photo.features is None:
        return {}
    cells = photo.features.geometry.cell_boxes()
    (x1, y1), (x2, y2) = cells[:, :2].min(axis=0), cells[:, 2:].max(axis=0)
    box = (float(x1), float(y1), float(x2), float(y2))
    texts = dict.fromkeys(sentence.text for sentence in caption.sentences)
    return {text: HeatMap(source.heat_map(photo, text), box) for text in texts}


def _shares(values: npt.ArrayLike) -> FloatArray:
    """0 for the coldest place, 1 for the hottest; all 0 where no place differs from another."""
    found = np.asarray(values, dtype=np.float64)
    known = found[np.isfinite(found)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if not high > low:
        return np.zeros(found.shape)
    return np.nan_to_num((found - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)


def _coloured(shares: FloatArray) -> Image.Image:
    rows, columns = shares.shape
    scale = max(1.0, _SMOOTH / max(rows, columns))
    size = (math.ceil(columns * scale), math.ceil(rows * scale))
    smooth = Image.fromarray(shares.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    levels = np.clip(np.asarray(smooth), 0, 1) * (_LEVELS - 1)
    picture = Image.fromarray(levels.round().astype(np.uint8))
    picture = picture.convert("L")
    picture.putpalette(_palette())
    picture.info["transparency"] = bytes(_spread(_OPACITIES))
    return picture


def _palette() -> list[int]:
    channels = [_spread([colour[channel] for colour in _COLOURS]) for channel in range(3)]
    return [value for level in zip(*channels, strict=True) for value in level]


def _spread(values: Sequence[int]) -> list[int]:
    """Over all levels, straight from one value to the next."""
    at = np.linspace(0, len(values) - 1, _LEVELS)
    return [round(value) for value in np.interp(at, range(len(values)), values).tolist()]


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
