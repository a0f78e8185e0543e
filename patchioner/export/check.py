"""How far an exported backbone is from its source: in numbers, and in captions.

Knows: features of two backbones, captions of two models. Does not know: how either was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from patchioner.backbones import Backbone
from patchioner.base.errors import OptionError
from patchioner.regions import Box, Region, WholeImage

if TYPE_CHECKING:
    from patchioner.model import Patchioner


@dataclass(frozen=True)
class BackboneDifference:
    """Two backbones on the same pictures.

    Attributes:
        tokens, cls, attention: largest absolute difference; NaN where the backbone has no such thing.
        relative: of the tokens, as a share of their largest absolute value.
        mean_cosine, least_cosine: of a patch token with its twin.
    """

    tokens: float
    cls: float
    attention: float
    relative: float
    mean_cosine: float
    least_cosine: float


def compare_backbones(
    source: Backbone, other: Backbone, pictures: Sequence[Image.Image]
) -> BackboneDifference:
    """Compare the features of two backbones, picture by picture.

    Args:
        source: the one that is right.
        other: of the same width, grid and preprocessing.
        pictures: at least one, upright RGB.

    Raises:
        OptionError: no picture.

    Example:
        >>> compare_backbones(backbone, backbone, [Image.new("RGB", (64, 48))]).tokens  # doctest: +SKIP
        0.0
    """
    if not pictures:
        raise OptionError("there is no picture to compare on: give at least one")
    gaps: dict[str, list[float]] = {"tokens": [], "cls": [], "attention": []}
    largest, cosines = 0.0, []
    for picture in pictures:
        one, two = (backbone.encode([picture])[0] for backbone in (source, other))
        for name, found in gaps.items():
            mine, theirs = getattr(one, name), getattr(two, name)
            if mine is not None and theirs is not None:
                found.append(float((mine.cpu() - theirs.cpu()).abs().max()))
        largest = max(largest, float(one.tokens.abs().max()))
        cosines.append(F.cosine_similarity(one.tokens.cpu(), two.tokens.cpu(), dim=2).flatten())
    worst = {name: max(found, default=float("nan")) for name, found in gaps.items()}
    together = torch.cat(cosines)
    return BackboneDifference(
        **worst,
        relative=worst["tokens"] / max(largest, 1e-12),
        mean_cosine=float(together.mean()),
        least_cosine=float(together.min()),
    )


def count_changed_captions(
    source: Patchioner, other: Patchioner, pictures: Sequence[Image.Image]
) -> tuple[int, int]:
    """Caption each picture whole, its quarters and its middle with both models.

    Args:
        source, other: models of the same decoder and bank.
        pictures: upright RGB.

    Returns:
        How many captions differ, and of how many.

    Example:
        >>> count_changed_captions(model, model, pictures)  # doctest: +SKIP
        (0, 18)
    """
    items = [(picture, trial_regions(picture.size)) for picture in pictures]
    mine, theirs = (
        [caption.text for captions in model.caption_many(items) for caption in captions]
        for model in (source, other)
    )
    return sum(one != two for one, two in zip(mine, theirs, strict=True)), len(mine)


def trial_regions(size: tuple[int, int]) -> list[Region]:
    """The whole picture, its four quarters and the box in its middle.

    Example:
        >>> len(trial_regions((640, 480)))
        6
    """
    width, height = float(size[0]), float(size[1])
    x, y = width / 2, height / 2
    quarters = [Box(a, b, a + x, b + y) for a in (0.0, x) for b in (0.0, y)]
    return [WholeImage(), *quarters, Box(x / 2, y / 2, x * 1.5, y * 1.5)]


def trial_pictures(seed: int = 0) -> list[Image.Image]:
    """Three pictures of smooth random colour and grain, wide, tall and square: for when there are no photos.

    Example:
        >>> [picture.size for picture in trial_pictures()]
        [(320, 240), (200, 300), (256, 256)]
    """
    random = np.random.default_rng(seed)
    pictures = []
    for size in ((320, 240), (200, 300), (256, 256)):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
        grain = random.normal(0.0, 8.0, smooth.shape)
        pictures.append(Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)))
    return pictures
