"""`rounding="reference"` and the attention map give the published numbers to 1e-5, lengths too."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchioner import Box, Region, RegionSet, Trace, Weighting, WholeImage
from patchioner.backbones import PatchFeatures, TimmViT
from patchioner.backbones.vit import cls_attention, published_attention
from patchioner.base.errors import OptionError, RegionError
from patchioner.geometry import Fit, Preprocessing, fit_image
from patchioner.regions import feature_weights, pool_regions
from tests.patchioner.reference import published
from tests.support import randn
from tests.support.language import spread
from tests.support.tiny import noise_photo

# (side of the input, side of a patch): the published 37 x 37, CLIP's 14 x 14, an even and an odd small one.
INPUTS = [(518, 14), (224, 16), (140, 14), (56, 8), (35, 7)]
DIM = 3
XYWH = tuple[float, float, float, float]
MODES: st.SearchStrategy[Fit] = st.sampled_from(["stretch", "crop"])
reference = partial(Weighting, rounding="reference")


def encoded(image_size: tuple[int, int], size: int, patch: int, mode: Fit = "stretch") -> PatchFeatures:
    side = size // patch
    return PatchFeatures(
        tokens=randn(side, side, DIM, seed=side),
        cls=randn(DIM),
        attention=torch.full((2, side, side), 1 / side**2),
        geometry=fit_image(image_size, mode=mode, size=size, patch_size=patch),
        reference_attention=randn(side**2, seed=2).softmax(0).view(side, side),
    )


def attention_of(features: PatchFeatures) -> Tensor:
    assert features.reference_attention is not None
    return features.reference_attention.double()


def agree(features: PatchFeatures, region: Region, weighting: Weighting, twin: Any, mean: bool = False) -> None:
    reduced = published.weighted_mean if mean else published.weighted_sum
    ours = pool_regions(features, [region], weighting)[0]
    expected = reduced(twin, features.tokens.flatten(0, 1)).float()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@st.composite
def photos(draw: st.DrawFn) -> tuple[PatchFeatures, int, int]:
    size, patch = draw(st.sampled_from(INPUTS))
    side = st.integers(30, 700)
    return encoded((draw(side), draw(side)), size, patch, draw(MODES)), size, patch


def some_box(draw: Any, image_size: tuple[int, int]) -> XYWH:
    """Whole pixels, as most annotations have, or any fraction of them."""
    width, height = image_size
    if draw(st.booleans()):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        return x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y))
    left, top = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
    return left, top, draw(st.floats(0.01, width - left)), draw(st.floats(0.01, height - top))


def twin_span(features: PatchFeatures, box: XYWH, size: int, patch: int) -> published.Span:
    map_ = published.cropped if features.geometry.fit == "crop" else published.stretched
    model_box = map_(box, features.geometry.image_size, size)
    return published.rectangle(model_box, patch, size // patch)


VARIANCES = st.one_of(st.sampled_from([0.5, 1.0, 100.0]), st.floats(0.1, 1000))


@settings(max_examples=80)
@given(data=st.data(), photo=photos(), variance=VARIANCES)
def test_boxes(data: st.DataObject, photo: Any, variance: float) -> None:
    features, size, patch = photo
    box, side = some_box(data.draw, features.geometry.image_size), size // patch
    span, region = twin_span(features, box, size, patch), Box.from_xywh(*box)
    agree(features, region, reference(), published.uniform(span, side))
    gaussian = published.gaussian(span, variance, side)
    agree(features, region, reference("gaussian", variance), gaussian)
    attended = published.cut_attention(span, attention_of(features))
    agree(features, region, reference("attention"), attended)
    middle = reference("gaussian", 0, seed=data.draw(st.integers(0, 9)))
    drawn = torch.from_numpy(feature_weights(features, [region], middle)[0])
    assert any(torch.equal(drawn.double(), one) for one in published.centres(span, side))


@settings(max_examples=40)
@given(data=st.data(), photo=photos(), count=st.integers(1, 4))
def test_sets_count_boxes_alike_and_skip_padding(data: st.DataObject, photo: Any, count: int) -> None:
    features, size, patch = photo
    boxes = [some_box(data.draw, features.geometry.image_size) for _ in range(count)]
    padded, side = [*boxes, (-1.0, -1.0, -1.0, -1.0)], size // patch
    kept = [box for box in padded if not published.is_padding(box, patch)]
    spans = [twin_span(features, box, size, patch) for box in kept]
    for weighting, maps in (
        (reference(), [published.uniform(span, side) for span in spans]),
        (reference("gaussian", 0.7), [published.gaussian(span, 0.7, side) for span in spans]),
    ):
        agree(features, RegionSet.from_xywh(padded), weighting, published.set_of_boxes(maps))


COORDINATES = st.one_of(
    st.floats(-0.2, 1.2), st.integers(0, 37).map(lambda i: i / 37), st.sampled_from([0.3, 0.6, 0.7])
)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=30)


@settings(max_examples=60)
@given(photo=photos(), points=POINTS)
def test_traces_are_counted_and_grow_with_their_points(photo: Any, points: Any) -> None:
    features, size, patch = photo
    trace = Trace([*points, points[0]], normalized=True)
    counts = published.trace_counts([*points, points[0]], size // patch)
    if not counts.any():  # a zero vector, and NaN further on
        with pytest.raises(RegionError, match="no point in"):
            pool_regions(features, [trace], reference())
        return
    agree(features, trace, reference(), counts, mean=True)
    attended = counts * attention_of(features)
    agree(features, trace, reference("attention"), attended, mean=True)


@pytest.mark.parametrize(("size", "patch"), INPUTS)
def test_the_whole_image(size: int, patch: int) -> None:
    features, side = encoded((640, 480), size, patch), size // patch
    span, whole = (list(range(side)), list(range(side))), WholeImage()
    for variance in (0.3, 1.0, 99.0):
        gaussian = published.gaussian(span, variance, side)
        agree(features, whole, reference("gaussian", variance), gaussian)
    for weighting in (reference(), reference("gaussian", 100), reference("gaussian", 1e6)):
        agree(features, whole, weighting, published.uniform(span, side))
    agree(features, whole, reference("attention"), attention_of(features), mean=True)
    drawn = torch.from_numpy(feature_weights(features, [whole], reference("gaussian", 0))[0])
    assert any(torch.equal(drawn.double(), one) for one in published.centres(span, side))
    assert features.cls is not None
    assert torch.equal(pool_regions(features, [whole], reference("cls"))[0], features.cls)


def test_attention_of_boxes_is_published_but_for_what_an_earlier_box_did_to_the_map() -> None:
    features = encoded((140, 140), 140, 14)
    changed = attention_of(features)
    # The second overlaps the first in part; the third is elsewhere.
    for index, box in enumerate([(0, 0, 30, 30), (30, 30, 30, 30), (100, 100, 20, 20)]):
        span = published.rectangle(box, 14, 10)
        in_place = published.cut_attention(span, changed)
        fresh = published.cut_attention(span, attention_of(features))
        agree(features, Box.from_xywh(*box), reference("attention"), fresh)
        assert torch.allclose(in_place, fresh) == (index != 1)


@pytest.mark.parametrize(
    ("region", "as_published", "exact"),
    [
        (Box(20, 0, 100, 10), [0, 1, 2, 3, 4, 5], [0, 1, 2]),
        (Trace([(0.3, 0.0)], normalized=True), [2], [1]),  # 0.3 / 0.1 falls short of 3
        (Box(220, 0, 250, 10), [9], None),  # cut away whole: a sliver at the border
        (Trace([(26.1, 1)]), [1], None),  # or the trace where it was
    ],
)
def test_a_crop_shifts_boxes(region: Region, as_published: list[int], exact: list[int] | None) -> None:
    """The crop shows x 60 .. 200 of 260: a box over x 20 .. 100 moves to 60 .. 140."""
    features = encoded((260, 140), 140, 14, "crop")
    (weights,) = feature_weights(features, [region], reference())
    assert weights[0].nonzero()[0].tolist() == as_published
    if exact is None:
        with pytest.raises(RegionError, match="outside what the model sees"):
            feature_weights(features, [region])
    else:
        assert feature_weights(features, [region])[0, 0].nonzero()[0].tolist() == exact


def test_a_backbone_without_the_published_map_says_so() -> None:
    features = encoded((640, 480), 56, 8)
    bare = PatchFeatures(features.tokens, None, features.attention, features.geometry)
    with pytest.raises(OptionError, match="as published.*rounding='coverage'"):
        pool_regions(bare, [WholeImage()], reference("attention"))
    assert pool_regions(bare, [WholeImage()], Weighting("attention")).shape == (1, DIM)


@pytest.mark.parametrize(
    ("name", "width", "heads"), [("vits14", 384, 6), ("vitb14", 768, 12), ("vitb14_reg", 768, 12), ("vitl14", 1024, 16)]
)
def test_sixteen_heads_of_all_but_the_small_one(name: str, width: int, heads: int) -> None:
    """The map, from the qkv output that a hook on the last block would see."""
    leading = 5 if "reg" in name else 1
    qkv = 2 * randn(leading + 9, 3 * width)
    parts = qkv.view(1, leading + 9, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    query, keys = parts[0][:, :, :1], parts[1][:, :, leading:]
    twin = published.self_attention(qkv, name)
    torch.testing.assert_close(published_attention(query, keys)[0], twin, atol=1e-6, rtol=1e-4)
    right = cls_attention(query, keys)[0].mean(0)
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
    seen: list[Tensor] = []
    layer: Any = backbone.vit.blocks[-1].attn.qkv
    layer.register_forward_hook(lambda module, given, out: seen.append(out[0].detach()))
    features = backbone.encode([noise_photo(64, 48)])[0]
    twin = published.self_attention(seen[0], "vitb16").view(4, 4)
    torch.testing.assert_close(features.reference_attention, twin, atol=1e-6, rtol=1e-4)
    agree(features, WholeImage(), reference("attention"), twin.double(), mean=True)
