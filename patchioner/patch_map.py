"""The map of what every patch shows: captions grouped into a few colours, with a legend."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

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
_ALIKE = 0.3  # Jaccard overlap of the things that captions name, from which one stands for the other


def draw_patch_map(image: Image.Image, captions: Sequence[Captioned], geometry: ImageGeometry) -> Image.Image:
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


class Cluster(NamedTuple):
    """Captions that say about the same: the one that stands for all ("" for those that fit nowhere), their places in
    the list, ascending, and their part of all, 0..1."""

    text: str
    members: tuple[int, ...]
    share: float


def cluster_captions(texts: Sequence[str | None], *, limit: int = 12) -> list[Cluster]:
    """At most `limit` groups of captions, the largest first, then one with `text == ""` for the rest, if any.

    A group's captions name the same things (or, without any, have the same words); those of no group of their own are
    in the one of which they name most.
    """
    said = [text or "none of these" for text in texts]
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in said]
    things = [named(text) or frozenset(text.split()) for text in plain]
    leaders = [own for own, _ in Counter(things).most_common(limit)]
    groups: dict[int, list[int]] = {}
    for place, own in enumerate(things):
        alike = [1.0 if own == one else len(own & one) / len(own | one) for one in leaders]
        best = max(range(len(leaders)), key=alike.__getitem__)
        groups.setdefault(best if alike[best] >= _ALIKE else -1, []).append(place)
    clusters = []
    for group in sorted(groups, key=lambda one: (one < 0, -len(groups[one]), one)):
        members = groups[group]
        text = Counter(said[place] for place in members).most_common(1)[0][0] if group >= 0 else ""
        clusters.append(Cluster(text, tuple(members), len(members) / len(said)))
    return clusters
