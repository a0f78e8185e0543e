"""DINOv2, DINOv3 and CLIP through timm: token counts at true shapes, SwiGLU, the projection, published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from patchioner.backbones import TimmViT, load_backbone, preprocess
from patchioner.backbones.vit import create_vit, fit_vit
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError
from patchioner.geometry import Preprocessing
from tests.support.tiny import noise_photo

CLIP_STATISTICS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
# name, size, patch, width, heads, tokens before the patches
TRUE_SHAPES = [
    ("vit_small_patch14_dinov2", 518, 14, 384, 6, 1),
    ("vit_small_patch14_reg4_dinov2", 518, 14, 384, 6, 5),
    ("vit_base_patch14_dinov2", 518, 14, 768, 12, 1),
    ("vit_base_patch14_reg4_dinov2", 518, 14, 768, 12, 5),
    ("vit_large_patch14_dinov2", 518, 14, 1024, 16, 1),
    ("vit_large_patch14_reg4_dinov2", 518, 14, 1024, 16, 5),
    ("vit_giant_patch14_dinov2", 518, 14, 1536, 24, 1),
    ("vit_giant_patch14_reg4_dinov2", 518, 14, 1536, 24, 5),
    ("vit_small_patch16_dinov3", 512, 16, 384, None, 5),
    ("vit_base_patch16_dinov3", 512, 16, 768, None, 5),
    ("vit_base_patch16_clip_quickgelu_224", 224, 16, 768, 12, 1),
    ("vit_base_patch16_clip_quickgelu_224", 592, 16, 768, 12, 1),
]


@pytest.mark.parametrize(("name", "size", "patch", "width", "heads", "prefix"), TRUE_SHAPES)
def test_true_shapes_without_their_weights(
    name: str, size: int, patch: int, width: int, heads: int | None, prefix: int
) -> None:
    with torch.device("meta"):  # ViT-g has 1.1 billion parameters
        model = TimmViT(name, Preprocessing("aspect", size, patch))
    features = model.encode([Image.new("RGB", (640, 480))])[0]
    side = size // patch
    grid = features.geometry.grid  # `test_assembly` has the square ones
    assert grid[0] < side < grid[1]
    assert abs(grid[0] * grid[1] - side * side) < 2 * side
    assert features.tokens.shape == (*grid, width)
    assert features.cls is not None
    assert features.cls.shape == (width,)
    assert model.vit.num_prefix_tokens == prefix
    if heads is None:
        assert features.attention is None
    else:
        assert features.attention is not None
        assert features.attention.shape == (heads, *grid)


SMALL: dict[str, dict[str, Any]] = {
    "vit_small_patch14_reg4_dinov2": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "vit_giant_patch14_reg4_dinov2": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "vit_base_patch16_dinov3": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "vit_base_patch16_clip_quickgelu_224": {"depth": 2, "embed_dim": 48, "num_heads": 3},
}


def small(name: str, **more: Any) -> TimmViT:
    torch.manual_seed(0)
    patch = 16 if "patch16" in name else 14
    model = TimmViT(name, Preprocessing("aspect", 5 * patch, patch), overrides=SMALL[name], **more)
    with torch.no_grad():  # timm starts some scales near zero, which would hide most of the network
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("name", SMALL)
def test_small_variants_give_timms_own_tokens(name: str) -> None:
    model, photo = small(name), noise_photo(130, 60)
    pixels, geometry = preprocess(photo, model.preprocessing)
    with torch.no_grad():
        expected = model.vit.forward_features(pixels[None])[0]
    features = model.encode([photo])[0]
    prefix = model.vit.num_prefix_tokens
    assert len(expected) == prefix + geometry.grid[0] * geometry.grid[1]
    torch.testing.assert_close(
        features.tokens.flatten(0, 1), expected[prefix:], rtol=1e-4, atol=1e-4
    )
    assert features.cls is not None
    torch.testing.assert_close(features.cls, expected[0], rtol=1e-4, atol=1e-4)


def test_registers_are_neither_patches_nor_the_global_token() -> None:
    model, photo = small("vit_small_patch14_reg4_dinov2"), noise_photo(70, 70)
    before = model.encode([photo])[0]
    assert model.vit.reg_token.shape[1] == 4
    pixels, _ = preprocess(photo, model.preprocessing)
    with torch.no_grad():
        everything = model.vit.forward_features(pixels[None])[0]
    for register in everything[1:5]:
        assert (before.tokens.flatten(0, 1) - register).norm(dim=1).min() > 1e-3


def test_the_giant_has_gated_feed_forward_layers() -> None:
    """SwiGLU (arXiv 2002.05202): fc2(silu(gate) * value), the gate in the first half as DINOv2 stores it."""
    model = small("vit_giant_patch14_reg4_dinov2")
    mlp, tokens = model.vit.blocks[0].mlp, torch.randn(1, 3, 48)
    with torch.no_grad():
        gate, value = mlp.fc1(tokens).chunk(2, dim=-1)
        torch.testing.assert_close(
            mlp(tokens), mlp.fc2(torch.nn.functional.silu(gate) * value), rtol=1e-5, atol=1e-6
        )


def test_clip_projects_every_token() -> None:
    head = {"type": "linear", "dim": 20}
    model, photo = small("vit_base_patch16_clip_quickgelu_224", head=head), noise_photo()
    pixels, _ = preprocess(photo, model.preprocessing)
    with torch.no_grad():
        tokens = model.vit.forward_features(pixels[None])[0]
        weight, bias = (model.head.get_parameter(f"linear.{k}") for k in ("weight", "bias"))
        expected = tokens @ weight.T + bias
    features = model.encode([photo])[0]
    assert (model.dim, features.dim) == (20, 20)
    torch.testing.assert_close(features.tokens.flatten(0, 1), expected[1:], rtol=1e-4, atol=1e-4)
    assert features.cls is not None
    torch.testing.assert_close(features.cls, expected[0], rtol=1e-4, atol=1e-4)


def test_overrides_are_saved_and_come_back(tmp_path: Path) -> None:
    model = small("vit_base_patch16_dinov3")
    model.save(tmp_path, storage="fp32")
    loaded = load_backbone(tmp_path)
    assert loaded.config == model.config
    assert loaded.config["overrides"] == SMALL["vit_base_patch16_dinov3"]
    first, second = (m.encode([noise_photo()])[0] for m in (model, loaded))
    assert torch.equal(first.tokens, second.tokens)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"dept": 2}, "dept"), ({"num_classes": 7}, "num_classes.*the backbone sets it")],
)
def test_overrides_that_are_none_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create_vit("vit_small_patch14_dinov2", overrides=overrides)


def test_an_unknown_name_with_a_tag_offers_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="vit_small_patch14_dinov2"):
        create_vit("vit_small_patch14_dinov4.lvd142m")


def as_published_by_dinov2(vit: Any) -> dict[str, Tensor]:
    """timm's state dict the way DINOv2's own files name and cut it."""
    state = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        first = torch.randn_like(state["cls_token"])
        state["cls_token"] = state["cls_token"] - first
        state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    if any(".mlp.fc1." in name for name in state) and hasattr(vit.blocks[0].mlp, "chunk_dim"):
        for name in [name for name in state if ".mlp.fc" in name]:
            published = name.replace("fc1", "w12").replace("fc2", "w3")
            state[published] = state.pop(name)
    state["mask_token"] = torch.zeros(1, vit.embed_dim)
    return state


def as_published_by_dinov3(vit: Any) -> dict[str, Tensor]:
    """timm's state dict the way DINOv3's own files name it, with their zero biases and buffers."""
    state = {}
    for name, tensor in vit.state_dict().items():
        published = name.replace("reg_token", "storage_tokens")
        published = published.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        state[published] = tensor.clone()
    for index in range(len(vit.blocks)):
        state[f"blocks.{index}.attn.qkv.bias"] = torch.zeros(3 * vit.embed_dim)
        state[f"blocks.{index}.attn.qkv.bias_mask"] = torch.ones(3 * vit.embed_dim)
    state["mask_token"] = torch.zeros(1, vit.embed_dim)
    state["rope_embed.periods"] = torch.ones(4)
    return state


WRITERS = {
    "vit_small_patch14_reg4_dinov2": as_published_by_dinov2,
    "vit_giant_patch14_reg4_dinov2": as_published_by_dinov2,
    "vit_base_patch16_dinov3": as_published_by_dinov3,
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_in_their_authors_layout_are_read(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    original, target = small(name), create_vit(name, overrides=SMALL[name])
    state = WRITERS[name](original.vit)
    count = len(state)
    assert fit_vit(target, state, source="file") == {}
    assert len(state) == count, "the caller's tensors are left alone"
    for key, tensor in original.vit.state_dict().items():
        torch.testing.assert_close(target.state_dict()[key], tensor, rtol=0, atol=1e-6)
    assert capsys.readouterr().out == ""


def test_a_bias_that_the_architecture_has_no_place_for_is_refused() -> None:
    name = "vit_base_patch16_dinov3"
    state = as_published_by_dinov3(small(name).vit)
    state["blocks.1.attn.qkv.bias"][0] = 1.0
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.bias.*_qkvb"):
        fit_vit(create_vit(name, overrides=SMALL[name]), state, source="file")


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_must_all_fit(change: str) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    state = as_published_by_dinov2(small(name).vit)
    if change == "missing":
        del state["blocks.0.attn.qkv.weight"]
    elif change == "extra":
        state["blocks.0.attn.wig"] = torch.zeros(1)
    else:
        state["norm.weight"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match="file: the weights do not fit"):
        fit_vit(create_vit(name, overrides=SMALL[name]), state, source="file")


def test_openais_projection_is_handed_over() -> None:
    """OpenAI's layout: fused query-key-value in torch's own attention, the projection as (width, dim)."""
    name = "vit_base_patch16_clip_quickgelu_224"
    original = timm.create_model(name, num_classes=20, **SMALL[name])
    renamed = {
        "norm_pre": "ln_pre",
        "norm.": "ln_post.",
        "blocks.": "transformer.resblocks.",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "patch_embed.proj": "conv1",
    }
    state = {}
    for key, tensor in original.state_dict().items():
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        state[f"visual.{key}"] = tensor
    projection = state.pop("visual.head.weight")
    state.pop("visual.head.bias", None)
    state["visual.proj"] = projection.T
    state["visual.class_embedding"] = state.pop("visual.cls_token")[0, 0]
    state["visual.positional_embedding"] = state.pop("visual.pos_embed")[0]
    classifier = fit_vit(create_vit(name, overrides=SMALL[name]), state, source="file")
    torch.testing.assert_close(classifier["weight"], projection)


def test_a_fetched_linear_head_is_timms_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection: timm is made to give random weights where it would fetch some."""
    name, made = "vit_base_patch16_clip_quickgelu_224", []
    create = timm.create_model

    def offline(name: str, *, pretrained: bool, **settings: Any) -> Any:
        vit = create(name, pretrained=False, **settings)
        made.append((pretrained, {k: t.clone() for k, t in vit.state_dict().items()}))
        return vit

    monkeypatch.setattr(timm, "create_model", offline)
    head = {"type": "linear", "dim": 20}
    settings = Preprocessing("stretch", 32, 16, **CLIP_STATISTICS)
    model = TimmViT(f"{name}.openai", settings, head=head, pretrained=True, overrides=SMALL[name])
    ((pretrained, fetched),) = made
    assert pretrained
    assert torch.equal(model.head.get_parameter("linear.weight"), fetched["head.weight"])
    expected_bias = fetched.get("head.bias", torch.zeros(20))
    assert torch.equal(model.head.get_parameter("linear.bias"), expected_bias)
    assert not [key for key in model.vit.state_dict() if key.startswith("head.")]
    assert model.encode([noise_photo()])[0].tokens.shape == (2, 2, 20)


def test_weights_that_cannot_be_fetched_are_no_fault_of_the_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no route to host\nand so on")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(HubError, match=r"lvd142m cannot be fetched \(no route to host\)"):
        create_vit("vit_small_patch14_dinov2.lvd142m", pretrained=True)
