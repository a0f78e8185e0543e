"""What every region is, and what every single shape must tell about itself.

Knows: the two abstract classes. Does NOT know any concrete kind, nor how footprints are
weighted (that is ``patchioner.aggregate``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt

from patchioner.regions.grid import Footprints

if TYPE_CHECKING:
    from patchioner.aggregate import Weighting
    from patchioner.geometry import ImageGeometry

Rounding = Literal["coverage", "reference"]


class Region(ABC):
    """A part of an image, in pixels of the original image (x right, y down).

    Regions are immutable values; they hold no image and can be used with any.
    """

    @abstractmethod
    def leaves(self) -> Iterator[tuple[Shape, float]]:
        """The single shapes this region is made of, each with its share; shares sum to 1."""

    def patch_weights(
        self,
        geometry: ImageGeometry,
        weighting: Weighting | None = None,
        attention: object = None,
    ) -> npt.NDArray[np.float32]:
        """Weights over the patch grid: (h, w) float32, non-negative, sum 1.

        Args:
            geometry: how the original image maps to the patch grid.
            weighting: uniform exact coverage by default.
            attention: (heads, h, w) or (h, w) array or tensor, for ``Weighting("attention")``.

        Raises:
            RegionError: the model sees nothing of the region.

        Example:
            >>> weights = Box(10, 20, 200, 220).patch_weights(features.geometry)
        """
        # The aggregator knows regions; a region asks it only here, when called.
        from patchioner.aggregate import region_weights

        weights: npt.NDArray[np.float32] = region_weights([self], geometry, weighting, attention)[0]
        return weights


class Shape(Region):
    """A single shape: all kinds but sets. Shapes of one kind are handled together."""

    def leaves(self) -> Iterator[tuple[Shape, float]]:
        """Itself, with the whole share."""
        yield self, 1.0

    @classmethod
    @abstractmethod
    def footprints(
        cls, regions: Sequence[Self], geometry: ImageGeometry, rounding: Rounding
    ) -> Footprints:
        """Where the shapes lie on the grid, in order; RegionError for one off the view."""
