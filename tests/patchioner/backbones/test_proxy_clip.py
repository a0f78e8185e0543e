"""ProxyCLIP: the paper's formula written out pair by pair, on grids that agree and on grids that do not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones import TimmViT, load_backbone, preprocess
from patchioner.backbones.clip import OpenClipViT, clip_preprocessing
from patchioner.backbones.proxy import ProxyClip, proxy_attention, resample
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.geometry import Fit, Preprocessing
from tests.support.tiny import noise_photo, tiny_backbone

pytest.importorskip("open_clip")
TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
VISION = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}


def tiny_clip(size: int = 32, mode: Fit = "stretch", **vision: Any) -> OpenClipViT:
    torch.manual_seed(3)
    config = {"embed_dim": 20, "vision_cfg": {**VISION, **vision}, "text_cfg": TEXT}
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


def test_the_lengths_of_tokens_do_not_matter() -> None:
    tokens = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    lengths = torch.rand(9, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    torch.testing.assert_close(proxy_attention(tokens * lengths), proxy_attention(tokens))


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


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_nearly_the_same(kind: torch.dtype) -> None:
    backbone = ProxyClip(tiny_clip(48), tiny_proxy())
    whole = backbone.encode([noise_photo()])[0]
    backbone.place(torch.device("cpu"), kind)
    half = backbone.encode([noise_photo()])[0]
    assert half.tokens.dtype == torch.float32
    assert F.cosine_similarity(half.tokens, whole.tokens, dim=-1).min() > 0.99
    assert half.attention is not None
    torch.testing.assert_close(half.attention.sum(dim=(1, 2)), torch.ones(len(half.attention)))


def test_photos_do_not_influence_one_another() -> None:
    model = ProxyClip(tiny_clip(), tiny_proxy())
    photos = [noise_photo(seed=seed) for seed in range(3)]
    for photo, together in zip(photos, model.encode(photos), strict=True):
        assert torch.equal(model.encode([photo])[0].tokens, together.tokens)


def test_both_backbones_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, photo = ProxyClip(tiny_clip(), tiny_proxy()), noise_photo()
    exact = model.encode([photo])[0]
    model.place(torch.device("cpu"), torch.bfloat16)
    assert model.clip.visual.proj.dtype == torch.bfloat16
    assert model.proxy.head.patch_mean.dtype == torch.float32  # type: ignore[union-attr]
    rounded = model.encode([photo])[0]
    assert rounded.tokens.dtype == torch.float32
    assert rounded.attention is not None
    assert rounded.attention.dtype == torch.float32
    assert F.cosine_similarity(rounded.tokens, exact.tokens, dim=-1).mean() > 0.95


def test_a_saved_backbone_comes_back_whole(tmp_path: Path) -> None:
    model, photo = ProxyClip(tiny_clip(), tiny_proxy(), shift=1.1, scale=4.0), noise_photo()
    model.save(tmp_path, storage="fp32")
    torch.manual_seed(99)
    loaded = load_backbone(tmp_path)
    assert isinstance(loaded, ProxyClip)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded.encode([photo])[0].tokens, model.encode([photo])[0].tokens)
    model.restore(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": 0}, "shift.*positive"),
        ({"scale": "big"}, "big"),
        ({"scale": None}, "wrong setting"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    ProxyClip(tiny_clip(), tiny_proxy()).save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path)


def test_a_folder_whose_clip_is_none_is_refused(tmp_path: Path) -> None:
    ProxyClip(tiny_clip(), tiny_proxy()).save(tmp_path)
    tiny_proxy().save(tmp_path / "clip")
    with pytest.raises(CheckpointError, match="'test_vit' does not allow"):
        load_backbone(tmp_path)


def test_backbones_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(OptionError, match="'stretch' and the proxy by 'aspect'"):
        ProxyClip(tiny_clip(), tiny_proxy(mode="aspect"))
    with pytest.raises(OptionError, match="does not allow"):
        ProxyClip(tiny_clip(qk_norm=True), tiny_proxy())
    for factors in ({"shift": -1.0}, {"scale": math.nan}):
        with pytest.raises(OptionError, match="positive"):
            ProxyClip(tiny_clip(), tiny_proxy(), **factors)


@pytest.mark.slow
def test_true_shapes() -> None:
    torch.manual_seed(0)
    clip = OpenClipViT("ViT-B-16", clip_preprocessing(224, 16), quick_gelu=True)
    dino = TimmViT("vit_small_patch8_224", Preprocessing("stretch", 224, 8))
    features = ProxyClip(clip, dino).encode([noise_photo(640, 480)])[0]
    assert features.tokens.shape == (28, 28, 512)
    assert features.geometry.grid == (28, 28)
    assert features.tokens.isfinite().all()
