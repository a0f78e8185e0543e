"""The map of what every patch shows: captions grouped into a few colours, with a legend."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.base.errors import OptionError
from patchioner.drawing import Captioned, Colour, Display, Entry, add_list, colour_of
from patchioner.geometry import ImageGeometry
from patchioner.nouns import named
from patchioner.regions import Patch

Numbers = npt.NDArray[np.int64]
OTHER: Colour = (150, 150, 150)
_OPACITY = 0.5
# Overlap that makes two captions near-equal, tried from strict to loose until the named clusters say enough.
_LEVELS, _ENOUGH = (1.0, 0.75, 0.6, 0.5, 0.4, 0.3), 0.8


def draw_patch_map(
    image: Image.Image,
    captions: Sequence[Captioned],
    geometry: ImageGeometry,
) -> Image.Image:
    """Colour every patch by what its caption says.

    Args:
        image: the photo.
        captions: of `Patch` regions of this grid, in any order, else OptionError; other patches stay uncoloured.
        geometry: the patch grid (`features.geometry`).

    Returns:
        A new RGB picture with a legend: twelve captions and their shares of the captioned patches; the rest is grey.
    """
    display = Display.of(image)
    clusters = cluster_captions([caption.text for caption in captions])
    rows, columns = geometry.grid
    cells, entries = np.full((rows, columns), -1, dtype=np.int64), []
    for number, cluster in enumerate(clusters):
        for member in cluster.members:
            region = captions[member].region
            if not isinstance(region, Patch) or region.row >= rows or region.col >= columns:
                raise OptionError(
                    f"{region!r} is no Patch of the {rows} x {columns} grid: use draw_overlay for other regions"
                )
            cells[region.row, region.col] = number
        colour = colour_of(number) if cluster.text else OTHER
        share = f"{100 * cluster.share:.0f} %" if cluster.share >= 0.005 else "< 1 %"
        entries.append(Entry(colour, share, cluster.text or "other"))
    colours = [entry.colour or OTHER for entry in entries]
    photo = _coloured(display.photo, _pixel_clusters(cells, display, geometry), colours)
    return add_list(photo, entries, display.font)


def _pixel_clusters(cells: Numbers, display: Display, geometry: ImageGeometry) -> Numbers:
    """The cluster under the centre of every display pixel, (height, width); -1 off the grid."""
    width, height = display.photo.size
    centres = np.arange(max(width, height))[:, None] + 0.5
    places = np.floor(geometry.to_grid(centres * display.image_size / display.photo.size))
    bordered = np.pad(cells, 1, constant_values=-1)
    last = np.array(bordered.shape[::-1]) - 1
    columns, rows = np.clip(places + 1, 0, last).astype(np.int64).T
    found: Numbers = bordered[rows[:height, None], columns[None, :width]]
    return found


def _coloured(photo: Image.Image, per_pixel: Numbers, colours: Sequence[Colour]) -> Image.Image:
    """Blend the colours over the photo, with a darker line where two clusters meet."""
    pixels = np.asarray(photo, dtype=np.float32)
    # The last colour is read by -1, where the opacity is 0.
    table = np.array([*colours, OTHER], dtype=np.float32)
    opacity = np.where(per_pixel >= 0, np.float32(_OPACITY), np.float32(0.0))[..., None]
    # Grey under the colour, or a red object would look like a red cluster.
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    ground = np.where(opacity > 0, grey[..., None], pixels)
    blended = ground * (1 - opacity) + table[per_pixel] * opacity
    lines = np.zeros(per_pixel.shape, dtype=bool)
    lines[:, 1:] |= per_pixel[:, 1:] != per_pixel[:, :-1]
    lines[1:, :] |= per_pixel[1:, :] != per_pixel[:-1, :]
    blended[lines] *= 0.35
    return Image.fromarray(np.rint(blended).astype(np.uint8))


@dataclass(frozen=True)
class Cluster:
    """Captions that say about the same.

    Attributes:
        text: the caption that stands for all; empty for the captions that fit nowhere.
        members: positions in the list of captions, ascending.
        share: part of all captions, 0..1.
    """

    text: str
    members: tuple[int, ...]
    share: float


def cluster_captions(texts: Sequence[str | None], *, limit: int = 12) -> list[Cluster]:
    """At most `limit` groups of captions, the largest first, then one with `text == ""` for the rest, if any.

    Where equal ones alone leave too much unnamed, captions that name the same things (Jaccard overlap) join the one
    that covers most of those left; the overlap asked for drops from 1 to 0.3 until `limit` clusters cover 80 %.
    """
    said = [text or "none of these" for text in texts]
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in said]
    distinct = list(dict.fromkeys(plain))
    number_of = {text: number for number, text in enumerate(distinct)}
    owner = np.array([number_of[text] for text in plain], dtype=np.int64)
    counts = np.bincount(owner, minlength=len(distinct))
    overlap = _overlaps(distinct)
    assignment = np.empty(0, dtype=np.int64)
    for level in _LEVELS if said else ():
        leaders = _leaders(overlap >= level, counts, limit)
        # The nearest leader of every distinct caption, -1 where none is near.
        to_leaders = overlap[:, leaders]
        assignment = np.where(to_leaders.max(axis=1) < level, -1, to_leaders.argmax(axis=1))
        assignment[leaders] = np.arange(len(leaders))
        if counts[assignment >= 0].sum() >= _ENOUGH * len(said):
            break
    groups: dict[int, list[int]] = {}
    for place, group in enumerate(assignment[owner].tolist()):
        groups.setdefault(group, []).append(place)
    clusters = []
    for group in sorted(groups, key=lambda one: (one < 0, -len(groups[one]), one)):
        members = groups[group]
        text = Counter(said[place] for place in members).most_common(1)[0][0] if group >= 0 else ""
        clusters.append(Cluster(text, tuple(members), len(members) / len(said)))
    return clusters


def _overlaps(distinct: Sequence[str]) -> npt.NDArray[np.float64]:
    """Jaccard overlap of the things (without any, the words) of every pair, (m, m); the diagonal is 1."""
    words = [named(text) or frozenset(text.split()) for text in distinct]
    columns = {word: number for number, word in enumerate(sorted(set().union(*words)))}
    present = np.zeros((len(distinct), len(columns)))
    for row, content in enumerate(words):
        present[row, [columns[word] for word in content]] = 1.0
    both = present @ present.T
    sizes = present.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    overlap: npt.NDArray[np.float64] = both / np.maximum(either, 1.0)
    np.fill_diagonal(overlap, 1.0)
    return overlap


def _leaders(near: npt.NDArray[np.bool_], counts: Numbers, limit: int) -> Numbers:
    """Greedy cover: each leader is the caption that reaches most patches not yet reached."""
    left = counts.astype(np.float64)
    leaders: list[int] = []
    while len(leaders) < limit and left.any():
        # Its own count breaks ties, then the first seen: a leader should be frequent itself.
        gain = near @ left + 1e-6 * counts * (left > 0)
        best = int(gain.argmax())
        leaders.append(best)
        left[near[best]] = 0.0
    return np.array(leaders, dtype=np.int64)
