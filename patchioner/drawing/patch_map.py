"""The map of what every patch shows.

Knows: coloured cells over a photo and their legend. Does not know: models; how captions are
grouped is in `clusters`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.base.errors import OptionError
from patchioner.drawing.canvas import Display
from patchioner.drawing.clusters import Cluster, cluster_captions
from patchioner.drawing.overlay import Captioned
from patchioner.drawing.palette import OTHER, WHITE, Colour, colour_of
from patchioner.drawing.panel import Entry, add_panel
from patchioner.geometry import ImageGeometry
from patchioner.regions import Patch

_OPACITY = 0.5


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
    clusters = cluster_captions([caption.text for caption in captions], limit=limit)
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
    scale = np.array(display.image_size) / display.photo.size
    columns = geometry.to_grid(
        np.stack([(np.arange(width) + 0.5) * scale[0], np.zeros(width)], axis=1)
    )[:, 0]
    rows = geometry.to_grid(
        np.stack([np.zeros(height), (np.arange(height) + 0.5) * scale[1]], axis=1)
    )[:, 1]
    bordered = np.pad(cells, 1, constant_values=-1)
    row_index = np.clip(np.floor(rows).astype(np.int64) + 1, 0, cells.shape[0] + 1)
    column_index = np.clip(np.floor(columns).astype(np.int64) + 1, 0, cells.shape[1] + 1)
    return bordered[row_index[:, None], column_index[None, :]]


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
