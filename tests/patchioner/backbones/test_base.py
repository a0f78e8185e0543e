"""What all backbones share: preprocessing, passes of equal grids, folders, copies for inference."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from patchioner.backbones import load_backbone, preprocess
from patchioner.backbones.clip import ProxyClip
from patchioner.backbones.dinotxt import DinoTxtViT
from patchioner.backbones.vit import SiglipViT
from patchioner.geometry import Fit, Preprocessing, resized_size
from tests.support.tiny import noise_photo, small_vit, tiny_backbone, tiny_clip

DINOV2, SIGLIP = "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_512"
MAKERS: dict[str, Any] = {
    "timm": tiny_backbone,
    "dinotxt": lambda: small_vit(DINOV2, DinoTxtViT, space="both"),
    "siglip": lambda: small_vit(SIGLIP, SiglipViT),
    "open_clip": tiny_clip,
    "proxy_clip": lambda: ProxyClip(tiny_clip(), tiny_backbone(mode="stretch")),
}
MODES = pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
# Of these, the first, third and last fill the same grid.
PHOTOS = [
    noise_photo(*size, seed=seed) for seed, size in enumerate([(96, 64), (64, 96), (192, 128), (70, 70), (97, 64)])
]


@pytest.mark.parametrize("kind", ["timm", "dinotxt", "siglip"])
def test_photos_share_passes_and_come_out_as_they_do_alone(kind: str) -> None:
    model = MAKERS[kind]()
    alone = [model.encode([photo])[0] for photo in PHOTOS]
    model.outputs = Mock(side_effect=model.outputs)
    # On a CPU each has its own pass, prepared or not.
    prepared = [model.prepare(photo) if n % 2 else photo for n, photo in enumerate(PHOTOS)]
    assert [one.size for one in prepared] == [photo.size for photo in PHOTOS]
    for one, other in zip(alone, model.encode(prepared), strict=True):
        assert torch.equal(one.tokens, other.tokens) and one.geometry == other.geometry
    model.patches_per_pass_cpu = 1000
    together = model.encode(PHOTOS)
    assert model.encode([]) == []
    passes = [len(call.args[0]) for call in model.outputs.call_args_list]
    assert passes[:5] == [1] * 5 and sorted(passes[5:]) == [1, 1, 3]
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


MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.3, 0.2)


def normalised(image: Image.Image) -> np.ndarray:
    """(3, H, W) by the definition: (value / 255 - mean) / std."""
    values = np.asarray(image, np.float64) / 255
    return ((values - MEAN) / STD).transpose(2, 0, 1)


def plain_twin(image: Image.Image, mode: str, size: int, patch: int) -> np.ndarray:
    """The four fits with whole Pillow images: resize, then crop or paste onto a canvas."""
    width, height = image.size
    if mode in ("stretch", "aspect"):
        rows = columns = size // patch
        if mode == "aspect":
            ratio = width / height
            columns = min(max(round((rows**2 * ratio) ** 0.5), 1), rows**2)
            rows = min(max(round((rows**2 / ratio) ** 0.5), 1), rows**2)
        return normalised(image.resize((columns * patch, rows * patch), Image.Resampling.BICUBIC))
    anchor = min(width, height) if mode == "crop" else max(width, height)
    shape: Any = tuple(max(1, int(size * side / anchor)) for side in (width, height))
    resized = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in shape)
    if mode == "crop":
        return normalised(resized.crop((left, top, left + size, top + size)))
    canvas = np.zeros((3, size, size))
    canvas[:, -top : -top + shape[1], -left : -left + shape[0]] = normalised(resized)
    return canvas


@MODES
@pytest.mark.parametrize("shape", [(64, 96), (101, 77), (33, 250), (17, 5), (64, 64)])
def test_pixels_equal_the_plain_twin(mode: Fit, shape: tuple[int, int]) -> None:
    """And the size that is needed is the one that photos are resized to."""
    photo, settings = noise_photo(*shape), Preprocessing(mode, 64, 16, MEAN, STD)
    pixels, geometry = preprocess(photo, settings)
    assert pixels.dtype == torch.float32
    assert tuple(pixels.shape[1:]) == geometry.model_size[::-1]
    np.testing.assert_allclose(pixels, plain_twin(photo, mode, 64, 16), atol=1e-5)
    expected = geometry.model_size if mode == "aspect" else resized_size(shape, mode, 64)
    assert tiny_backbone(mode=mode).needed_size(shape) == expected


@MODES
def test_a_spot_lands_where_the_geometry_says(mode: Fit) -> None:
    """A bright square of the photo lights up the patch that `to_grid` names."""
    array = np.zeros((240, 320, 3), np.uint8)
    array[100:120, 180:200] = 255
    settings = Preprocessing(mode, 128, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels, geometry = preprocess(Image.fromarray(array), settings)
    rows, columns = geometry.grid
    light = pixels[0].numpy().reshape(rows, 16, columns, 16).sum((1, 3))
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    centre = [(light * x).sum() / light.sum(), (light * y).sum() / light.sum()]
    assert np.abs(np.array(centre) - geometry.to_grid([[190.0, 110.0]])).max() < 0.5


@pytest.mark.parametrize("kind", MAKERS)
def test_a_backbone_comes_back_and_its_copies_leave_it(kind: str, tmp_path: Path) -> None:
    original = MAKERS[kind]()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    exact = original.encode([noise_photo()])[0]
    original.save(tmp_path, storage="fp32")
    torch.manual_seed(99)  # loading must not depend on how the network was initialised
    loaded = load_backbone(tmp_path)
    assert (loaded.config, loaded.training) == (original.config, False)
    again = loaded.encode([noise_photo()])[0]
    assert torch.equal(again.tokens, exact.tokens) and again.geometry == exact.geometry
    half: Any = original.to("cpu", torch.bfloat16)
    plain, fast = (original.to("cpu", torch.float32, optimize=packed) for packed in (False, True))
    rounded, same, close = (copy.encode([noise_photo()])[0] for copy in (half, plain, fast))
    assert {rounded.tokens.dtype, getattr(rounded.attention, "dtype", None)} == {torch.float32}
    assert torch.cosine_similarity(rounded.tokens, exact.tokens, dim=-1).mean() > 0.95
    assert not torch.equal(rounded.tokens, exact.tokens)
    assert torch.equal(same.tokens, exact.tokens)
    torch.testing.assert_close(close.tokens, exact.tokens, rtol=1e-3, atol=1e-4)
    state = original.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in original.parameters())
    assert not any(p.requires_grad for p in half.parameters())
    if kind == "timm":  # the head stays as exact as it was
        assert half.vit.cls_token.dtype == torch.bfloat16
        assert {tensor.dtype for tensor in half.head.buffers()} == {torch.float32}
