"""CLIP through open_clip, which is the oracle; the last block by head; ProxyCLIP's formula written out pair by pair."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import open_clip
import pytest
import torch
from open_clip import transformer
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones import clip, preprocess
from patchioner.backbones.clip import OpenClipViT, ProxyClip, clip_preprocessing, model_config
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError
from patchioner.geometry import Fit
from tests.support import MonkeyPatch, attend
from tests.support.tiny import Trap, clip_architecture, noise_photo, shaken, tiny_backbone, tiny_clip

assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
PATCH, NATIVE = 8, 32
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_pre_norm": {"no_ln_pre": True, "ls_init_value": 0.5},
    "sin_cos": {"pos_embed_type": "sin_cos_2d"},
}


def architecture(quick_gelu: bool = False, **vision: Any) -> dict[str, Any]:
    return {**clip_architecture(**{"layers": 3, **vision}), "quick_gelu": quick_gelu}


def tiny(kind: str = "plain", *, size: int = NATIVE, **settings: Any) -> OpenClipViT:
    torch.manual_seed(0)
    settings["architecture"] = architecture(settings.pop("gelu", False), **KINDS[kind])
    return shaken(OpenClipViT(f"tiny {kind}", clip_preprocessing(size, PATCH), **settings), 0.05)


def oracle(model: OpenClipViT, size: int) -> Any:
    """A whole open_clip model with our weights, at its own public interface, built for another input size."""
    config = architecture(model.quick_gelu, **(model.architecture or {})["vision_cfg"])
    config["vision_cfg"]["image_size"] = size
    whole = open_clip.CLIP(**config).eval()
    state = {f"visual.{k}": v for k, v in model.visual.state_dict().items()}
    open_clip.model.resize_pos_embed(state, whole)
    whole.visual.load_state_dict({k.removeprefix("visual."): v for k, v in state.items()})
    return whole


@pytest.mark.parametrize(
    ("kind", "size", "quick"),
    [
        *((kind, NATIVE, False) for kind in KINDS),
        ("plain", NATIVE, True),
        *((kind, size, False) for kind in ("plain", "sin_cos") for size in (24, 80)),
    ],
)
@torch.no_grad()
def test_tokens_and_cls_are_open_clips_own(kind: str, size: int, quick: bool) -> None:
    """At other sizes, positions are resized as open_clip does."""
    model, photo = tiny(kind, size=size, gelu=quick), noise_photo(60, 44)
    features = model.encode([photo])[0]
    whole, pixels = oracle(model, size), preprocess(photo, model.preprocessing)[0][None]
    inner = whole.visual.forward_intermediates(pixels, indices=1, output_fmt="NLC")
    patches = whole.visual.ln_post(inner["image_intermediates"][0][0]) @ whole.visual.proj
    assert features.tokens.shape == (size // PATCH, size // PATCH, 20)
    assert_close(features.cls, whole.encode_image(pixels)[0])
    assert_close(features.tokens.flatten(0, 1), patches)


def plain_twin(made: Any, x: Tensor, mode: str) -> Any:
    """open_clip's residual block on (n, width) in single steps, with the mode's attention."""
    attention, normed = made.attn, made.ln_1(x)
    weight, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (normed @ weight[i].T + bias[i] for i in range(3))
    pairs = [(q, q), (k, k)] if mode == "self_self" else [(q, k)]
    mixed = torch.stack([attend(*pair, v, attention.num_heads)[0] for pair in pairs]).sum(0)
    out = made.ls_1(attention.out_proj(v if mode == "value" else mixed))
    if mode == "value":
        return out
    return x + out + made.ls_2(made.mlp(made.ln_2(x + out)))


@pytest.mark.parametrize("kind", ["plain", "no_pre_norm"])
@pytest.mark.parametrize("dense", ["plain", "value", "self_self"])
@torch.no_grad()
def test_dense_modes_equal_their_plain_twin(dense: Any, kind: str) -> None:
    model, photo = tiny(kind, dense=dense), noise_photo()
    features, visual = model.encode([photo])[0], model.visual
    block = visual.transformer.resblocks[-1]
    before = model.last_block(preprocess(photo, model.preprocessing)[0][None], (4, 4)).inputs
    tokens = plain_twin(block, before[0], dense)[1:]
    assert_close(features.tokens.flatten(0, 1), visual.ln_post(tokens) @ visual.proj)
    normed = block.ln_1(before)
    maps = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)[1]
    row = maps[0, :, 0, 1:]
    assert features.attention is not None and features.reference_attention is not None
    assert_close(features.attention.flatten(1), row / row.sum(1, keepdim=True))
    assert_close(features.reference_attention.sum(), torch.tensor(1.0))
    assert_close(features.cls, tiny(kind).encode([photo])[0].cls)


def test_the_activation_is_that_of_the_weights() -> None:
    for name, given, quick in (
        ("ViT-B-16", {"pretrained": "openai"}, True), ("ViT-B-16", {"pretrained": "laion2b_s34b_b88k"}, False),
        ("ViT-B-16-quickgelu", {}, True), ("ViT-B-16", {}, False), ("ViT-B-16", {"quick_gelu": True}, True),
    ):  # fmt: skip
        how: dict[str, Any] = given
        assert model_config(name, **how)["quick_gelu"] is quick


def test_weights_that_cannot_be_had_say_why(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    settings = clip_preprocessing(224, 32)
    with pytest.raises(UnknownNameError, match="'opnai'.*'openai'"):
        OpenClipViT("ViT-B-32", settings, pretrained="opnai")
    broken, pickled = tmp_path / "weights.safetensors", tmp_path / "weights.pt"
    broken.write_bytes(b"not a file of weights")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors holds no.*ViT-S-32"):
        OpenClipViT("ViT-S-32", settings, pretrained=str(broken))
    pickled.write_bytes(pickle.dumps({"a": Trap(tmp_path / "sprung")}))
    with pytest.raises(CheckpointError, match=r"weights\.pt: .*nothing was executed"):
        OpenClipViT("ViT-S-32", settings, pretrained=str(pickled))
    assert not (tmp_path / "sprung").exists()
    offline = Mock(side_effect=RuntimeError("no route to host"))
    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(HubError, match="'openai' of ViT-B-16 cannot be had: no route"):
        OpenClipViT("ViT-B-16", clip_preprocessing(), pretrained="openai")


def plain_attention(tokens: Tensor, shift: float, scale: float) -> Tensor:
    """The formula in float64."""
    unit = F.normalize(tokens.double(), dim=1)
    cosines = unit @ unit.T
    scores = scale * (cosines - shift * cosines.mean())
    powers = scores.exp() * (scores >= 0)
    return (powers / powers.sum(1, keepdim=True)).float()


@torch.no_grad()
def test_tokens_are_clips_values_along_the_proxys_affinities() -> None:
    """Without `LastBlock`: values by hand, CLIP's grid equal to the proxy's."""
    clip, proxy, photo = tiny_clip(), tiny_backbone(mode="stretch"), noise_photo()
    features, ordinary = ProxyClip(clip, proxy).encode([photo])[0], clip.encode([photo])[0]
    visual: Any = clip.visual
    block = visual.transformer.resblocks[-1]
    pixels = preprocess(photo, clip.preprocessing)[0][None]
    normed = block.ln_1(clip.last_block(pixels, features.geometry.grid).inputs)[0, 1:]
    values = normed @ block.attn.in_proj_weight[64:].T + block.attn.in_proj_bias[64:]
    along = plain_attention(proxy.encode([photo])[0].tokens.flatten(0, 1), 1.2, 3.0)
    expected = visual.ln_post(block.attn.out_proj(along @ values)) @ visual.proj
    assert_close(features.tokens.flatten(0, 1), expected)
    assert_close(features.cls, ordinary.cls)
    assert_close(features.attention, ordinary.attention)
    assert features.reference_attention is None


@pytest.mark.parametrize(
    ("clip_size", "proxy_size", "mode"), [(32, 96, "stretch"), (64, 48, "crop"), (24, 80, "pad"), (64, 48, "aspect")]
)
def test_the_grid_is_the_proxys_whatever_clips(clip_size: int, proxy_size: int, mode: Fit) -> None:
    clip, proxy = tiny_clip(clip_size, mode), tiny_backbone(mode=mode, size=proxy_size)
    model, photo = ProxyClip(clip, proxy), noise_photo(96, 64)
    features: Any = model.encode([photo])[0]
    assert features.geometry == proxy.geometry(photo.size) == model.geometry(photo.size)
    grid = features.geometry.grid
    assert (features.tokens.shape, features.attention.shape) == ((*grid, 20), (4, *grid))
    assert_close(features.attention.sum((1, 2)), torch.ones(4))
    assert features.tokens.isfinite().all()
    other: Fit = "pad" if mode == "stretch" else "stretch"
    with pytest.raises(OptionError, match=f"{mode!r}, the proxy by {other!r}"):
        ProxyClip(clip, tiny_backbone(mode=other))
    with pytest.raises(OptionError, match="last block"):
        ProxyClip(tiny_clip(qk_norm=True), proxy)


def test_an_open_clip_that_is_built_in_another_way_is_found_out(monkeypatch: MonkeyPatch) -> None:
    block = transformer.ResidualAttentionBlock
    forward = block.forward
    clip._try_tower.cache_clear()
    monkeypatch.setattr(block, "forward", lambda self, x, **k: x + forward(self, x))
    with pytest.raises(OptionError, match="open_clip.*constraints"):
        tiny()
    clip._try_tower.cache_clear()
