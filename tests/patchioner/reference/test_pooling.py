"""`rounding="reference"` gives the published embeddings, length included, to 1e-5."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import Fit, fit_image
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

reference = partial(Weighting, rounding="reference")


# (side of the input, side of a patch): the published 37 x 37, CLIP's 14 x 14, an even and an odd small one.
INPUTS = [(518, 14), (224, 16), (140, 14), (56, 8), (35, 7)]


DIM = 3
XYWH = tuple[float, float, float, float]


def encoded(
    image_size: tuple[int, int], size: int, patch: int, mode: Fit = "stretch"
) -> PatchFeatures:
    side = size // patch
    generator = torch.Generator().manual_seed(side)
    tokens = torch.randn(side, side, DIM, generator=generator)
    attention = torch.randn(side, side, generator=generator).flatten().softmax(0)
    geometry = fit_image(image_size, mode=mode, size=size, patch_size=patch)
    return PatchFeatures(
        tokens=tokens,
        cls=torch.randn(DIM, generator=generator),
        attention=torch.full((2, side, side), 1 / side**2),
        geometry=geometry,
        reference_attention=attention.view(side, side),
    )


def flat(features: PatchFeatures) -> torch.Tensor:
    return features.tokens.flatten(0, 1)


def attention_of(features: PatchFeatures) -> published.Map:
    assert features.reference_attention is not None
    values: published.Map = features.reference_attention.double().tolist()
    return values


def close(ours: torch.Tensor, twin: Sequence[float]) -> None:
    torch.testing.assert_close(ours, torch.tensor(twin), atol=1e-5, rtol=1e-5)


@st.composite
def photos(draw: st.DrawFn, mode: Fit = "stretch") -> tuple[PatchFeatures, int, int]:
    size, patch = draw(st.sampled_from(INPUTS))
    side = st.integers(30, 700)
    return encoded((draw(side), draw(side)), size, patch, mode), size, patch


def some_box(draw: st.DrawFn, image_size: tuple[int, int]) -> XYWH:
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


@settings(max_examples=150, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["stretch", "crop"]))
def test_boxes(data: st.DataObject, mode: Fit) -> None:
    features, size, patch = data.draw(photos(mode))
    box = some_box(data.draw, features.geometry.image_size)  # type: ignore[arg-type]
    columns, rows = twin_rectangle(features, box, size, patch)
    side, tokens = size // patch, flat(features)
    variance = data.draw(VARIANCES)
    regions = [Box.from_xywh(*box)]

    flat_map = published.uniform(columns, rows, side)
    close(pool_regions(features, regions, reference())[0], published.weighted_sum(flat_map, tokens))
    bell = published.gaussian(columns, rows, variance, side)
    ours = pool_regions(features, regions, reference("gaussian", variance))[0]
    close(ours, published.weighted_sum(bell, tokens))
    attended = published.cut_attention(columns, rows, attention_of(features))
    ours = pool_regions(features, regions, reference("attention"))[0]
    close(ours, published.weighted_sum(attended, tokens))
    drawn = feature_weights(features, regions, reference("gaussian", 0))[0].tolist()
    assert drawn in published.centres(columns, rows, side)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["stretch", "crop"]))
def test_sets_count_every_box_alike_and_skip_padding(data: st.DataObject, mode: Fit) -> None:
    features, size, patch = data.draw(photos(mode))
    side, tokens = size // patch, flat(features)
    count = data.draw(st.integers(1, 4))
    boxes = [some_box(data.draw, features.geometry.image_size) for _ in range(count)]  # type: ignore[arg-type]
    padded = [*boxes, (-1.0, -1.0, -1.0, -1.0)]
    kept = [box for box in padded if not published.is_padding(box, patch)]
    spans = [twin_rectangle(features, box, size, patch) for box in kept]
    ours = pool_regions(features, [RegionSet.from_xywh(padded)], reference())[0]
    summed = published.set_of_boxes([published.uniform(*span, side) for span in spans])
    close(ours, published.weighted_sum(summed, tokens))
    ours = pool_regions(features, [RegionSet.from_xywh(padded)], reference("gaussian", 0.7))[0]
    summed = published.set_of_boxes([published.gaussian(*span, 0.7, side) for span in spans])
    close(ours, published.weighted_sum(summed, tokens))


COORDINATES = st.one_of(
    st.floats(-0.2, 1.2), st.integers(0, 37).map(lambda i: i / 37), st.sampled_from([0.3, 0.6, 0.7])
)


@settings(max_examples=100, deadline=None)
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
    close(
        pool_regions(features, regions, reference())[0],
        published.weighted_mean(counts, flat(features)),
    )
    attended = published.times(counts, attention_of(features))
    close(
        pool_regions(features, regions, reference("attention"))[0],
        published.weighted_mean(attended, flat(features)),
    )


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
        in_place = published.weighted_sum(
            published.cut_attention(columns, rows, changed), flat(features)
        )
        fresh = published.weighted_sum(
            published.cut_attention(columns, rows, attention_of(features)), flat(features)
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


def test_a_crop_shifts_boxes_instead_of_cutting_them() -> None:
    # The crop shows x 60 .. 200 of 260: a box over x 20 .. 100 moves to 60 .. 140.
    features = encoded((260, 140), 140, 14, "crop")
    (weights,) = feature_weights(features, [Box(20, 0, 100, 10)], reference())
    assert weights[0].nonzero()[0].tolist() == [0, 1, 2, 3, 4, 5]
    (weights,) = feature_weights(features, [Box(20, 0, 100, 10)])
    assert weights[0].nonzero()[0].tolist() == [0, 1, 2]
    # Cut away whole: a sliver at the border, where the default refuses.
    (weights,) = feature_weights(features, [Box(220, 0, 250, 10)], reference())
    assert weights[0, 9] == 1
    with pytest.raises(RegionError, match="outside what the model sees"):
        feature_weights(features, [Box(220, 0, 250, 10)])


def test_a_crop_keeps_traces_where_they_are() -> None:
    features = encoded((260, 140), 140, 14, "crop")
    trace = Trace([(26.1, 1)])
    (weights,) = feature_weights(features, [trace], reference())
    assert weights[0, 1] == 1
    with pytest.raises(RegionError, match="outside what the model sees"):
        feature_weights(features, [trace])


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
