"""What every region is, the weights that it gives the patches, and the one weighted sum for all regions.

A kind of region is ONE `Shape`: it says how it covers patches, is drawn, and is written as JSON. torch is for tokens.
"""

from __future__ import annotations

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import OptionError, RegionError
from patchioner.base.files import check
from patchioner.geometry import ImageGeometry

if TYPE_CHECKING:
    from torch import Tensor

    from patchioner.backbones import PatchFeatures

Kind = Literal["uniform", "gaussian", "attention", "cls"]
Rounding = Literal["coverage", "reference"]
Floats = npt.NDArray[np.floating]
Maps = npt.NDArray[np.float32]  # weights over patches
Indices = npt.NDArray[np.int64]
Size = tuple[int, int]
Footprints = tuple[Floats, Floats]  # of n regions on one grid: (n, h, w) covers that sum to 1; (n, 4) XYXY grid extents

_SHAPES, _REGIONS = 1024, 4096  # weighted, and pooled, at a time: bounds on temporary arrays
_FLAT_VARIANCE = 100.0  # from here on the published system takes the whole image's Gaussian for flat
_SAME_DISTANCE = 1e-9  # distances from the middle that differ by less are the same
_NONE = "and it gives none; use 'uniform' or 'gaussian'"


@dataclass(frozen=True, eq=False)
class Outline:
    """One part of a region as it is drawn.

    Attributes:
        style: "box" (two corners), "point", "line" (open), "ring" (closed) or "mask".
        points: (n, 2) float pixels of the original image; of a mask the corners around it.
        mask: (height, width) bool of the original image, for "mask" alone.
    """

    style: Literal["box", "point", "line", "ring", "mask"]
    points: Floats
    mask: npt.NDArray[np.bool_] | None = None


class Bounds(tuple[float, ...]):
    """What `Region.bounds` is: a tuple of the extent as given, and callable with a geometry."""

    _region: Region

    def __call__(self, geometry: ImageGeometry) -> tuple[float, float, float, float]:
        """XYXY float pixels, cut at the image's edges; RegionError where the model sees nothing."""
        corners = [shape.corners_on(geometry) for shape, _ in self._region.leaves()]
        x1, y1, x2, y2 = np.clip(around(np.concatenate(corners)), 0.0, geometry.image_size).ravel().tolist()
        return x1, y1, x2, y2


class Region(ABC):
    """A part of an image, in pixels of the original image (x right, y down); an immutable value without the image.

    Attributes:
        kind: the name of this kind of region in settings, such as "box".
        json_key, json_extras: where `to_json` writes it, if not under its `kind`, and attributes beside it.
    """

    kind: ClassVar[str]
    json_key: ClassVar[str] = ""
    json_extras: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def leaves(self) -> Iterator[tuple[Shape, float]]:
        """The single shapes this region is made of, each with its share; shares sum to 1."""

    # What a kind says of itself, for `describe`, `to_json` and `from_json`:

    @abstractmethod
    def _words(self) -> str: ...

    @abstractmethod
    def _value(self) -> object: ...

    @classmethod
    @abstractmethod
    def _parse(cls, entry: Mapping[str, Any], folder: Path | None) -> Region: ...

    def describe(self) -> str:
        """A few words: ``box 10,20,200,220``."""
        return f"{self.json_key or self.kind} {self._words()}"

    def to_json(self) -> dict[str, Any]:
        """A dictionary ready for JSON that `from_json` and region files read."""
        return {self.json_key or self.kind: self._value()} | {one: getattr(self, one) for one in self.json_extras}

    @staticmethod
    def json_keys() -> dict[str, type[Region]]:
        """Every kind of region, by the key that `to_json` writes it under."""
        return {one.json_key or kind: one for kind, one in sorted(region_kinds().items())}

    @staticmethod
    def from_json(entry: object, folder: Path | None = None) -> Region:
        """What `to_json` wrote, such as ``{"box": [x1, y1, x2, y2]}``; RegionError for what is no region of one kind.

        `folder`: where pictures of masks lie; without it an entry may name no file.
        """
        keys = Region.json_keys()
        if not isinstance(entry, Mapping):
            raise RegionError(f"a region is a dictionary as {{'box': [...]}}, not {entry!r:.80}")
        given = [key for key in entry if key in keys]
        extras = keys[given[0]].json_extras if len(given) == 1 else ()
        known, use_one = [*keys, "normalized", "label", "id"], f"use one of {', '.join(keys)}"
        for key in entry:
            if key not in (*given, *extras):
                close = difflib.get_close_matches(str(key), known, n=1)
                guess = f"did you mean {close[0]!r}? " if close else ""
                raise RegionError(f"key {str(key)!r:.80} does not belong here; {guess}{use_one}")
        if len(given) != 1:
            raise RegionError(f"a region has exactly one kind, this one {len(given)}; {use_one}")
        return keys[given[0]]._parse(entry, folder)

    def outline(self, image_size: Size, geometry: ImageGeometry | None = None) -> list[Outline]:
        """What to draw on an image of (width, height) pixels; only a `Patch` needs the geometry."""
        return [part for shape, _ in self.leaves() for part in shape._drawn(image_size, geometry)]

    def require_fit(self, image_size: Size) -> None:
        """RegionError for a mask of another (width, height), or numbers that are 0..1 where pixels are meant."""
        for shape, _ in self.leaves():
            shape.require_fit(image_size)

    @property
    def bounds(self) -> Bounds:
        """``bounds(geometry)``: the box around it, XYXY float pixels of the original image.

        Of boxes, masks and polygons their own extent, cut at the image's edges; of other kinds that of their patches.
        Uncalled, a tuple: the extent as given, empty where only an image can tell it.
        """
        extents = [shape.extent() for shape, _ in self.leaves()]
        known = [one for one in extents if one is not None]
        bounds = Bounds(around(np.concatenate(known)).ravel().tolist() if len(known) == len(extents) else ())
        bounds._region = self
        return bounds

    def patch_weights(
        self, geometry: ImageGeometry, weighting: Weighting | None = None, attention: object = None
    ) -> Maps:
        """Weights over the patch grid, (h, w) float32; see `region_weights`."""
        return np.asarray(region_weights([self], geometry, weighting, attention)[0])


class Shape(Region):
    """A single shape: all kinds but sets. Shapes of one kind are handled together.

    Attributes:
        reference_is_span: under reference rounding it covers a rectangle of whole patches.
        reference_is_flat: under reference rounding a wide Gaussian counts every patch alike.
        extent_is_given: `extent` bounds its area, not only points or a line.
    """

    reference_is_span: ClassVar[bool] = False
    reference_is_flat: ClassVar[bool] = False
    extent_is_given: ClassVar[bool] = False

    @abstractmethod
    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]: ...

    @classmethod
    @abstractmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """Where the shapes lie on the grid, in order; RegionError for one off the view."""

    def leaves(self) -> Iterator[tuple[Shape, float]]:
        """Itself, with the whole share."""
        yield self, 1.0

    def extent(self) -> Floats | None:
        """[[x1, y1], [x2, y2]] pixels as given, None where they depend on the image."""
        return None

    def corners_on(self, geometry: ImageGeometry) -> Floats:
        """[[x1, y1], [x2, y2]] pixels on an image; RegionError where the model sees nothing."""
        weights = self.patch_weights(geometry)
        extent = self.extent() if self.extent_is_given else None
        return geometry.to_pixels(true_extent(weights)) if extent is None else extent

    def require_fit(self, image_size: Size) -> None:
        """See `Region.require_fit`."""
        extent = self.extent()
        if extent is None or extent.max() > 1.0 or min(image_size) <= 2:
            return
        if extent.min() >= 0.0 and (extent % 1.0).any():
            raise RegionError(f"{self!r:.60} lies within 0..1; give pixels of {image_size[0]} x {image_size[1]}")

    def reference_length(self, geometry: ImageGeometry, attended: Floats | None) -> float:
        """What the weighted mean is multiplied by for the published embedding; `attended` is (h, w), of attention."""
        return 1.0


def region_kinds() -> dict[str, type[Region]]:
    """Every kind of region that is defined, by its `kind`."""
    return {one.kind: one for one in (*Region.__subclasses__(), *Shape.__subclasses__()) if "kind" in vars(one)}


def items_of(values: object, what: str) -> list[Any]:
    """A list of them; RegionError for a string or a single value."""
    try:
        if not isinstance(values, (str, bytes)):
            return list(values)  # type: ignore[call-overload,no-any-return]
    except TypeError:  # arrays and tensors without an axis only look as if they had items
        pass
    raise RegionError(f"{what} is {values!r:.80}; give a list")


def listed(regions: object, what: str = "region") -> list[Region]:
    """The regions; RegionError for anything else, or for one that is not in a list."""
    if isinstance(regions, Region):
        raise RegionError(f"give a list of regions, as in [{regions!r:.80}]")
    found = items_of(regions, "the list of regions")
    for index, one in enumerate(found):
        if not isinstance(one, Region):
            raise RegionError(f"{what} {index} is {one!r:.80}, no region; wrap it, as in Mask(one) or Box(*one)")
    return found


def around(points: Floats) -> Floats:
    """[[x1, y1], [x2, y2]], the box around (n, 2) points."""
    return np.stack([points.min(axis=0), points.max(axis=0)])


def true_extent(cells: npt.NDArray[Any]) -> Floats:
    """[[left, top], [right, bottom]] edges of what is not zero in an (h, w) array."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    return np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)


def as_numpy(values: object) -> npt.NDArray[np.generic]:
    """An array of anything array-like; a torch tensor may sit on any device or want gradients."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu().to_dense()
        half = str(tensor.dtype) == "torch.bfloat16"  # numpy has none
        return np.asarray((tensor.float() if half else tensor).numpy())
    try:
        return np.asarray(values)
    except ValueError:
        raise RegionError("the array is ragged: give rows of one length") from None


@dataclass(frozen=True)
class Weighting:
    """What a patch of a region counts for; OptionError for a value outside of these.

    Args:
        kind: ``uniform``: by the share of the patch that the region covers. ``gaussian``: that, times
            exp(-(u^2 + v^2) / variance), u and v from -1 to 1 over the region's extent. ``attention``: that, times the
            image's CLS attention, or the coverage alone where that is zero. ``cls``: the image's CLS token whatever
            the region, with weights of ``uniform``.
        variance: of the Gaussian, finite and not negative; 0 is the one patch nearest to the middle (of several, the
            upper left). There is no factor 2, as published.
        rounding: ``coverage`` is exact. ``reference`` repeats the published arithmetic, to 1e-5, for boxes, sets of
            boxes, traces and the whole image (docs/reference_mode.md has every difference); a RegionError where the
            published result is NaN.
        seed: an integer; of the choice of a middle under reference rounding and variance 0.
        head: for ``attention``: the one head whose map counts, from 0; None is their mean.
        foreground: from 0 on; patches that are like the region, and unlike what is around it up to three times its
            width and height, count exp(foreground * (cosine with the one - cosine with the other)) times as much.
            That takes tokens: `feature_weights` and `pool_regions` know it; reference rounding does not.

    Example:
        >>> Weighting("gaussian", variance=0.5).rounding
        'coverage'
    """

    kind: Kind = "uniform"
    variance: float = 1.0
    rounding: Rounding = "coverage"
    seed: int = 0
    head: int | None = None
    foreground: float = 0.0

    def __post_init__(self) -> None:
        check(get_args(Kind), kind=self.kind)
        check(get_args(Rounding), rounding=self.rounding)
        check("[0, inf)", variance=self.variance)
        check("int (-inf, inf)", seed=self.seed)
        check("int [0, inf) or None", head=self.head)
        check("[0, 100]", foreground=self.foreground)
        if self.foreground and self.rounding == "reference":
            raise OptionError(f"foreground is {self.foreground}; it needs rounding='coverage'")


def pool_regions(features: PatchFeatures, regions: Iterable[Region], weighting: Weighting | None = None) -> Tensor:
    """The embedding of each region: the weighted sum of the patch tokens, or with ``Weighting("cls")`` the CLS token.

    Args:
        features: one encoded image, tokens (h, w, dim) float.
        regions: any kinds mixed, ``n`` of them; may be none.
        weighting: uniform exact coverage by default.

    Returns:
        (n, dim) tensor in the order of the regions, float32, on the tokens' device. Not normalised.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: attention or the CLS token is asked for but the features have none.

    Example:
        >>> embeddings = pool_regions(features, [Box(10, 20, 200, 220), WholeImage()])
    """
    import torch

    weighting = weighting or Weighting()
    found, tokens = listed(regions), features.tokens.flatten(0, 1).float()
    if len(found) > _REGIONS:
        blocks = [found[start : start + _REGIONS] for start in range(0, len(found), _REGIONS)]
        return torch.cat([pool_regions(features, block, weighting) for block in blocks])
    # Also for the CLS token: a region that the model does not see is an error all the same.
    weights = tokens.new_tensor(feature_weights(features, found, weighting))
    if weighting.kind == "cls":
        if features.cls is None:
            raise OptionError(f"Weighting('cls') needs the backbone's CLS token, {_NONE}")
        return features.cls.float().to(tokens.device).expand(len(found), -1)
    pooled = weights.flatten(1) @ tokens
    if weighting.rounding == "coverage":
        return pooled
    # Weighted means are not the published embeddings of traces and whole images; those of sets are.
    geometry = features.geometry
    attended = _attention_map(_attention(features, weighting), geometry.grid, weighting)
    lengths = [one.reference_length(geometry, attended) if isinstance(one, Shape) else 1.0 for one in found]
    return pooled * pooled.new_tensor(lengths)[:, None]


def feature_weights(features: PatchFeatures, regions: Iterable[Region], weighting: Weighting | None = None) -> Maps:
    """The weights that `pool_regions` gives the patches, (n, h, w) float32: `region_weights` of encoded images."""
    weighting = weighting or Weighting()
    geometry, attention = features.geometry, _attention(features, weighting)
    weights = region_weights(regions, geometry, weighting, attention)
    if not weighting.foreground or not len(weights):
        return weights
    from patchioner.regions.shapes import WholeImage

    whole = region_weights([WholeImage()], geometry, weighting, attention)
    return _foreground(features, weights, whole * _surroundings(weights > 0), weighting.foreground)


def _surroundings(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The cells around each of n (h, w) maps, up to three times its width and height."""
    near = np.ones(cells.shape, dtype=bool)
    for axis in (1, 2):
        seen, size = np.asarray(cells.any(axis=3 - axis)), cells.shape[axis]
        first = seen.argmax(axis=1, keepdims=True)
        last = size - seen[:, ::-1].argmax(axis=1, keepdims=True)
        places = np.arange(size)
        near &= np.expand_dims((places >= 2 * first - last) & (places < 2 * last - first), 3 - axis)
    return near & ~cells


def _foreground(features: PatchFeatures, weights: Floats, around: Floats, sharpness: float) -> Maps:
    """(n, h, w) weights by how much more a patch is like its region than like what is `around` it, (n, h, w)."""
    import torch
    from torch.nn import functional as F

    tokens = features.tokens.flatten(0, 1).float()
    own, other = (tokens.new_tensor(one).flatten(1) for one in (weights, around))
    inside, outside = (F.normalize(one @ tokens, dim=1) for one in (own, other))
    lead = (inside - outside) @ F.normalize(tokens, dim=1).T
    lead.masked_fill_((own == 0) | (other.sum(dim=1, keepdim=True) == 0), -torch.inf)
    top = lead.amax(dim=1, keepdim=True)
    own = torch.where(top.isfinite(), own * (sharpness * (lead - top)).exp(), own)
    return np.asarray((own / own.sum(dim=1, keepdim=True)).view(weights.shape).cpu().numpy(), dtype=np.float32)


def _attention(features: PatchFeatures, weighting: Weighting) -> Tensor | None:
    """The attention map that the weighting wants; reference mode takes the published one."""
    if weighting.kind != "attention" or weighting.rounding == "coverage":
        return features.attention
    found = features.reference_attention if weighting.head is None else features.reference_heads
    if found is None:
        raise OptionError(f"the attention as published is needed, {_NONE}, or rounding='coverage'")
    return found


def region_weights(
    regions: Iterable[Region], geometry: ImageGeometry, weighting: Weighting | None = None, attention: object = None
) -> Maps:
    """Weights of ``n`` regions, any kinds mixed, over one image's patch grid.

    Args:
        geometry: how the original image maps to the patch grid.
        weighting: uniform exact coverage by default.
        attention: (heads, h, w) or (h, w) array or tensor, non-negative, for ``Weighting("attention")``; published
            numbers want `PatchFeatures.reference_attention`.

    Returns:
        (n, h, w) float32 in the order of the regions, non-negative, every map sums to 1.

    Raises:
        RegionError: the model sees nothing of a region.
        OptionError: attention is asked for but missing, or does not fit the grid.
    """
    weighting = weighting or Weighting()
    attended = _attention_map(attention, geometry.grid, weighting)
    kinds: dict[type[Shape], list[tuple[Shape, int, float]]] = {}
    found = listed(regions)
    for owner, region in enumerate(found):
        for shape, share in region.leaves():
            kinds.setdefault(type(shape), []).append((shape, owner, share))
    out = np.zeros((len(found), *geometry.grid), dtype=np.float32)
    for kind, leaves in kinds.items():
        for start in range(0, len(leaves), _SHAPES):
            block = leaves[start : start + _SHAPES]
            placed = kind.place([shape for shape, _, _ in block], geometry, weighting.rounding == "reference")
            for (_, owner, share), one in zip(block, _weigh(kind, placed, weighting, attended), strict=True):
                out[owner] += share * one
    return out


def _attention_map(attention: object, grid: tuple[int, int], weighting: Weighting) -> Floats | None:
    """(h, w) float64 mean over the heads, or one head's map, checked; None where none counts."""
    if weighting.kind != "attention":
        return None
    if attention is None:
        raise OptionError(f"Weighting('attention') needs the backbone's attention, {_NONE}")
    maps = np.asarray(as_numpy(attention), dtype=np.float64)
    if maps.ndim not in (2, 3) or maps.shape[-2:] != tuple(grid):
        raise OptionError(f"attention has shape {maps.shape}; give (heads, {grid[0]}, {grid[1]})")
    if not np.isfinite(maps).all() or (maps < 0).any():
        raise OptionError("attention holds negative or non-finite values; give softmax weights")
    if weighting.head is None:
        return np.asarray(maps.mean(axis=0) if maps.ndim == 3 else maps)
    if maps.ndim == 2 or weighting.head >= len(maps):
        heads = "no single heads" if maps.ndim == 2 else f"{len(maps)} heads"
        raise OptionError(f"head {weighting.head} is asked for, but the attention has {heads}")
    return np.asarray(maps[weighting.head])


def _weigh(kind: type[Shape], placed: Footprints, weighting: Weighting, attended: Any) -> Floats:
    """(n, h, w) weights that sum to 1 each."""
    (cover, extents), variance = placed, weighting.variance
    if attended is not None:
        # Scaled to at most 1 first: denormal attention would lose its precision in the product.
        peak = np.where(cover > 0, attended, 0.0).max(axis=(1, 2), keepdims=True)
        seen = peak > 0.0
        return _normalised(np.where(seen, cover * (attended / np.where(seen, peak, 1.0)), cover))
    if weighting.kind in ("uniform", "cls"):
        return cover
    if weighting.rounding == "reference":
        if variance >= _FLAT_VARIANCE and kind.reference_is_flat:
            return cover
        if variance == 0.0 and kind.reference_is_span:
            return published_middle(extents, cover.shape[1:], weighting.seed)
    return _by_gaussian(cover, extents, variance)


def _normalised(weights: Floats) -> Floats:
    return np.asarray(weights / weights.sum(axis=(1, 2), keepdims=True))


def _by_gaussian(cover: Floats, extents: Floats, variance: float) -> Floats:
    """Coverage times exp(-(u^2 + v^2) / variance), normalised."""
    low, high = extents[:, :2], extents[:, 2:]
    centre, half = (low + high) / 2, (high - low) / 2
    u = _places(cover.shape[2], centre[:, 0], half[:, 0])[:, None, :]
    v = _places(cover.shape[1], centre[:, 1], half[:, 1])[:, :, None]
    covered = cover > 0
    if variance == 0.0:  # one-hot at the patch nearest to the middle; of several, the first
        squared = np.where(covered, np.square(v) + np.square(u), np.inf)
        least = squared.min(axis=(1, 2), keepdims=True)
        near = squared <= least + _SAME_DISTANCE * (1.0 + least)
        rows, columns = np.divmod(near.reshape(len(cover), -1).argmax(axis=1), cover.shape[2])
        return one_hot(columns, rows, cover.shape[1:])
    # A patch that is only partly covered may have its centre outside of the extent.
    squared = np.square(np.clip(v, -1.0, 1.0)) + np.square(np.clip(u, -1.0, 1.0))
    # Measured from the nearest covered patch: a narrow Gaussian must not vanish everywhere.
    squared -= np.where(covered, squared, np.inf).min(axis=(1, 2), keepdims=True)
    with np.errstate(over="ignore", under="ignore"):
        return _normalised(cover * np.exp(-np.where(covered, squared, 0.0) / variance))


def _places(cells: int, centre: Floats, half: Floats) -> Floats:
    """(n, cells) place of each cell's centre in its extent, -1..1; 0 where that has no width."""
    distance = np.arange(cells) + 0.5 - centre[:, None]
    return np.where(half[:, None] > 0.0, distance / np.maximum(half, 1e-6)[:, None], 0.0)


def one_hot(columns: Indices, rows: Indices, grid: tuple[int, int]) -> Floats:
    """(n, h, w) float32 maps with a single 1 each."""
    cover = np.zeros((len(columns), *grid), dtype=np.float32)
    cover[np.arange(len(columns)), rows, columns] = 1.0
    return cover


def published_middle(extents: Floats, grid: tuple[int, int], seed: int) -> Floats:
    """(n, h, w) one-hot maps at the middle of rectangles of whole patches; of two, as seed and rectangle decide."""
    spans = np.rint(extents - 0.5).astype(np.int64)
    texts = [f"{seed} {span}".encode() for span in spans.tolist()]
    draws = np.array([hashlib.blake2b(text, digest_size=1).digest()[0] for text in texts])
    coins = np.stack([draws & 1, draws >> 1 & 1], axis=1)
    total = spans[:, :2] + spans[:, 2:]
    # An odd sum of both ends is an even number of patches: two middles, of which the published system draws one.
    middle = total // 2 + (total % 2) * coins
    return one_hot(middle[:, 0], middle[:, 1], grid)
