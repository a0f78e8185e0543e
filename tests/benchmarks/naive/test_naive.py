"""The published way against our engine, token for token, and each of its parts against the facts it follows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.naive import CHUNK, STEPS, NaiveCaptioner, NaiveDecoder, project
from benchmarks.naive.captioner import chunk_count, chunks
from benchmarks.naive.image import HEADS, attention_extras, encode
from benchmarks.naive.regions import pool_boxes
from benchmarks.speed.scene import make_photo, random_boxes
from benchmarks.speed.shapes import SHAPES, build_random_backbone, build_random_decoder
from decoders import DecodeOptions
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.backbones import TimmViT
from patchioner.base.errors import OptionError
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import ModelSettings
from patchioner.geometry import Preprocessing
from patchioner.model import project as own_project
from patchioner.regions import Box, Weighting, pool_regions

TINY = SHAPES["tiny"]
OPTIONS = DecodeOptions(max_tokens=STEPS)


@pytest.fixture(scope="module")
def backbone() -> TimmViT:
    return build_random_backbone(TINY)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(TINY.rows, TINY.dim, generator=generator) * (
        0.5 + torch.rand(TINY.rows, 1, generator=generator)
    )


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Image.Image:
    with Image.open(make_photo(tmp_path_factory.mktemp("photo") / "photo.jpg")) as opened:
        return opened.convert("RGB")


@pytest.mark.parametrize("count", [1, 5, 9])
@pytest.mark.parametrize("ends", [False, True])
def test_same_tokens_as_our_engine(
    count: int, ends: bool, backbone: TimmViT, rows: torch.Tensor, photo: Image.Image
) -> None:
    """Whole chunks and remainders, captions that end and captions that are cut."""
    decoder = build_random_decoder(TINY, ends=ends)
    boxes = random_boxes(count, photo.size, seed=count)
    settings = ModelSettings(weighting=Weighting(rounding="reference"), decode=OPTIONS)
    model = Patchioner(Parts(backbone, decoder, MemoryBank(rows), None, settings), device="cpu")
    bridged = own_project(
        model.embed_regions(model.encode(photo), boxes), model.settings, model.parts.bank
    )
    found = NaiveCaptioner(backbone, rows, decoder).caption(photo, boxes)
    assert [one.token_ids for one in found] == [
        one.token_ids for one in decoder.generate(bridged, OPTIONS)
    ]
    assert [one.text for one in found] == [one.text for one in model.caption(photo, boxes)]
    lengths = {len(one.token_ids) for one in found}
    assert lengths == {STEPS} if not ends else max(lengths) < STEPS


def test_different_boxes_get_different_captions(
    backbone: TimmViT, rows: torch.Tensor, photo: Image.Image
) -> None:
    """Otherwise equal tokens would prove little."""
    boxes = random_boxes(9, photo.size, seed=2)
    found = NaiveCaptioner(backbone, rows, build_random_decoder(TINY)).caption(photo, boxes)
    assert len({one.token_ids for one in found}) >= 3


def test_a_chunk_more_or_less_changes_nothing(
    backbone: TimmViT, rows: torch.Tensor, photo: Image.Image
) -> None:
    naive = NaiveCaptioner(backbone, rows, build_random_decoder(TINY))
    boxes = random_boxes(6, photo.size, seed=1)
    assert naive.caption(photo, boxes)[:5] == naive.caption(photo, boxes[:5])
    whole = naive.caption_chunk(naive.encode(photo), boxes)
    assert whole == naive.caption(photo, boxes)


def test_chunks() -> None:
    boxes = [Box(0, 0, 1, place + 1) for place in range(9)]
    assert [len(part) for part in chunks(boxes)] == [CHUNK, CHUNK, 1]
    assert [box for part in chunks(boxes) for box in part] == boxes
    assert [chunk_count(number) for number in (1, 4, 5, 1000)] == [1, 1, 2, 250]


def test_projection_is_that_of_the_bank(rows: torch.Tensor) -> None:
    """Exactly the same function: cosines at the temperature, raw rows as values, unit vectors out."""
    queries = torch.randn(7, TINY.dim, generator=torch.Generator().manual_seed(1))
    before = queries.clone()
    found = project(queries, rows)
    assert torch.allclose(found, MemoryBank(rows).project(queries), atol=1e-5)
    assert torch.equal(queries, before)
    nearest = project(rows[:3], rows, temperature=1e-4)
    assert torch.allclose(nearest, functional.normalize(rows[:3], dim=1), atol=1e-5)


def test_pooling_is_ours_under_reference_rounding(backbone: TimmViT, photo: Image.Image) -> None:
    """Boxes on patch borders, of one patch, and at the image's edge."""
    features = encode(backbone, photo)
    ours = backbone.encode([photo])[0]
    side = photo.width / 5, photo.height / 5
    boxes = [
        *random_boxes(20, photo.size, seed=4),
        Box(0, 0, *side),
        Box(side[0], side[1], 2 * side[0], 2 * side[1]),
        Box(photo.width - 3, photo.height - 3, photo.width, photo.height),
        Box(0, 0, photo.width, photo.height),
    ]
    expected = pool_regions(ours, boxes, Weighting(rounding="reference"))
    assert torch.allclose(pool_boxes(features, boxes), expected, atol=1e-5)


def test_attention_extras_follow_the_facts(backbone: TimmViT, photo: Image.Image) -> None:
    """The map is the one our features hold for reference rounding; its tokens are means, not sums."""
    features = encode(backbone, photo)
    mean_map, averaged, by_head = features.extras
    ours = backbone.encode([photo])[0].reference_attention
    assert ours is not None
    assert torch.allclose(mean_map, ours.flatten(), atol=1e-6)
    tokens = features.tokens.flatten(0, 1)
    assert torch.allclose(averaged, mean_map @ tokens / len(tokens), atol=1e-6)
    assert by_head.shape == (HEADS, TINY.dim)


def test_attention_of_equal_keys_is_flat() -> None:
    patches = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    mean_map, _, by_head = attention_extras(torch.ones(1, 8, 96), patches, prefix=2)
    assert torch.allclose(mean_map, torch.full((6,), 1 / 6))
    assert torch.allclose(by_head, patches.mean(dim=0).expand(HEADS, -1) / 6, atol=1e-6)


def test_the_hook_does_not_stay(backbone: TimmViT, photo: Image.Image) -> None:
    encode(backbone, photo)
    assert not backbone.vit.blocks[-1].attn.qkv._forward_hooks


def test_decoding_goes_on_behind_the_end() -> None:
    """Always 30 tokens; the cut comes after."""
    decoder = build_random_decoder(TINY, ends=True)
    naive = NaiveDecoder(decoder)
    written = naive.token_ids(torch.randn(3, TINY.dim, generator=torch.Generator().manual_seed(0)))
    assert {len(ids) for ids in written} == {STEPS}
    for ids in written:
        cut = naive.until_end(ids)
        assert cut[-1] == decoder.tokenizer.end_id
        assert decoder.tokenizer.end_id not in cut[:-1]
        assert naive.text(ids) == decoder.tokenizer.decode(cut)
    assert naive.until_end([5, 6]) == (5, 6)


def test_no_bank_is_no_projection(backbone: TimmViT) -> None:
    pooled = torch.randn(2, TINY.dim)
    assert NaiveCaptioner(backbone, None, build_random_decoder(TINY)).bridge(pooled) is pooled


def test_only_stretched_photos() -> None:
    cropping = TimmViT("test_vit", Preprocessing("crop", 80, 16))
    with pytest.raises(OptionError, match="'crop'.*'stretch'"):
        NaiveCaptioner(cropping, None, build_random_decoder(TINY))


def test_the_weights_are_shared(tmp_path: Path) -> None:
    """What the twin reads is the network's own memory: no second copy stands in the baseline's way."""
    decoder = build_random_decoder(TINY)
    weights = NaiveDecoder(decoder)._weights
    name = "transformer.wte.weight"
    assert weights[name].data_ptr() == decoder.network.state_dict()[name].data_ptr()
