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
from patchioner.drawing.overlay import Captioned
from patchioner.drawing.panel import OTHER, WHITE, Colour, Display, Entry, add_panel, colour_of
from patchioner.geometry import ImageGeometry
from patchioner.regions import Patch

_OPACITY = 0.5
# Words that hold a sentence together without saying what is in the picture.
_GLUE = frozenset(
    re.findall(
        r"\w+",
        "a an the of on in at to with and or is are be by from for it its his her their there this "
        "that some as up over under near next while has have into through top front side",
    )
)
# Overlap that makes two captions near-equal, tried from strict to loose until the named clusters
# say enough.
_LEVELS = (1.0, 0.75, 0.6, 0.5, 0.4, 0.3)
_ENOUGH = 0.8


def draw_patch_map(
    image: Image.Image | Display,
    captions: Sequence[Captioned],
    geometry: ImageGeometry,
    *,
    limit: int = 12,
) -> Image.Image:
    """Colour every patch by what its caption says.

    Args:
        image: the photo, or its `Display`.
        captions: one per patch, with `Patch` regions, in any order; patches without a caption stay
            uncoloured.
        geometry: the patch grid (`features.geometry`).
        limit: number of captions named in the legend; the rest is grey, "other".

    Returns:
        A new RGB picture with a legend: caption and its share of the captioned patches.

    Raises:
        OptionError: a region that is not a patch of this grid.
    """
    display = Display.of(image)
    clusters = cluster_captions(
        [caption.text or "none of these" for caption in captions], limit=limit
    )
    cells = _cell_clusters(captions, clusters, geometry.grid)
    per_pixel = _pixel_clusters(cells, display, geometry)
    colours = [colour_of(number) if c.text else OTHER for number, c in enumerate(clusters)]
    photo = _coloured(display.photo, per_pixel, colours)
    entries = [_entry(cluster, colour) for cluster, colour in zip(clusters, colours, strict=True)]
    return add_panel(photo, entries, display)


def _entry(cluster: Cluster, colour: Colour) -> Entry:
    percent = 100 * cluster.share
    share = f"{percent:.0f} %" if percent >= 0.5 else "< 1 %"
    return Entry(colour, share, cluster.text or "other")


def _cell_clusters(
    captions: Sequence[Captioned], clusters: Sequence[Cluster], grid: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """(rows, columns) number of each cell's cluster, -1 where there is no caption."""
    cells = np.full(grid, -1, dtype=np.int64)
    for number, cluster in enumerate(clusters):
        for member in cluster.members:
            region = captions[member].region
            if not isinstance(region, Patch) or region.row >= grid[0] or region.col >= grid[1]:
                raise OptionError(
                    f"the patch map takes Patch regions of the {grid[0]} x {grid[1]} grid, "
                    f"got {region!r}: use draw_overlay for other regions"
                )
            cells[region.row, region.col] = number
    return cells


def _pixel_clusters(
    cells: npt.NDArray[np.int64], display: Display, geometry: ImageGeometry
) -> npt.NDArray[np.int64]:
    """The cluster under the centre of every display pixel, (height, width); -1 off the grid."""
    width, height = display.photo.size
    centres = np.arange(max(width, height))[:, None] + 0.5
    places = np.floor(geometry.to_grid(centres * display.image_size / display.photo.size))
    columns, rows = places[:width, 0].astype(np.int64), places[:height, 1].astype(np.int64)
    bordered = np.pad(cells, 1, constant_values=-1)
    rows = np.clip(rows + 1, 0, cells.shape[0] + 1)
    columns = np.clip(columns + 1, 0, cells.shape[1] + 1)
    return bordered[rows[:, None], columns[None, :]]


def _coloured(
    photo: Image.Image, per_pixel: npt.NDArray[np.int64], colours: Sequence[Colour]
) -> Image.Image:
    """Blend the colours over the photo, with a darker line where two clusters meet."""
    pixels = np.asarray(photo, dtype=np.float32)
    # The last colour is read by -1, where the opacity is 0.
    table = np.array([*colours, WHITE], dtype=np.float32)
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
    """Group equal and near-equal captions.

    Equal captions always fall together. When that leaves too much unnamed, captions that share
    most of their content words (Jaccard overlap) join the caption that covers most of the still
    uncovered ones; the overlap asked for drops from 1 to 0.3 until `limit` clusters cover 80 %.

    Args:
        texts: one caption per patch, None where no label fits; case and punctuation do not count.

    Returns:
        At most `limit` named clusters, the largest first, then one with `text == ""` for the rest,
        if any. Every position is a member of exactly one.

    Example:
        >>> [(c.text, c.members) for c in cluster_captions(["a cup", "a cup", "a table"])]
        [('a cup', (0, 1)), ('a table', (2,))]
    """
    said = [text or "none of these" for text in texts]
    if not said:
        return []
    distinct = list(dict.fromkeys(_normal(text) for text in said))
    number_of = {text: number for number, text in enumerate(distinct)}
    owner = np.array([number_of[_normal(text)] for text in said])
    counts = np.bincount(owner, minlength=len(distinct))
    overlap = _overlaps(distinct)
    leaders = assignment = np.empty(0, dtype=np.int64)
    for level in _LEVELS:
        leaders = _leaders(overlap >= level, counts, limit)
        assignment = _assign(overlap, leaders, level)
        if counts[assignment >= 0].sum() >= _ENOUGH * len(said):
            break
    return _clusters(said, assignment[owner], len(leaders))


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _overlaps(distinct: Sequence[str]) -> npt.NDArray[np.float64]:
    """Jaccard overlap of the content words of every pair, (m, m); the diagonal is 1."""
    words = [_content(text) for text in distinct]
    columns = {word: number for number, word in enumerate(sorted(set().union(*words)))}
    present = np.zeros((len(distinct), len(columns)))
    for row, content in enumerate(words):
        present[row, [columns[word] for word in content]] = 1.0
    both = present @ present.T
    sizes = present.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    overlap: npt.NDArray[np.float64] = np.zeros_like(both)
    np.divide(both, either, out=overlap, where=either > 0)
    np.fill_diagonal(overlap, 1.0)
    return overlap


def _content(text: str) -> set[str]:
    """Content words, singular and plural taken as one; all words when nothing else is left."""
    words = text.split()
    return {word.rstrip("s") or word for word in words if word not in _GLUE} or set(words)


def _leaders(
    near: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64], limit: int
) -> npt.NDArray[np.int64]:
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


def _assign(
    overlap: npt.NDArray[np.float64], leaders: npt.NDArray[np.int64], level: float
) -> npt.NDArray[np.int64]:
    """Position of the nearest leader of every distinct caption, -1 where none is near."""
    to_leaders = overlap[:, leaders]
    nearest: npt.NDArray[np.int64] = to_leaders.argmax(axis=1)
    nearest[to_leaders.max(axis=1) < level] = -1
    nearest[leaders] = np.arange(len(leaders))
    return nearest


def _clusters(texts: Sequence[str], group: npt.NDArray[np.int64], groups: int) -> list[Cluster]:
    named = []
    for number in range(groups):
        members = tuple(int(index) for index in np.flatnonzero(group == number))
        text = Counter(texts[index] for index in members).most_common(1)[0][0]
        named.append(Cluster(text, members, len(members) / len(texts)))
    named.sort(key=lambda cluster: -len(cluster.members))
    rest = tuple(int(index) for index in np.flatnonzero(group < 0))
    return named + ([Cluster("", rest, len(rest) / len(texts))] if rest else [])
