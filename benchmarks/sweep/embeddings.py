"""Region embeddings of every sample under any setting, from features that are made once.

Knows: models, features, samples. Does NOT know: captions or scores. Equal to `Patchioner.embed_regions` of a model with
these settings (tested), but pooled once per weighting and mixed with the context afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.captioner import Captioner
from benchmarks.runner.settings import resized
from benchmarks.sweep.features import FeatureCache
from benchmarks.sweep.samples import AskedRegion, KindSamples
from benchmarks.sweep.space import CROP_AREAS, WEIGHTINGS, Choice
from patchioner.aggregate import Weighting, pool_regions
from patchioner.base.progress import progress
from patchioner.crops import cut_out, region_bounds
from patchioner.images import load_image
from patchioner.regions import WholeImage

CROP_SHARE = 0.375  # of the input size of whole photos: a seventh of their patches
CROP_MARGIN = 0.25  # of the region's width and height, on each side

Pooled = dict[Weighting | None, Tensor]
"""Weighting -> (n, dim) pooled tokens of n regions; None -> the CLS token of each one's photo."""


def crop_size(model: Any) -> int:
    """Input size for crops: a small region is enlarged even so.

    Example:
        >>> crop_size(model)  # doctest: +SKIP
        168
    """
    own = model.parts.backbone.preprocessing
    patch = int(own.patch_size)
    return patch * max(1, round(CROP_SHARE * float(own.size) / patch))


class Embeddings:
    """Embeds all samples under any `Choice`.

    Args:
        model: the model.
        kinds: all samples.
        photos: folder of the photos.
        cache: folder for features.
        weightings: besides those of the ladder.

    Example:
        >>> Embeddings(model, kinds, photos, cache).of(kinds[0], choice)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Captioner,
        kinds: Sequence[KindSamples],
        photos: Path,
        cache: Path,
        weightings: Sequence[Weighting] = (),
    ) -> None:
        self._model, self._kinds, self._photos, self._cache = model, kinds, photos, cache
        self._weightings = tuple(dict.fromkeys((*WEIGHTINGS, *weightings)))
        self._pooled: dict[tuple[int, str], Pooled] = {}
        self._cropped: dict[str, Tensor] = {}

    def of(self, kind: KindSamples, choice: Choice) -> Tensor:
        """(regions, dim) float32, in the order of `kind.regions`; not normalised."""
        if (choice.size, kind.kind) not in self._pooled:
            self._pool(choice.size)
        pooled = self._pooled[choice.size, kind.kind]
        rows, cls = pooled[choice.weighting], pooled.get(None)
        if cls is not None and choice.context:
            rows = F.normalize(rows, dim=1) + choice.context * F.normalize(cls, dim=1)
        if not choice.crop_share:
            return rows
        small = torch.tensor([asked.area_share < choice.crop_below for asked in kind.regions])
        crops = self.crops(kind)
        mixed = F.normalize(rows, dim=1) + choice.crop_share * F.normalize(crops, dim=1)
        return torch.where(small[:, None], mixed, rows)

    def crops(self, kind: KindSamples) -> Tensor:
        """(regions, dim): the embedding of each small region's crop as a whole photo; zeros for larger ones."""
        if kind.kind not in self._cropped:
            encoder: Any = resized(self._model, crop_size(self._model))
            cache = FeatureCache(self._cache, encoder)
            asked = kind.regions
            found = torch.zeros(len(asked), encoder.parts.backbone.dim)
            small = [row for row, one in enumerate(asked) if one.area_share < max(CROP_AREAS)]
            bar = progress(
                small, description=f"crops of {kind.kind}", total=len(small), unit="crop"
            )
            for row in bar:
                features = cache.of(self._crop(asked[row]))
                found[row] = encoder.embed_regions(features, [WholeImage()])[0]
            self._cropped[kind.kind] = found
        return self._cropped[kind.kind]

    def _crop(self, asked: AskedRegion) -> Any:
        image = load_image(str(self._photos / asked.photo))
        geometry: Any = self._geometry(image.size)
        left, top, right, bottom = region_bounds(asked.region, geometry)
        across, down = CROP_MARGIN * (right - left), CROP_MARGIN * (bottom - top)
        wide = (max(0.0, left - across), max(0.0, top - down), right + across, bottom + down)
        return cut_out(image, wide)

    def _geometry(self, size: tuple[int, int]) -> Any:
        model: Any = self._model
        return model.parts.backbone.geometry(size)

    def _pool(self, size: int) -> None:
        """Read each photo's features once and pool all its regions of all kinds under all weightings."""
        cache = FeatureCache(self._cache, resized(self._model, size))
        asked: dict[str, list[tuple[str, int, AskedRegion]]] = {}
        for kind in self._kinds:
            for row, one in enumerate(kind.regions):
                asked.setdefault(one.photo, []).append((kind.kind, row, one))
        rows: dict[tuple[str, Weighting | None], dict[int, Tensor]] = {}
        bar = progress(sorted(asked), description=f"{size} px", total=len(asked), unit="photo")
        for photo in bar:
            features = cache.of(load_image(str(self._photos / photo)))
            regions = [one.region for _, _, one in asked[photo]]
            tables: Pooled = {w: pool_regions(features, regions, w) for w in self._weightings}
            if features.cls is not None:
                tables[None] = features.cls.expand(len(regions), -1)
            for weighting, table in tables.items():
                for (kind_name, row, _), found in zip(asked[photo], table, strict=True):
                    rows.setdefault((kind_name, weighting), {})[row] = found
        for (kind_name, weighting), found_rows in rows.items():
            ordered = torch.stack([found_rows[row] for row in range(len(found_rows))])
            self._pooled.setdefault((size, kind_name), {})[weighting] = ordered
