"""CLIP through open_clip, which is the oracle; the last block by head; ProxyCLIP's formula written out pair by pair."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones import TimmViT, clip, load_backbone, preprocess
from patchioner.backbones.clip import (
    LastBlock,
    OpenClipViT,
    clip_preprocessing,
    is_plain,
    model_config,
    resize_positions,
)
from patchioner.backbones.proxy import ProxyClip, proxy_attention, resample
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError
from patchioner.geometry import Fit
from tests.support.tiny import noise_photo, tiny_backbone

open_clip = pytest.importorskip("open_clip")


PATCH, NATIVE = 8, 32


TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}


VISION = {"layers": 3, "width": 32, "head_width": 8, "patch_size": PATCH, "image_size": NATIVE}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_pre_norm": {"no_ln_pre": True, "ls_init_value": 0.5},
    "mean_pooled": {"pool_type": "avg", "final_ln_after_pool": True},
    "mean_of_normed": {"pool_type": "avg"},
    "sin_cos": {"pos_embed_type": "sin_cos_2d"},
    "custom_block": {"qk_norm": True},
}


def architecture(quick_gelu: bool = False, **vision: Any) -> dict[str, Any]:
    return {
        "embed_dim": 16,
        "vision_cfg": {**VISION, **vision},
        "text_cfg": dict(TEXT),
        "quick_gelu": quick_gelu,
    }


def tiny(
    kind: str = "plain", *, size: int = NATIVE, mode: Fit = "stretch", **settings: Any
) -> OpenClipViT:
    """Random weights, none of them near zero."""
    torch.manual_seed(0)
    quick = settings.pop("gelu", False)
    made = OpenClipViT(
        f"tiny {kind}",
        clip_preprocessing(size, PATCH, mode),
        architecture=architecture(quick, **KINDS[kind]),
        **settings,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def oracle(model: OpenClipViT, size: int = NATIVE) -> Any:
    """A whole open_clip model with our weights, at its own public interface, built for another input size."""
    config = architecture(model.quick_gelu, **(model.architecture or {})["vision_cfg"])
    config["vision_cfg"]["image_size"] = size
    whole = open_clip.CLIP(**config).eval()
    state = {f"visual.{k}": v for k, v in model.visual.state_dict().items()}
    open_clip.model.resize_pos_embed(state, whole)
    whole.visual.load_state_dict({k.removeprefix("visual."): v for k, v in state.items()})
    return whole


def pixels_of(model: OpenClipViT, image: Image.Image) -> Tensor:
    return preprocess(image, model.preprocessing)[0][None]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_cls_are_open_clips_own(kind: str, quick: bool) -> None:
    model, photo = tiny(kind, gelu=quick), noise_photo(60, 44)
    features = model.encode([photo])[0]
    whole, pixels = oracle(model), pixels_of(model, photo)
    with torch.no_grad():
        expected = whole.encode_image(pixels)[0]
        inner = whole.visual.forward_intermediates(pixels, indices=1, output_fmt="NLC")
        patches = whole.visual.ln_post(inner["image_intermediates"][0][0]) @ whole.visual.proj
    assert features.cls is not None
    torch.testing.assert_close(features.cls, expected, rtol=1e-4, atol=1e-5)
    assert features.tokens.shape == (4, 4, 16)
    torch.testing.assert_close(features.tokens.flatten(0, 1), patches, rtol=1e-4, atol=1e-5)
    assert (features.attention is None) == (kind == "custom_block")


@pytest.mark.parametrize("kind", ["plain", "mean_pooled"])
@pytest.mark.parametrize("size", [24, 56, 80])
def test_other_sizes_resize_positions_as_open_clip_does(kind: str, size: int) -> None:
    model, photo = tiny(kind, size=size), noise_photo()
    features = model.encode([photo])[0]
    with torch.no_grad():
        expected = oracle(model, size).encode_image(pixels_of(model, photo))[0]
    assert features.geometry.grid == (size // PATCH, size // PATCH)
    assert features.cls is not None
    torch.testing.assert_close(features.cls, expected, rtol=1e-4, atol=1e-5)


def attention_row(model: OpenClipViT, photo: Image.Image) -> Tensor:
    """CLS row of torch's own attention weights in the last block, (heads, patches), summing to 1."""
    block = model.visual.transformer.resblocks[-1]
    with torch.no_grad():
        x = model.before_last(pixels_of(model, photo), (4, 4))
        normed = block.ln_1(x)
        maps = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)[1]
    row: Tensor = maps[0, :, 0, 1:]
    return row / row.sum(1, keepdim=True)


@pytest.mark.parametrize("dense", ["plain", "value", "self_self"])
def test_attention_is_torchs_own_in_every_mode(dense: Any) -> None:
    model, photo = tiny(dense=dense), noise_photo()
    features = model.encode([photo])[0]
    assert features.attention is not None
    torch.testing.assert_close(features.attention.flatten(1), attention_row(model, photo))
    assert features.reference_attention is not None
    assert features.reference_attention.shape == (4, 4)
    torch.testing.assert_close(features.reference_attention.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("kind", ["plain", "mean_pooled"])
@pytest.mark.parametrize("dense", ["value", "self_self"])
def test_dense_modes_change_patches_and_leave_the_cls(dense: Any, kind: str) -> None:
    photo = noise_photo()
    ordinary, model = tiny(kind).encode([photo])[0], tiny(kind, dense=dense)
    features = model.encode([photo])[0]
    assert features.cls is not None
    assert ordinary.cls is not None
    torch.testing.assert_close(features.cls, ordinary.cls, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features.tokens, ordinary.tokens, atol=1e-2)


@pytest.mark.parametrize("dense", ["plain", "self_self"])
def test_a_photo_is_encoded_alike_alone_and_among_others_of_any_shape(dense: Any) -> None:
    model = tiny(mode="aspect", dense=dense)
    sizes = [(96, 64), (64, 96), (50, 50), (96, 64), (30, 90), (96, 65)]
    photos = [noise_photo(*size, seed=seed) for seed, size in enumerate(sizes)]
    for photo, together in zip(photos, model.encode(photos), strict=True):
        alone = model.encode([photo])[0]
        assert together.geometry == alone.geometry
        for name in ("tokens", "cls", "attention", "reference_attention"):
            torch.testing.assert_close(
                getattr(together, name), getattr(alone, name), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense": "sparse"}, "sparse.*self_self"),
        ({"architecture": {"embed_dim": 16}}, "lacks 'vision_cfg'"),
        ({"architecture": architecture(wdth=3)}, "wdth"),
        ({"architecture": architecture(width=36)}, r"wrong shape.*\(32,\).*\(36,\)"),
        ({"architecture": None, "name": "ViT-B16"}, "ViT-B16.*ViT-B-16"),
        ({"preprocessing": {"size": 28, "patch_size": 14}}, "(8, 8)"),
        ({"preprocessing": None}, "wrong setting"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    tiny().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RN50", "RN50.*ResNet"),
        ("ViT-B-16-SigLIP", "timm"),
        ("coca_ViT-B-32", "attention pooling"),
    ],
)
def test_what_is_no_plain_vit_is_refused(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        OpenClipViT(name, clip_preprocessing())


def test_a_dense_mode_needs_a_plain_last_block() -> None:
    with pytest.raises(OptionError, match='dense="plain"'):
        tiny("custom_block", dense="value")


def test_an_unknown_name_or_tag_offers_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="ViT-B16.*ViT-B-16"):
        OpenClipViT("ViT-B16", clip_preprocessing())
    with pytest.raises(UnknownNameError, match="'opnai'.*'openai'"):
        OpenClipViT("ViT-B-32", clip_preprocessing(224, 32), pretrained="opnai")
    with pytest.raises(OptionError, match="not with an architecture"):
        OpenClipViT("mine", clip_preprocessing(), architecture=architecture(), pretrained="openai")


def test_the_activation_is_that_of_the_weights() -> None:
    assert model_config("ViT-B-16", pretrained="openai")["quick_gelu"] is True
    assert model_config("ViT-B-16", pretrained="laion2b_s34b_b88k")["quick_gelu"] is False
    assert model_config("ViT-B-16-quickgelu")["quick_gelu"] is True
    assert model_config("ViT-B-16")["quick_gelu"] is False
    assert model_config("ViT-B-16", quick_gelu=True)["quick_gelu"] is True


class Attack:
    """Unpickled, it would fail the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was executed",)


def test_weights_that_cannot_be_had_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(b"not a file of weights")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not hold.*ViT-S-32"):
        OpenClipViT("ViT-S-32", clip_preprocessing(224, 32), pretrained=str(broken))

    pickled = tmp_path / "weights.pt"
    pickled.write_bytes(pickle.dumps({"a": Attack()}))
    with pytest.raises(CheckpointError, match=r"weights\.pt: .*nothing was executed"):
        OpenClipViT("ViT-S-32", clip_preprocessing(224, 32), pretrained=str(pickled))

    def offline(*_args: Any, **_settings: Any) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(HubError, match="'openai' of ViT-B-16 cannot be fetched: no route"):
        OpenClipViT("ViT-B-16", clip_preprocessing(), pretrained="openai")


LARGE = ("ViT-B-16", 592, 16)


TRUE_SHAPES = [
    ("ViT-B-32", 224, 32, "plain"),
    ("ViT-B-16", 224, 16, "plain"),
    ("ViT-B-16", 224, 16, "value"),
    *(pytest.param(*LARGE, dense, marks=pytest.mark.slow) for dense in ("plain", "self_self")),
]


transformer = pytest.importorskip("open_clip.transformer")


WIDTH, HEADS, TOKENS = 24, 3, 7


def block(ls: float | None = None) -> Any:
    torch.manual_seed(0)
    made = transformer.ResidualAttentionBlock(WIDTH, HEADS, ls_init_value=ls).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made


def inputs() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def plain_twin(made: Any, x: Tensor, mode: str, rest: bool) -> Tensor:
    """One image, one head at a time, softmaxes written out."""
    attention = made.attn
    weight, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    results = []
    for one in x:
        normed = made.ln_1(one)
        q, k, v = (normed @ weight[i].T + bias[i] for i in range(3))
        heads = []
        for h in range(HEADS):
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            scale = (WIDTH / HEADS) ** -0.5
            if mode == "value":
                weights = torch.eye(TOKENS)
            elif mode == "self_self":
                weights = F.softmax(q[:, part] @ q[:, part].T * scale, -1)
                weights = weights + F.softmax(k[:, part] @ k[:, part].T * scale, -1)
            else:
                weights = F.softmax(q[:, part] @ k[:, part].T * scale, -1)
            heads.append(weights @ v[:, part])
        out = made.ls_1(
            torch.cat(heads, -1) @ attention.out_proj.weight.T + attention.out_proj.bias
        )
        if rest:
            out = one + out
            out = out + made.ls_2(made.mlp(made.ln_2(out)))
        results.append(out)
    return torch.stack(results)


@pytest.mark.parametrize("ls", [None, 0.5])
def test_the_whole_block_is_open_clips_own(ls: float | None) -> None:
    made, x = block(ls), inputs()
    with torch.no_grad():
        expected, last = made(x), LastBlock.of(made, x)
        torch.testing.assert_close(last.outputs(), expected)
        torch.testing.assert_close(last.cls(), expected[:, 0])
        torch.testing.assert_close(last.patches("plain", True), expected[:, 1:])


@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize("mode", ["plain", "value", "self_self"])
def test_each_mode_equals_its_plain_twin(mode: Any, rest: bool) -> None:
    made, x = block(0.5), inputs()
    with torch.no_grad():
        got = LastBlock.of(made, x).patches(mode, rest)
        torch.testing.assert_close(got, plain_twin(made, x, mode, rest)[:, 1:])


def test_only_the_ordinary_block_is_taken_apart() -> None:
    assert is_plain(block())
    assert not is_plain(transformer.CustomResidualAttentionBlock(WIDTH, HEADS))
    assert not is_plain(transformer.ResidualAttentionBlock(WIDTH, HEADS, is_cross_attention=True))
    assert not is_plain(transformer.ResidualAttentionBlock(WIDTH, HEADS, batch_first=False))


def test_positions_of_the_native_grid_are_untouched_and_others_keep_cls_and_mean() -> None:
    positions = torch.randn(1 + 12, WIDTH, generator=torch.Generator().manual_seed(2))
    assert resize_positions(positions, (3, 4), (3, 4)) is positions
    resized = resize_positions(positions, (3, 4), (5, 9))
    assert resized.shape == (1 + 45, WIDTH)
    assert torch.equal(resized[0], positions[0])
    flat = torch.ones(13, WIDTH)
    torch.testing.assert_close(resize_positions(flat, (3, 4), (5, 9)), torch.ones(46, WIDTH))


pytest.importorskip("open_clip")


PROXY_VISION = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}


def tiny_clip(size: int = 32, mode: Fit = "stretch", **vision: Any) -> OpenClipViT:
    torch.manual_seed(3)
    config = {"embed_dim": 20, "vision_cfg": {**PROXY_VISION, **vision}, "text_cfg": TEXT}
    made = OpenClipViT("tiny", clip_preprocessing(size, 8, mode), architecture=config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def tiny_proxy(size: int = 64, mode: Fit = "stretch") -> TimmViT:
    return tiny_backbone(mode=mode, size=size)


def plain_attention(tokens: Tensor, shift: float, scale: float) -> Tensor:
    """The formula with loops, in float64."""
    unit = [token / token.norm() for token in tokens.double()]
    n = len(unit)
    cosine = [[float(a @ b) for b in unit] for a in unit]
    mean = sum(map(sum, cosine)) / n**2
    rows = []
    for i in range(n):
        scores = [scale * (cosine[i][j] - shift * mean) for j in range(n)]
        powers = [math.exp(s) if s >= 0 else 0.0 for s in scores]
        rows.append([power / sum(powers) for power in powers])
    return torch.tensor(rows)


@pytest.mark.parametrize(("shift", "scale"), [(1.2, 3.0), (1.0, 2.0), (1.6, 5.0)])
def test_attention_is_the_formula_written_out(shift: float, scale: float) -> None:
    tokens = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)) + 0.4
    attention = proxy_attention(tokens, shift=shift, scale=scale)
    torch.testing.assert_close(
        attention, plain_attention(tokens, shift, scale), atol=1e-6, rtol=1e-5
    )
    assert bool((attention == 0).any())


@pytest.mark.parametrize("tokens", [torch.ones(4, 3), torch.zeros(4, 3), torch.eye(4) * 0 + 2])
def test_tokens_too_alike_for_the_formula_attend_to_themselves(tokens: Tensor) -> None:
    attention = proxy_attention(tokens)
    assert attention.isfinite().all()
    torch.testing.assert_close(attention.sum(1), torch.ones(4))


def expected_tokens(clip: OpenClipViT, proxy: TimmViT, photo: Any) -> Tensor:
    """The method without `LastBlock`: values by hand, one photo, CLIP's grid equal to the proxy's."""
    pixels, geometry = preprocess(photo, clip.preprocessing)
    visual = clip.visual
    block = visual.transformer.resblocks[-1]
    with torch.no_grad():
        normed = block.ln_1(clip.before_last(pixels[None], geometry.grid))[0, 1:]
        values = normed @ block.attn.in_proj_weight[64:].T + block.attn.in_proj_bias[64:]
        along = plain_attention(proxy.encode([photo])[0].tokens.flatten(0, 1), 1.2, 3.0)
        return visual.ln_post(block.attn.out_proj(along @ values)) @ visual.proj  # type: ignore[no-any-return]


def test_tokens_are_clips_values_along_the_proxys_affinities() -> None:
    clip, proxy, photo = tiny_clip(), tiny_proxy(), noise_photo()
    features = ProxyClip(clip, proxy).encode([photo])[0]
    assert features.tokens.shape == (4, 4, 20)
    torch.testing.assert_close(
        features.tokens.flatten(0, 1), expected_tokens(clip, proxy, photo), rtol=1e-4, atol=1e-5
    )
    ordinary = clip.encode([photo])[0]
    torch.testing.assert_close(features.cls, ordinary.cls)
    torch.testing.assert_close(features.attention, ordinary.attention, rtol=1e-4, atol=1e-5)
    assert features.reference_attention is None


@pytest.mark.parametrize(
    "vision", [{"pool_type": "avg"}, {"pool_type": "avg", "final_ln_after_pool": True}]
)
def test_the_image_embedding_is_clips_own_however_it_pools(vision: dict[str, Any]) -> None:
    clip, photo = tiny_clip(**vision), noise_photo()
    features = ProxyClip(clip, tiny_proxy()).encode([photo])[0]
    torch.testing.assert_close(features.cls, clip.encode([photo])[0].cls, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("clip_size", "proxy_size"), [(32, 96), (64, 48), (24, 80)])
@pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
def test_the_grid_is_the_proxys_whatever_clips(clip_size: int, proxy_size: int, mode: Fit) -> None:
    clip, proxy = tiny_clip(clip_size, mode), tiny_proxy(proxy_size, mode)
    model, photo = ProxyClip(clip, proxy), noise_photo(96, 64)
    features = model.encode([photo])[0]
    assert features.geometry == proxy.geometry(photo.size) == model.geometry(photo.size)
    rows, columns = features.geometry.grid
    assert features.tokens.shape == (rows, columns, 20)
    assert features.attention is not None
    assert features.attention.shape == (4, rows, columns)
    torch.testing.assert_close(features.attention.sum((1, 2)), torch.ones(4))
    assert features.tokens.isfinite().all()


def test_resampling_keeps_places_and_constants() -> None:
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 4, 4, 1)
    finer = resample(ramp, (8, 8))
    assert finer.shape == (1, 8, 8, 1)
    torch.testing.assert_close(finer[0, 0, 1:-1, 0], torch.arange(0.25, 3.0, 0.5))
    torch.testing.assert_close(resample(torch.ones(1, 8, 6, 2), (3, 5)), torch.ones(1, 3, 5, 2))
    assert resample(ramp, (4, 4)) is ramp


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": 0}, "shift.*positive"),
        ({"scale": "big"}, "big"),
        ({"scale": None}, "wrong setting"),
    ],
)
def test_a_wrong_config_is_refused_proxy(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    ProxyClip(tiny_clip(), tiny_proxy()).save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path)


def test_backbones_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(OptionError, match="'stretch' and the proxy by 'aspect'"):
        ProxyClip(tiny_clip(), tiny_proxy(mode="aspect"))
    with pytest.raises(OptionError, match="does not allow"):
        ProxyClip(tiny_clip(qk_norm=True), tiny_proxy())
    for factors in ({"shift": -1.0}, {"scale": math.nan}):
        with pytest.raises(OptionError, match="positive"):
            ProxyClip(tiny_clip(), tiny_proxy(), **factors)


def test_an_open_clip_that_is_built_in_another_way_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = transformer.ResidualAttentionBlock.forward
    clip._try_tower.cache_clear()
    monkeypatch.setattr(
        transformer.ResidualAttentionBlock, "forward", lambda self, x, **k: x + forward(self, x)
    )
    with pytest.raises(OptionError, match="open_clip.*another way"):
        tiny()
    clip._try_tower.cache_clear()
