"""Options of the authors' interface, with their arithmetic: registers, single heads, cleaning, a double pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones import Backbone, PatchFeatures
from patchioner.backbones.vit import IdentityHead, TimmViT, is_plain_block
from patchioner.base.errors import OptionError, RegionError
from patchioner.base.files import check, settings_from
from patchioner.checkpoints.folder import Crop, Parts
from patchioner.embedding import project
from patchioner.geometry import ImageGeometry
from patchioner.model import Patchioner, Regions
from patchioner.pipeline import Embedded
from patchioner.regions import Box, Region, RegionSet, Trace, Weighting, WholeImage, feature_weights
from patchioner.regions.shapes import reference_model_boxes

Context = Literal["cls", "attention"]
Reading = Literal["avg", "cls", "gaussian_avg"]
Name = Literal["registers", "heads", "double_pass", "orthogonal_projection", "contrastive_mask"]


@dataclass(frozen=True)
class PublishedOption:
    """One option of the authors' interface; OptionError for a value outside of these.

    Args:
        name: "registers" or "heads": a caption of each register token, or of each published attention head, whatever
            the regions. "orthogonal_projection" or "contrastive_mask": tokens are cleaned first (`clean_features`).
            "double_pass": the last block runs once more on each region's tokens (`double_pass`).
        context, alpha, after_projection: of cleaning.
        reading: of the double pass.
    """

    name: Name
    context: Context = "cls"
    alpha: float = 1.0
    after_projection: bool = True
    reading: Reading = "avg"

    def __post_init__(self) -> None:
        check(get_args(Name), name=self.name)
        check(get_args(Context), context=self.context)
        check(get_args(Reading), reading=self.reading)
        check("(-inf, inf)", alpha=self.alpha)

    @classmethod
    def of(cls, text: str) -> PublishedOption:
        """Read ``NAME,KEY=VALUE,...``.

        Example:
            >>> PublishedOption.of("orthogonal_projection,alpha=0.5,after_projection=false").alpha
            0.5
        """
        name, *pairs = text.split(",")
        words: dict[str, Any] = dict(pair.partition("=")[::2] for pair in pairs)
        read: dict[str, Callable[[str], Any]] = {
            "alpha": float,
            "after_projection": {"true": True, "false": False}.__getitem__,
        }
        try:
            words |= {key: read[key](words[key]) for key in read.keys() & words.keys()}
        except (ValueError, KeyError):
            wanted = "alpha is a number, after_projection true or false"
            raise OptionError(f"{text!r:.80}: {wanted}") from None
        return settings_from(cls, {**words, "name": name}, f"{text!r:.80}")


class PublishedCaptioner(Patchioner):
    """A captioner with one option of the authors' interface; its captions are plain and have no confidence.

    Its `embed_regions` gives what goes into the decoder: behind the memory projection, where the model has one. Of
    cleaned tokens it is repeated for what the authors project twice: sets, traces, whole images, the CLS token.

    Example:
        >>> option = PublishedOption("double_pass", reading="cls")
        >>> PublishedCaptioner(model.parts, option).caption("photo.jpg", [Box(0, 0, 99, 99)])
    """

    def __init__(self, parts: Parts, option: PublishedOption, **how: Any) -> None:
        own = parts.settings.kinds
        kinds = {kind: replace(own[kind], guidance=None, candidates=None) for kind in own}
        changed: dict[str, Any] = {"kinds": kinds, "crop_candidates": None, "calibration": {}}
        plain = replace(parts.settings, **changed, projection="raw")
        super().__init__(replace(parts, settings=plain), **how)
        self.option, self._published = option, parts.settings

    def _project(self, rows: Tensor) -> Tensor:
        return project(rows, self._published, self._placed.bank)

    def _embed(
        self, features: PatchFeatures, asked: Regions, weighting: Weighting | None, crop: Crop | None
    ) -> Embedded:
        if self.option.name not in ("registers", "heads"):
            return super()._embed(features, asked, weighting, crop)
        if callable(asked):
            asked(features.geometry)  # who asks may wait for it
        of_all = register_embeddings if self.option.name == "registers" else head_embeddings
        rows = self._project(of_all(features))
        return Embedded([WholeImage()] * len(rows), rows, {})

    def embed_regions(
        self,
        features: PatchFeatures,
        regions: Sequence[Region],
        weighting: Weighting | None = None,
        *,
        crop: Crop | None = None,
    ) -> Tensor:
        """(n, dim) float32 as they go into the decoder; see the class and `Patchioner.embed_regions`."""
        option = self.option
        if option.name == "double_pass":
            how = option.reading, weighting or self.settings.weighting
            return self._project(double_pass(self._placed.backbone, features, regions, *how))
        cleaned = clean_features(features, self._project, option)
        rows = super().embed_regions(cleaned, regions, weighting, crop=crop)
        twice = [
            (weighting or self.settings.for_region(region)[0]).kind == "cls"
            or isinstance(region, RegionSet | Trace | WholeImage)
            for region in regions
        ]
        return torch.where(torch.tensor(twice)[:, None].to(rows.device), self._project(rows), rows)

    def __reduce__(self) -> tuple[Any, ...]:
        make, _ = super().__reduce__()
        given = replace(self.parts, settings=self._published)
        return partial(make, option=self.option), (given,)


def register_embeddings(features: PatchFeatures) -> Tensor:
    """The register tokens, (count, dim): what `get_register_capts` captions; OptionError without registers."""
    return _there(features.registers, "registers: use one with 'reg' in its name")


def attention_embedding(features: PatchFeatures) -> Tensor:
    """`avg_self_attn_token`, (dim,): the mean over patches, not the sum, of attention times token."""
    attention = _there(features.reference_attention, "attention of its CLS token: use another one")
    weighted = attention.flatten()[:, None] * features.tokens.flatten(0, 1)
    return weighted.mean(dim=0)


def head_embeddings(features: PatchFeatures) -> Tensor:
    """`attn_heads_capts`: for each published head the mean over patches of its map times token, (slices, dim)."""
    heads = _there(features.reference_heads, "attention of single heads: use another one")
    tokens = features.tokens.flatten(0, 1)
    return heads.flatten(1) @ tokens / len(tokens)


def _there(part: Tensor | None, what: str) -> Tensor:
    if part is None:
        raise OptionError(f"the backbone has no {what}")
    return part


def clean_features(
    features: PatchFeatures, project: Callable[[Tensor], Tensor], option: PublishedOption
) -> PatchFeatures:
    """Take the photo's context out of every patch token, as `cleaning_type` does; the result is projected already.

    OptionError for a context that the backbone does not have.

    Args:
        project: (n, dim) -> (n, dim), the memory projection, e.g. ``model.parts.bank.project``.
        option: its name is "orthogonal_projection", t - alpha (t . c / c . c) c, or "contrastive_mask",
            t (1 - c / (|c| + 1e-6)); its context c, the CLS token or `attention_embedding`. With `after_projection`,
            tokens and context are projected and cleaned then; else both are scaled to unit length, cleaned, and what
            comes out is projected.
    """
    step = project if option.after_projection else F.normalize
    by_cls = option.context == "cls"
    own = _there(features.cls, "CLS token: clean by attention") if by_cls else None
    own = step((attention_embedding(features) if own is None else own)[None])
    tokens = step(features.tokens.flatten(0, 1))
    if option.name == "orthogonal_projection":
        share = (tokens @ own.T) / own.square().sum()
        cleaned = tokens - option.alpha * share * own
    else:
        cleaned = tokens * (1 - own / (own.norm() + 1e-6))
    if not option.after_projection:
        cleaned = project(cleaned)
    return replace(features, tokens=cleaned.view_as(features.tokens))


@torch.inference_mode()
def double_pass(
    backbone: Backbone,
    features: PatchFeatures,
    regions: Sequence[Region],
    reading: Reading = "avg",
    weighting: Weighting | None = None,
) -> Tensor:
    """The authors' "double DINO": CLS, registers and a region's patch tokens once more through the last block.

    What goes in are the outputs of that block behind the final norm, as published.

    Args:
        backbone: that gave the features; a plain ViT without a visual head.
        regions: n of them; of each the patches that have a weight. With ``rounding="reference"`` a `Box` is read as
            published: x, y, width and height as the patches of two corners, columns floor(x / p) .. floor(width / p).
        reading: "avg": the mean of the patches' outputs; "cls": the output at CLS; "gaussian_avg": as "avg", but the
            patches that go in are multiplied by the Gaussian of the weighting's variance (sum 1), not those that
            come out.
        weighting: its rounding and variance count; exact coverage by default.

    Returns:
        (n, dim) float32, not normalised.

    Raises:
        OptionError: another backbone, or features without a CLS token.
        RegionError: a region has no patch.
    """
    if not isinstance(backbone, TimmViT) or not isinstance(backbone.head, IdentityHead):
        raise OptionError("a double pass needs a plain vision transformer without a visual head")
    block, own = backbone.vit.blocks[-1], weighting or Weighting()
    if not is_plain_block(block):
        raise OptionError(f"{backbone.name} has no plain last block, which a double pass needs")
    if own.rounding == "reference":
        regions = [_by_corners(one, features.geometry) for one in regions]
    kind: Any = "gaussian" if reading == "gaussian_avg" else "uniform"
    maps = feature_weights(features, regions, replace(own, kind=kind, head=None))
    tokens, prefix = features.tokens.flatten(0, 1), _there(features.cls, "CLS token")[None]
    if features.registers is not None:
        prefix = torch.cat([prefix, features.registers])
    weight, rows = backbone.vit.patch_embed.proj.weight, []
    for weights in torch.from_numpy(maps).to(tokens.device).flatten(1):
        inside = weights > 0
        seen = tokens[inside]
        if reading == "gaussian_avg":
            seen = seen * weights[inside, None]
        given = torch.cat([prefix, seen])[None].to(weight.device, weight.dtype)
        found = block(given)[0].float()
        rows.append(found[0] if reading == "cls" else found[len(prefix) :].mean(dim=0))
    return torch.stack(rows)


def _by_corners(region: Region, geometry: ImageGeometry) -> Region:
    """A box whose patches under reference rounding are those that the double pass takes."""
    if not isinstance(region, Box):
        return region
    corners = np.array([[region.x1, region.y1, region.x2, region.y2]])
    cells = np.floor_divide(reference_model_boxes(corners, geometry), geometry.patch_size)[0]
    last = np.minimum(cells[2:], np.array(geometry.grid[::-1]) - 1)
    if (last < cells[:2]).any():
        raise RegionError(f"{region!r} as published has empty corners: use rounding='coverage'")
    # Well inside of the two patches, so that no rounding leads out of them.
    places = geometry.to_pixels(np.stack([cells[:2] + 0.25, last + 0.5]))
    return Box(*places.ravel().tolist())
