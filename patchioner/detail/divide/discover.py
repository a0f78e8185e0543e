"""Objects found in the captioner's own dense features: class-agnostic, without a detector, without a download.

Knows: patch features, how patches map to pixels, and the captioner that names what was found. Does not know: how a
segment is chosen (`salience`), quadrants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from patchioner.detail.divide.detections import Detection
from patchioner.detail.divide.merging import Cells
from patchioner.detail.divide.rectangles import share_inside
from patchioner.detail.divide.salience import salient_segments
from patchioner.detail.divide.settings import DiscoverySettings
from patchioner.detail.text import noun_phrases
from patchioner.geometry import ImageGeometry
from patchioner.regions import Mask

if TYPE_CHECKING:
    from patchioner.backbones import PatchFeatures
    from patchioner.model import Patchioner

Pixels = npt.NDArray[np.bool_]

_SPARE = 2
"""How many times more candidates are named than objects are wanted."""


def discover_objects(
    features: PatchFeatures,
    model: Patchioner | None = None,
    settings: DiscoverySettings | None = None,
) -> list[Detection]:
    """Find what looks like things in one photo's features.

    Args:
        features: of the photo, by `Patchioner.encode`.
        model: names what is found by the head noun of its caption, all objects in one batch; None leaves them nameless.
        settings: how many, how large, how much they may overlap, and whether they are named.

    Returns:
        Objects with mask, box and, where they could be named, name; the most salient first, ``score`` as a share of
        the best one's. No random choice: the same features give the same objects. Things that touch and look alike
        come as one; without names, a large thing may come in parts beside the whole.

    Example:
        >>> [found.name for found in discover_objects(model.encode("photo.jpg"), model)]  # doctest: +SKIP
        ['train', 'tracks', 'sky']
    """
    settings = settings or DiscoverySettings()
    if model is None or settings.names == "none":
        return _found(features, settings)
    # Parts that go by the name of their whole make room for others.
    more = replace(settings, limit=_SPARE * settings.limit)
    return without_parts(named(_found(features, more), features, model), settings.part)[
        : settings.limit
    ]


def _found(features: PatchFeatures, settings: DiscoverySettings) -> list[Detection]:
    tokens = features.tokens.detach().float().cpu().numpy()
    attention = features.attention
    looks = None if attention is None else attention.detach().float().mean(0).cpu().numpy()
    found: list[Detection] = []
    segments = salient_segments(tokens, looks, settings)
    for segment in segments:
        pixels = cells_to_pixels(segment.cells, features.geometry)
        if pixels.any():
            mask = Mask(pixels)
            left, top, right, bottom = (float(edge) for edge in mask.bounds)
            share = segment.score / segments[0].score
            found.append(Detection((left, top, right, bottom), None, share, mask.array))
    return found


def named(found: list[Detection], features: PatchFeatures, model: Patchioner) -> list[Detection]:
    """The same objects, each called what its caption is about; None where the caption has no noun."""
    if not found:
        return []
    captions = model.caption(features, [detection.region for detection in found])
    return [
        Detection(one.box, head_noun(caption.text), one.score, one.mask)
        for one, caption in zip(found, captions, strict=True)
    ]


def without_parts(found: Sequence[Detection], inside: float) -> list[Detection]:
    """Drop what lies in a more salient thing of the same name.

    Args:
        found: with names and masks, the most salient first.
        inside: share of a mask that makes it a part; 1 drops none.
    """
    kept: list[Detection] = []
    for one in found:
        wholes = [other for other in kept if one.name is not None and other.name == one.name]
        if all(_share_of_mask(one, other) <= inside for other in wholes):
            kept.append(one)
    return kept


def _share_of_mask(one: Detection, other: Detection) -> float:
    if one.mask is None or other.mask is None:
        return share_inside(one.box, other.box)
    return float(np.count_nonzero(one.mask & other.mask) / np.count_nonzero(one.mask))


def head_noun(caption: str) -> str | None:
    """What a caption is about: the name of the first thing that it names, or None.

    Example:
        >>> head_noun("a man riding a wave on a surfboard")
        'man'
    """
    phrases = noun_phrases(caption)
    return phrases[0].name if phrases else None


def cells_to_pixels(cells: Cells, geometry: ImageGeometry) -> Pixels:
    """A set of patches -> pixels of the original photo, with smoothed outlines.

    Args:
        cells: (rows, columns) bool.
        geometry: how pixels map to the patches.

    Returns:
        (height, width) bool: where the bilinear interpolation of the cells between their centres is at least one half.
        False where the model sees nothing of the photo.
    """
    width, height = geometry.image_size
    pixels = np.zeros((height, width), dtype=np.bool_)
    longest = np.arange(max(width, height)) + 0.5
    centres = geometry.to_grid(np.stack([longest, longest], axis=1))
    across, columns = _interpolation(centres[:width, 0], cells.shape[1])
    down, rows = _interpolation(centres[:height, 1], cells.shape[0])
    if len(rows) and len(columns):
        soft = down @ cells.astype(np.float32) @ across.T
        pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = soft >= 0.5 - 1e-6
    return pixels


def _interpolation(
    centres: npt.NDArray[np.float64], cells: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(seen pixels, cells) float32 weights, and which pixels are seen; outside their centres the outer cells count."""
    seen = np.flatnonzero((centres >= 0.0) & (centres <= cells))
    place = np.clip(centres[seen] - 0.5, 0.0, cells - 1.0)
    apart = np.abs(place[:, None] - np.arange(cells))
    return np.maximum(1.0 - apart, 0.0).astype(np.float32), seen.astype(np.int64)
