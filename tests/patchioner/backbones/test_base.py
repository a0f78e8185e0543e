"""What all backbones share: passes of equal grids, bounds, what is needed of a photo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from patchioner.backbones.base import equal_grids
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.backbones.vit import SiglipViT
from patchioner.geometry import Fit, Preprocessing, fit_image, resized_size
from tests.support.tiny import noise_photo, tiny_backbone

SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}
MAKERS: dict[str, Any] = {
    "timm": tiny_backbone,
    "dinotxt": lambda: DinoTxtViT(
        "vit_small_patch14_reg4_dinov2",
        Preprocessing("aspect", 56, 14),
        overrides=SMALL,
        space="both",
    ),
    "siglip": lambda: SiglipViT(
        "vit_base_patch16_siglip_512", Preprocessing("aspect", 64, 16), overrides=SMALL
    ),
}
# Of these, the first, third and last fill the same grid.
PHOTOS = [
    noise_photo(*size, seed=seed)
    for seed, size in enumerate([(96, 64), (64, 96), (192, 128), (70, 70), (97, 64)])
]


@pytest.mark.parametrize("kind", MAKERS)
def test_photos_share_passes_and_come_out_as_they_do_alone(kind: str) -> None:
    torch.manual_seed(0)
    model = MAKERS[kind]()
    alone = [model.encode([photo])[0] for photo in PHOTOS]
    model.patches_per_pass_cpu = 1000
    passes: list[int] = []
    outputs = model.outputs

    def counted(pixels: Tensor, grid: tuple[int, int]) -> Any:
        passes.append(len(pixels))
        return outputs(pixels, grid)

    model.outputs = counted
    together = model.encode(PHOTOS)
    assert sorted(passes) == [1, 1, 3]
    for one, other in zip(alone, together, strict=True):
        assert one.geometry == other.geometry
        for name in ("tokens", "cls", "attention", "reference_attention"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)
                assert theirs.dtype == torch.float32
    shared = together[0].tokens
    assert shared.untyped_storage().nbytes() == shared.nbytes


def test_on_a_cpu_each_photo_has_its_own_pass_unless_told_otherwise() -> None:
    model = tiny_backbone()
    together = model.encode(PHOTOS)
    for photo, features in zip(PHOTOS, together, strict=True):
        assert torch.equal(features.tokens, model.encode([photo])[0].tokens)
    assert model.encode([]) == []


def test_grids_are_grouped_within_the_bound() -> None:
    wide, tall = (
        fit_image(size, mode="aspect", size=64, patch_size=16) for size in ((80, 40), (40, 80))
    )
    cells = wide.grid[0] * wide.grid[1]
    photos = [wide, tall, wide, wide]
    assert list(equal_grids(photos, 2 * cells)) == [[0, 2], [3], [1]]
    assert list(equal_grids(photos, 1)) == [[0], [2], [3], [1]]
    assert list(equal_grids([], 10)) == []


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
@pytest.mark.parametrize("size", [(640, 480), (333, 1000), (31, 7)])
def test_the_size_that_is_needed_is_the_one_that_photos_are_resized_to(
    mode: Fit, size: tuple[int, int]
) -> None:
    model = tiny_backbone(mode=mode)
    expected = model.geometry(size).model_size if mode == "aspect" else resized_size(size, mode, 64)
    assert model.needed_size(size) == expected


def test_prepared_photos_are_encoded_like_others() -> None:
    model = tiny_backbone()
    prepared = [model.prepare(photo) if n % 2 else photo for n, photo in enumerate(PHOTOS)]
    assert [one.size for one in prepared] == [photo.size for photo in PHOTOS]
    for one, other in zip(model.encode(PHOTOS), model.encode(prepared), strict=True):
        assert one.geometry == other.geometry
        assert torch.equal(one.tokens, other.tokens)
