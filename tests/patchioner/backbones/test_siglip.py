"""SigLIP: a patch token is the pool with all its attention there; the pooled vector is timm's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from patchioner.backbones import load_backbone, preprocess
from patchioner.backbones.vit import SiglipViT, fit_vit
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.geometry import Fit, Preprocessing
from tests.support.tiny import noise_photo

NAME = "vit_base_patch16_siglip_512"
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
HALF = (0.5, 0.5, 0.5)


def small(mode: Fit = "aspect", size: int = 80) -> SiglipViT:
    torch.manual_seed(0)
    model = SiglipViT(NAME, Preprocessing(mode, size, 16, HALF, HALF), overrides=SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_true_shapes_without_their_weights() -> None:
    with torch.device("meta"):
        model = SiglipViT(NAME, Preprocessing("stretch", 512, 16, HALF, HALF))
    features = model.encode([Image.new("RGB", (640, 480))])[0]
    assert features.tokens.shape == (32, 32, 768)
    assert features.cls is not None
    assert features.cls.shape == (768,)
    assert features.attention is not None
    assert features.attention.shape == (12, 32, 32)
    assert model.vit.num_prefix_tokens == 0
    assert features.geometry.scale == (512 / 640, 512 / 480)


def test_a_patch_is_what_the_pool_makes_of_it_alone() -> None:
    """With one token to attend to, the softmax is 1: the pool itself is the slow twin."""
    model, photo = small(), noise_photo(130, 60)
    pixels, geometry = preprocess(photo, model.preprocessing)
    features = model.encode([photo])[0]
    rows, columns = geometry.grid
    assert rows != columns
    with torch.no_grad():
        tokens = model.vit.forward_features(pixels[None])
        for index in range(rows * columns):
            alone = model.vit.attn_pool(tokens[:, index : index + 1])[0]
            found = features.tokens[index // columns, index % columns]
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_the_global_vector_is_timms_image_embedding() -> None:
    model, photo = small(), noise_photo(60, 130)
    pixels, _ = preprocess(photo, model.preprocessing)
    with torch.no_grad():
        expected = model.vit(pixels[None])[0]
    cls = model.encode([photo])[0].cls
    assert cls is not None
    torch.testing.assert_close(cls, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_the_pools_and_makes_the_pooled_values() -> None:
    model, photo = small(), noise_photo()
    attention = model.encode([photo])[0].attention
    assert attention is not None
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(3))
    pixels, _ = preprocess(photo, model.preprocessing)
    pool = model.vit.attn_pool
    with torch.no_grad():
        values = pool.kv(model.vit.forward_features(pixels[None]))[0, :, 48:].unflatten(1, (3, 16))
        mixed = torch.einsum("hn,nhd->hd", attention.flatten(1), values).flatten()
        projected = pool.proj(mixed)
        expected = projected + pool.mlp(pool.norm(projected))
        torch.testing.assert_close(
            pool(model.vit.forward_features(pixels[None]))[0], expected, rtol=1e-4, atol=1e-5
        )


def test_pixels_lie_between_minus_one_and_one() -> None:
    pixels, _ = preprocess(Image.new("RGB", (40, 30), (255, 0, 255)), small().preprocessing)
    assert pixels[:, 0, 0].tolist() == [1.0, -1.0, 1.0]


def test_images_do_not_influence_one_another() -> None:
    model = small()
    photos = [noise_photo(seed=seed) for seed in range(3)]
    together = model.encode(photos)
    for photo, features in zip(photos, together, strict=True):
        assert torch.equal(model.encode([photo])[0].tokens, features.tokens)


def test_it_comes_back_from_its_folder(tmp_path: Path) -> None:
    model = small("stretch", 64)
    model.save(tmp_path, storage="fp32")
    loaded = load_backbone(tmp_path)
    assert loaded.config == model.config
    first, second = (m.encode([noise_photo()])[0] for m in (model, loaded))
    assert torch.equal(first.tokens, second.tokens)


def test_open_clips_checkpoints_hold_it_under_the_visual_trunk() -> None:
    original, target = small(), SiglipViT(NAME, Preprocessing("stretch", 64, 16), overrides=SMALL)
    state = {f"visual.trunk.{name}": t for name, t in original.vit.state_dict().items()}
    state["text.token_embedding.weight"] = torch.zeros(3, 3)
    assert fit_vit(target.vit, state, source="file") == {}
    for name, tensor in original.vit.state_dict().items():
        assert torch.equal(target.vit.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_gap_512", "vit_tiny_patch16_224"])
def test_without_an_attention_pool_there_is_no_way_to_the_text(name: str) -> None:
    with pytest.raises(OptionError, match="no attention pool"):
        SiglipViT(name, Preprocessing("stretch", 64, 16), overrides={"depth": 1})


def test_a_wrong_config_is_refused(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path)
    text = (tmp_path / "config.json").read_text().replace(NAME, "vit_base_patch16_siglipp_512")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json.*siglip_512"):
        load_backbone(tmp_path)
