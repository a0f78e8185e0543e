"""Choosing among given texts: the arithmetic behind `Patchioner.label`.

Knows: unit vectors, a softmax over cosines. Does not know: photos, networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import OptionError, RegionError, TextError
from patchioner.requests import EmbeddedRegions
from patchioner.results import Label


def check_labelling(texts: Sequence[str], temperature: float) -> None:
    """Refuse an empty choice (TextError) and a temperature that is not a positive number (OptionError)."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise OptionError(f"temperature {temperature} must be a positive number")
    if not texts:
        raise TextError("there is no text to choose from: give at least one")


@torch.inference_mode()
def choose_labels(
    embedded: Sequence[EmbeddedRegions], names: Tensor, texts: Sequence[str], temperature: float
) -> list[Label]:
    """The likeliest of the texts for each region, of equally likely ones the first.

    Args:
        embedded: regions of one or more photos.
        names: (k, dim) unit rows, on the device of the embeddings.
        texts: the k texts.
        temperature: of the softmax over the cosines.

    Returns:
        One `Label` per region, in order.

    Raises:
        RegionError: an embedding is not finite.
    """
    labels = []
    for one in embedded:
        shares = (F.normalize(one.rows, dim=1) @ names.T / temperature).softmax(dim=1)
        if not bool(shares.isfinite().all()):
            raise RegionError("a region's embedding is not finite: the features are damaged")
        labels += [
            Label(texts[row.index(max(row))], max(row), tuple(row), region)
            for row, region in zip(shares.tolist(), one.regions, strict=True)
        ]
    return labels
