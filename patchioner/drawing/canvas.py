"""The photo at display size, and its page.

Knows: how original pixels map to pixels of the picture, and where panel and photo go on the page.
Does not know: regions, captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.drawing.palette import PAPER
from patchioner.drawing.text_layout import Font, load_font

# Smaller photos are enlarged, so that tags do not hide them; both are long sides on the page.
SMALLEST = 720
LARGEST = 1400
MARGIN = 16


@dataclass(frozen=True)
class Display:
    """A photo at display size that remembers its original size.

    Attributes:
        photo: RGB, its long side within 720..1400 pixels.
        image_size: (width, height) of the original photo: regions are in its pixels.

    Example:
        >>> Display.of(Image.new("RGB", (4000, 3000))).photo.size
        (1400, 1050)
    """

    photo: Image.Image
    image_size: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image | Display) -> Display:
        """Bring a photo to display size; a `Display` is returned as it is."""
        if isinstance(image, Display):
            return image
        long_side = max(image.size)
        ratio = min(max(long_side, SMALLEST), LARGEST) / long_side
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        filter_ = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
        rgb = image.convert("RGB")
        # reducing_gap keeps the filter cheap on huge photos, at less than one grey level's cost.
        return cls(
            rgb if size == image.size else rgb.resize(size, filter_, reducing_gap=3.0), image.size
        )

    def to_display(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Original pixels (n, 2) as (x, y) -> pixels of `photo`."""
        scale = np.array(self.photo.size, dtype=np.float64) / self.image_size
        return np.asarray(points, dtype=np.float64).reshape(-1, 2) * scale

    @property
    def font(self) -> Font:
        """The font that suits this size."""
        return load_font(min(max(round(max(self.photo.size) / 56), 15), 24))


def beside(photo: Image.Image, panel: Image.Image) -> Image.Image:
    """Photo left, panel right, on one page with margins."""
    size = (photo.width + panel.width + 3 * MARGIN, max(photo.height, panel.height) + 2 * MARGIN)
    page = Image.new("RGB", size, PAPER)
    page.paste(photo, (MARGIN, MARGIN))
    page.paste(panel, (photo.width + 2 * MARGIN, MARGIN))
    return page


def below(photo: Image.Image, panel: Image.Image) -> Image.Image:
    """Photo above, panel below, both centred on one page with margins."""
    width = max(photo.width, panel.width)
    page = Image.new("RGB", (width + 2 * MARGIN, photo.height + panel.height + 3 * MARGIN), PAPER)
    page.paste(photo, (MARGIN + (width - photo.width) // 2, MARGIN))
    page.paste(panel, (MARGIN + (width - panel.width) // 2, photo.height + 2 * MARGIN))
    return page
