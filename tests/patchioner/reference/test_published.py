"""`rounding="reference"`, the attention map and the projection give the published numbers to 1e-5, lengths too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_bank import MemoryBank
from patchioner.backbones import PatchFeatures, TimmViT
from patchioner.backbones.vit import cls_attention, published_attention
from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import Fit, Preprocessing, fit_image
from patchioner.regions import (
    Box,
    Region,
    RegionSet,
    Trace,
    Weighting,
    WholeImage,
    feature_weights,
    pool_regions,
)
from tests.patchioner.reference import published
from tests.support import randn
from tests.support.language import spread
from tests.support.tiny import noise_photo

reference = partial(Weighting, rounding="reference")


# (side of the input, side of a patch): the published 37 x 37, CLIP's 14 x 14, an even and an odd small one.
INPUTS = [(518, 14), (224, 16), (140, 14), (56, 8), (35, 7)]


DIM = 3
XYWH = tuple[float, float, float, float]


def encoded(
    image_size: tuple[int, int], size: int, patch: int, mode: Fit = "stretch"
) -> PatchFeatures:
    side = size // patch
    return PatchFeatures(
        tokens=randn(side, side, DIM, seed=side),
        cls=randn(DIM),
        attention=torch.full((2, side, side), 1 / side**2),
        geometry=fit_image(image_size, mode=mode, size=size, patch_size=patch),
        reference_attention=randn(side**2, seed=2).softmax(0).view(side, side),
    )


def flat(features: PatchFeatures) -> torch.Tensor:
    return features.tokens.flatten(0, 1)


def attention_of(features: Any) -> Any:
    return features.reference_attention.double().tolist()


def close(ours: torch.Tensor, twin: Sequence[float]) -> None:
    torch.testing.assert_close(ours, torch.tensor(twin), atol=1e-5, rtol=1e-5)


@st.composite
def photos(draw: st.DrawFn, mode: Fit = "stretch") -> tuple[PatchFeatures, int, int]:
    size, patch = draw(st.sampled_from(INPUTS))
    side = st.integers(30, 700)
    return encoded((draw(side), draw(side)), size, patch, mode), size, patch


def some_box(draw: Any, image_size: tuple[int, int]) -> XYWH:
    """Whole pixels, as most annotations have, or any fraction of them."""
    width, height = image_size
    if draw(st.booleans()):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        return x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y))
    left, top = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
    return left, top, draw(st.floats(0.01, width - left)), draw(st.floats(0.01, height - top))


def twin_rectangle(
    features: PatchFeatures, box: XYWH, size: int, patch: int
) -> tuple[list[int], list[int]]:
    map_ = published.cropped if features.geometry.fit == "crop" else published.stretched
    model_box = map_(box, features.geometry.image_size, size)
    return published.rectangle(model_box, patch, size // patch)


VARIANCES = st.one_of(st.sampled_from([0.5, 1.0, 100.0]), st.floats(0.1, 1000))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["stretch", "crop"]))
def test_boxes(data: st.DataObject, mode: Fit) -> None:
    features, size, patch = data.draw(photos(mode))
    box = some_box(data.draw, features.geometry.image_size)
    columns, rows = twin_rectangle(features, box, size, patch)
    side, tokens = size // patch, flat(features)
    variance = data.draw(VARIANCES)
    regions = [Box.from_xywh(*box)]
    attended = published.cut_attention(columns, rows, attention_of(features))
    for weighting, expected in (
        (reference(), published.uniform(columns, rows, side)),
        (reference("gaussian", variance), published.gaussian(columns, rows, variance, side)),
        (reference("attention"), attended),
    ):
        ours = pool_regions(features, regions, weighting)[0]
        close(ours, published.weighted_sum(expected, tokens))
    drawn = feature_weights(features, regions, reference("gaussian", 0))[0].tolist()
    assert drawn in published.centres(columns, rows, side)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["stretch", "crop"]))
def test_sets_count_every_box_alike_and_skip_padding(data: st.DataObject, mode: Fit) -> None:
    features, size, patch = data.draw(photos(mode))
    side, tokens = size // patch, flat(features)
    count = data.draw(st.integers(1, 4))
    boxes = [some_box(data.draw, features.geometry.image_size) for _ in range(count)]
    padded = [*boxes, (-1.0, -1.0, -1.0, -1.0)]
    kept = [box for box in padded if not published.is_padding(box, patch)]
    spans = [twin_rectangle(features, box, size, patch) for box in kept]
    for weighting, maps in (
        (reference(), [published.uniform(*span, side) for span in spans]),
        (reference("gaussian", 0.7), [published.gaussian(*span, 0.7, side) for span in spans]),
    ):
        ours = pool_regions(features, [RegionSet.from_xywh(padded)], weighting)[0]
        close(ours, published.weighted_sum(published.set_of_boxes(maps), tokens))


COORDINATES = st.one_of(
    st.floats(-0.2, 1.2), st.integers(0, 37).map(lambda i: i / 37), st.sampled_from([0.3, 0.6, 0.7])
)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    mode=st.sampled_from(["stretch", "crop"]),
    points=st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=30),
)
def test_traces_are_counted_and_grow_with_their_points(
    data: st.DataObject, mode: Fit, points: list[tuple[float, float]]
) -> None:
    features, size, patch = data.draw(photos(mode))
    regions = [Trace([*points, points[0]], normalized=True)]
    counts = published.trace_counts([*points, points[0]], size // patch)
    if not any(map(any, counts)):  # a zero vector, and NaN further on
        with pytest.raises(RegionError, match="no point inside"):
            pool_regions(features, regions, reference())
        return
    attended = published.times(counts, attention_of(features))
    for weighting, expected in ((reference(), counts), (reference("attention"), attended)):
        ours = pool_regions(features, regions, weighting)[0]
        close(ours, published.weighted_mean(expected, flat(features)))


def test_division_by_a_tenth_lets_a_boundary_fall_low() -> None:
    features = encoded((640, 480), 140, 14)
    (weights,) = feature_weights(features, [Trace([(0.3, 0.0)], normalized=True)], reference())
    assert weights[0, 2] == 1
    assert published.trace_counts([(0.3, 0.0)], 10)[0][2] == 1
    # 0.3 x 10 would be 3: the default.
    (weights,) = feature_weights(features, [Trace([(0.3, 0.0)], normalized=True)])
    assert weights[0, 3] == 1


@pytest.mark.parametrize(("size", "patch"), INPUTS)
def test_the_whole_image(size: int, patch: int) -> None:
    features = encoded((640, 480), size, patch)
    side, tokens = size // patch, flat(features)
    cells = list(range(side))
    whole: list[Region] = [WholeImage()]
    for variance in (0.3, 1.0, 99.0):
        twin = published.weighted_sum(published.gaussian(cells, cells, variance, side), tokens)
        close(pool_regions(features, whole, reference("gaussian", variance))[0], twin)
    plain = published.weighted_sum(published.uniform(cells, cells, side), tokens)
    for weighting in (reference(), reference("gaussian", 100), reference("gaussian", 1e6)):
        close(pool_regions(features, whole, weighting)[0], plain)
    attended = published.weighted_mean(attention_of(features), tokens)
    close(pool_regions(features, whole, reference("attention"))[0], attended)
    drawn = feature_weights(features, whole, reference("gaussian", 0))[0].tolist()
    assert drawn in published.centres(cells, cells, side)
    assert features.cls is not None
    close(pool_regions(features, whole, reference("cls"))[0], features.cls.tolist())


def test_weights_sum_to_one_even_where_the_length_differs() -> None:
    features = encoded((640, 480), 56, 8)
    regions = [Trace([(1, 1), (600, 400), (1, 1)]), WholeImage(), Box(0, 0, 99, 99)]
    for kind in ("uniform", "gaussian", "attention", "cls"):
        sums = feature_weights(features, regions, reference(kind)).sum(axis=(1, 2))
        torch.testing.assert_close(torch.from_numpy(sums), torch.ones(3))


# The second overlaps the first in part; the third is elsewhere.
OVERLAPPING: list[XYWH] = [(0, 0, 30, 30), (30, 30, 30, 30), (100, 100, 20, 20)]


def test_attention_of_boxes_is_published_but_for_what_an_earlier_box_did_to_the_map() -> None:
    features = encoded((140, 140), 140, 14)
    regions = [Box.from_xywh(*box) for box in OVERLAPPING]
    ours = pool_regions(features, regions, reference("attention"))
    changed = attention_of(features)
    for index, box in enumerate(OVERLAPPING):
        columns, rows = published.rectangle(box, 14, 10)
        in_place, fresh = (
            published.weighted_sum(published.cut_attention(columns, rows, map_), flat(features))
            for map_ in (changed, attention_of(features))
        )
        close(ours[index], fresh)
        same = torch.allclose(ours[index], torch.tensor(in_place), atol=1e-5)
        assert same == (index != 1)


def test_the_draw_of_the_middle_follows_the_seed_alone() -> None:
    features = encoded((140, 140), 140, 14)
    even = [Box.from_xywh(14 * i, 14 * j, 14, 14) for i in range(9) for j in range(9)]
    seen = set()
    for seed in range(8):
        weighting = reference("gaussian", 0, seed=seed)
        weights = feature_weights(features, even, weighting)
        assert (weights == feature_weights(features, even, weighting)).all()
        for weight, box in zip(weights, even, strict=True):
            row, column = (int(axis[0]) for axis in weight.nonzero())
            seen.add((row - int(box.y1) // 14, column - int(box.x1) // 14))
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}
    seeded = [feature_weights(features, even, reference("gaussian", 0, seed=s)) for s in (0, 1)]
    assert (seeded[0] != seeded[1]).any()


def test_a_crop_shifts_boxes_instead_of_cutting_them_and_keeps_traces() -> None:
    # The crop shows x 60 .. 200 of 260: a box over x 20 .. 100 moves to 60 .. 140.
    features = encoded((260, 140), 140, 14, "crop")

    def columns(region: Region, weighting: Weighting | None = None) -> Any:
        (weights,) = feature_weights(features, [region], weighting)
        return weights[0].nonzero()[0].tolist()

    assert columns(Box(20, 0, 100, 10), reference()) == [0, 1, 2, 3, 4, 5]
    assert columns(Box(20, 0, 100, 10)) == [0, 1, 2]
    # Cut away whole: a sliver at the border, or the trace where it was; the default refuses.
    for region, column in ((Box(220, 0, 250, 10), 9), (Trace([(26.1, 1)]), 1)):
        assert columns(region, reference()) == [column]
        with pytest.raises(RegionError, match="outside what the model sees"):
            columns(region)


@pytest.mark.parametrize("mode", ["stretch", "crop"])
@pytest.mark.parametrize("box", [Box(700, 0, 720, 20), Box(0, -30, 20, -10), Box(-9, 3, 0, 9)])
def test_what_is_nan_as_published_is_an_error(mode: Fit, box: Box) -> None:
    with pytest.raises(RegionError, match="640x480"):
        pool_regions(encoded((640, 480), 56, 8, mode), [box], reference())


def test_a_backbone_without_the_published_map_says_so() -> None:
    features = encoded((640, 480), 56, 8)
    bare = PatchFeatures(features.tokens, None, features.attention, features.geometry)
    with pytest.raises(OptionError, match="as published.*rounding='coverage'"):
        pool_regions(bare, [WholeImage()], reference("attention"))
    assert pool_regions(bare, [WholeImage()], Weighting("attention")).shape == (1, DIM)


# The attention map, from the qkv output that a hook on the last block would see.


@pytest.mark.parametrize(
    ("name", "width", "heads"),
    [("vits14", 384, 6), ("vitb14", 768, 12), ("vitb14_reg", 768, 12), ("vitl14", 1024, 16)],
)
def test_sixteen_heads_are_taken_for_all_but_the_small_one(
    name: str, width: int, heads: int
) -> None:
    leading = 5 if "reg" in name else 1
    qkv = 2 * randn(leading + 9, 3 * width)
    parts = qkv.view(1, leading + 9, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    ours = published_attention(parts[0][:, :, :1], parts[1][:, :, leading:])[0]
    twin = published.self_attention(qkv, name)
    torch.testing.assert_close(ours, twin, atol=1e-6, rtol=1e-4)
    right = torch.softmax(parts[0][0, :, :1] @ parts[1][0, :, leading:].mT * 0.125, -1).mean(0)[0]
    assert float((twin - right).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_shares_sum_to_one_in_half_precision(kind: torch.dtype) -> None:
    query, keys = (randn(1, 12, n, 64, seed=n).to(kind) for n in (1, 1369))
    for maps in (cls_attention(query, keys), published_attention(query, keys)):
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


def test_a_tiny_network_end_to_end() -> None:
    torch.manual_seed(0)
    backbone = TimmViT("test_vit", Preprocessing("stretch", 64, 16))
    spread(backbone.vit.blocks, 3)
    seen: list[torch.Tensor] = []
    layer: Any = backbone.vit.blocks[-1].attn.qkv
    layer.register_forward_hook(lambda module, given, out: seen.append(out[0].detach()))
    features = backbone.encode([noise_photo(64, 48)])[0]
    twin = published.self_attention(seen[0], "vitb16")
    assert features.reference_attention is not None
    torch.testing.assert_close(features.reference_attention.flatten(), twin, atol=1e-6, rtol=1e-4)
    whole = pool_regions(features, [WholeImage()], reference("attention"))
    averaged = (twin[:, None] * flat(features)).mean(dim=0)
    torch.testing.assert_close(whole[0], averaged, atol=1e-5, rtol=1e-5)


# The projection: raw norms, zero rows dropped, both normalisations.


def memory(rows: int, dim: int) -> torch.Tensor:
    """Rows around a common direction, as embeddings of one space are, of unequal length."""
    units = torch.nn.functional.normalize(randn(1, dim) + randn(rows, dim, seed=1), dim=1)
    return units * (0.5 + randn(rows, 1, seed=2).abs().clamp(max=1))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("zero_rows", [True, False])
@pytest.mark.parametrize("dim", [16, 768])
def test_the_projection_is_the_published_one(dim: int, zero_rows: bool, normalize: bool) -> None:
    rows = memory(3000, dim)
    if zero_rows:
        rows[::7] = 0
    queries = 7 * (rows[1:20] + 0.03 * randn(19, dim, seed=3))
    bank = MemoryBank(rows, drop_zero_rows=zero_rows)
    ours = bank.project(queries, normalize=normalize)
    exact = published.projection(queries.double(), rows.double(), normalize)
    for expected in (exact.float(), published.projection(queries, rows, normalize)):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_more_than_one_row_speaks() -> None:
    """The test above would prove little if the softmax were one-hot."""
    rows = memory(3000, 768)
    sharp = MemoryBank(rows).project(rows.mean(dim=0, keepdim=True), normalize=False)
    assert float(sharp.norm()) < 0.9 * float(rows.norm(dim=1).max())
