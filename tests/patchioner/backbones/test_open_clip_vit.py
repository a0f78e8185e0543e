"""CLIP's visual tower: open_clip's own `encode_image` and `forward_intermediates` are the oracle."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from patchioner.backbones import load_backbone, preprocess
from patchioner.backbones.clip import (
    CLIP_MEAN,
    OpenClipViT,
    clip_preprocessing,
    model_config,
)
from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError
from patchioner.geometry import Fit
from tests.support.tiny import noise_photo

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


def test_grids_need_not_be_square() -> None:
    features = tiny(mode="aspect").encode([noise_photo(130, 60)])[0]
    rows, columns = features.geometry.grid
    assert columns > rows
    assert features.tokens.shape == (rows, columns, 16)
    assert features.attention is not None
    assert features.attention.shape == (4, rows, columns)


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


def test_the_value_mode_is_the_value_path_written_out() -> None:
    model, photo = tiny(dense="value"), noise_photo()
    visual = model.visual
    block = visual.transformer.resblocks[-1]
    with torch.no_grad():
        normed = block.ln_1(model.before_last(pixels_of(model, photo), (4, 4)))[0, 1:]
        value = normed @ block.attn.in_proj_weight[64:].T + block.attn.in_proj_bias[64:]
        expected = visual.ln_post(block.attn.out_proj(value)) @ visual.proj
    torch.testing.assert_close(model.encode([photo])[0].tokens.flatten(0, 1), expected)


def test_the_rest_of_the_block_is_a_choice() -> None:
    defaults = [tiny(dense=mode).rest for mode in ("plain", "value", "self_self")]
    assert defaults == [True, False, True]
    photo = noise_photo()
    with_rest, without = (tiny(rest=rest).encode([photo])[0] for rest in (True, False))
    assert not torch.allclose(with_rest.tokens, without.tokens, atol=1e-2)
    assert torch.allclose(with_rest.cls, without.cls, atol=1e-5)  # type: ignore[arg-type]


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


def test_passes_are_bounded_and_features_do_not_keep_their_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, seen = tiny(), []
    dense = model.dense
    monkeypatch.setattr(model, "patches_per_pass_cpu", 40)

    def counted(pixels: Tensor, grid: tuple[int, int]) -> Any:
        seen.append(len(pixels))
        return dense(pixels, grid)

    monkeypatch.setattr(model, "dense", counted)
    found = model.encode([noise_photo(seed=seed) for seed in range(5)])
    assert seen == [2, 2, 1]
    assert all(one.tokens.untyped_storage().nbytes() == one.tokens.nbytes for one in found)
    assert model.encode([]) == []


def test_threads_share_a_model() -> None:
    model = tiny(dense="self_self")
    photos = [noise_photo(seed=seed) for seed in range(4)]
    expected = [model.encode([photo])[0].tokens for photo in photos]
    found: dict[int, Tensor] = {}

    def work(index: int) -> None:
        found[index] = model.encode([photos[index]])[0].tokens

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], tokens) for index, tokens in enumerate(expected))


def test_half_precision_computes_and_features_stay_float32() -> None:
    model, photo = tiny(dense="value"), noise_photo()
    exact = model.encode([photo])[0]
    model.place(torch.device("cpu"), torch.bfloat16)
    rounded = model.encode([photo])[0]
    assert rounded.tokens.dtype == torch.float32
    assert torch.cosine_similarity(rounded.tokens, exact.tokens, dim=-1).min() > 0.98


def test_the_network_is_differentiable() -> None:
    model = tiny(dense="self_self")
    out = model.dense(pixels_of(model, noise_photo()), (4, 4))
    (out.tokens.square().mean() + out.cls.square().mean()).backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in model.visual.parameters()
    )


@pytest.mark.parametrize(
    "settings", [{}, {"dense": "value"}, {"dense": "self_self", "rest": False}]
)
def test_a_saved_backbone_comes_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    model, photo = tiny(gelu=True, **settings), noise_photo()
    model.save(tmp_path, storage="fp32")
    assert not any("text" in name for name in load_file(tmp_path / "weights.safetensors"))
    torch.manual_seed(99)
    loaded = load_backbone(tmp_path)
    assert isinstance(loaded, OpenClipViT)
    assert loaded.config == model.config
    assert not loaded.training
    first, second = (m.encode([photo])[0] for m in (loaded, model))
    assert torch.equal(first.tokens, second.tokens)
    assert first.geometry == second.geometry


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


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    del weights["visual.proj"]
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"missing visual\.proj"):
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


@pytest.mark.slow
def test_weights_come_from_a_file_of_open_clips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = open_clip.create_model("ViT-S-32-alt").eval()
    path = tmp_path / "open_clip_model.safetensors"
    save_file(whole.state_dict(), path)
    model = OpenClipViT("ViT-S-32-alt", clip_preprocessing(224, 32), pretrained=str(path))
    cls = model.encode([noise_photo()])[0].cls
    assert cls is not None
    with torch.no_grad():
        torch.testing.assert_close(
            cls, whole.encode_image(pixels_of(model, noise_photo()))[0], rtol=1e-4, atol=1e-5
        )


def test_the_callers_architecture_is_left_alone() -> None:
    mine = architecture()
    before = json.dumps(mine)
    model = OpenClipViT("mine", clip_preprocessing(NATIVE, PATCH), architecture=mine)
    mine["vision_cfg"]["width"] = 1
    assert model.config["architecture"] == json.loads(before)
    assert clip_preprocessing().mean == CLIP_MEAN


LARGE = ("ViT-B-16", 592, 16)
TRUE_SHAPES = [
    ("ViT-B-32", 224, 32, "plain"),
    ("ViT-B-16", 224, 16, "plain"),
    ("ViT-B-16", 224, 16, "value"),
    *(pytest.param(*LARGE, dense, marks=pytest.mark.slow) for dense in ("plain", "self_self")),
]


@pytest.mark.parametrize(("name", "size", "patch", "dense"), TRUE_SHAPES)
def test_true_shapes(name: str, size: int, patch: int, dense: Any) -> None:
    torch.manual_seed(0)
    model = OpenClipViT(name, clip_preprocessing(size, patch), quick_gelu=True, dense=dense)
    features = model.encode([noise_photo(640, 480)])[0]
    side = size // patch
    assert model.dim == 512
    assert features.tokens.shape == (side, side, 512)
    assert features.geometry.grid == (side, side)
    assert features.geometry.to_grid([[640.0, 480.0]]).tolist() == [[side, side]]
    assert features.cls is not None
    assert features.cls.shape == (512,)
    assert features.attention is not None
    assert features.attention.shape == (12, side, side)
    assert features.tokens.isfinite().all()
    if dense == "plain" and size == 224:
        config = {**open_clip.get_model_config(name), "text_cfg": TEXT, "quick_gelu": True}
        whole = open_clip.CLIP(**config).eval()
        whole.visual.load_state_dict(model.visual.state_dict())
        with torch.no_grad():
            expected = whole.encode_image(pixels_of(model, noise_photo(640, 480)))[0]
        torch.testing.assert_close(features.cls, expected, rtol=1e-4, atol=1e-4)
