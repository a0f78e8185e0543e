"""Any timm ViT: the same tokens as timm's own forward pass, and the attention that timm itself computes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from patchioner.backbones import PatchFeatures, TimmViT, preprocess
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.geometry import Fit, Preprocessing
from tests.support.tiny import noise_photo, tiny_backbone

PLAIN = {
    "test_vit": 16,
    "vit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch14_reg4_dinov2": 14,
    "vit_xsmall_patch16_clip_224": 16,
    "deit_tiny_distilled_patch16_224": 16,
    "vit_tiny_r_s16_p8_224": 32,
}
ROTARY = {"vit_tiny_patch16_dinov3_qkvb": 16, "eva02_tiny_patch14_224": 14}
WITHOUT_CLS = {"test_vit2": 16, "test_vit4": 16}
_MADE: dict[str, TimmViT] = {}


def backbone(name: str, patch: int, mode: Fit = "aspect") -> TimmViT:
    """One network per name for the whole module; inputs far from the native size, so positions are interpolated."""
    if name not in _MADE:
        torch.manual_seed(0)
        made = TimmViT(name, Preprocessing(mode, 5 * patch, patch))
        with (
            torch.no_grad()
        ):  # timm starts some scales near zero, which would hide most of the network
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        _MADE[name] = made
    return _MADE[name]


def reference(model: TimmViT, image: Image.Image) -> tuple[Tensor, Tensor | None]:
    """timm's own tokens (1, N, dim), and the last block's softmax (heads, N, N) as its unfused code path has it."""
    pixels, _ = preprocess(image, model.preprocessing)
    seen: list[Tensor] = []
    attention = model.vit.blocks[-1].attn
    fused, attention.fused_attn = attention.fused_attn, False
    drop = attention.attn_drop
    handle = drop.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0][0]))
    try:
        with torch.no_grad():
            tokens = model.vit.forward_features(pixels[None])
    finally:
        handle.remove()
        attention.fused_attn = fused
    return tokens, seen[0] if seen else None


@pytest.mark.parametrize(("name", "patch"), [*PLAIN.items(), *ROTARY.items(), *WITHOUT_CLS.items()])
@pytest.mark.parametrize("size", [(130, 60), (50, 50)])
def test_tokens_are_timms_own_on_any_grid(name: str, patch: int, size: tuple[int, int]) -> None:
    model, photo = backbone(name, patch), noise_photo(*size)
    tokens, _ = reference(model, photo)
    features = model.encode([photo])[0]
    rows, columns = features.geometry.grid
    assert (rows != columns) == (size[0] != size[1])
    prefix = model.vit.num_prefix_tokens
    assert features.tokens.shape == (rows, columns, model.dim)
    torch.testing.assert_close(
        features.tokens.flatten(0, 1), tokens[0, prefix:], rtol=1e-4, atol=1e-4
    )
    assert (features.cls is None) == (name in WITHOUT_CLS)
    if features.cls is not None:
        torch.testing.assert_close(features.cls, tokens[0, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "patch"), PLAIN.items())
def test_attention_is_the_cls_row_of_timms_softmax(name: str, patch: int) -> None:
    model, photo = backbone(name, patch), noise_photo(130, 60)
    _, softmax = reference(model, photo)
    attention = model.encode([photo])[0].attention
    assert softmax is not None
    assert attention is not None
    row = softmax[:, 0, model.vit.num_prefix_tokens :]
    torch.testing.assert_close(
        attention.flatten(1), row / row.sum(1, keepdim=True), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(len(attention)))


@pytest.mark.parametrize(("name", "patch"), [*ROTARY.items(), *WITHOUT_CLS.items()])
def test_where_attention_is_not_plain_there_is_none_rather_than_a_wrong_one(
    name: str, patch: int
) -> None:
    assert backbone(name, patch).encode([noise_photo()])[0].attention is None


def modules_with_hooks(model: nn.Module) -> list[str]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [name for name, part in model.named_modules() if any(getattr(part, k) for k in kinds)]


def test_no_hook_is_left_behind() -> None:
    model = tiny_backbone()
    model.encode([noise_photo()])
    assert modules_with_hooks(model) == []


def test_an_image_is_encoded_alike_alone_and_among_others_and_by_two_threads() -> None:
    model = tiny_backbone()
    photos = [noise_photo(seed=seed) for seed in range(4)]
    alone = [model.encode([photo])[0] for photo in photos]
    together = model.encode(photos)
    threaded: dict[int, PatchFeatures] = {}

    def work(first: int) -> None:
        for index in range(first, len(photos), 2):
            threaded[index] = model.encode([photos[index]])[0]

    threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, expected in enumerate(alone):
        for features in (together[index], threaded[index]):
            assert torch.equal(features.tokens, expected.tokens)
            assert features.attention is not None
            assert expected.attention is not None
            assert torch.equal(features.attention, expected.attention)


def test_features_are_float32_whatever_the_network_computes_in() -> None:
    model, photo = tiny_backbone(), noise_photo()
    exact = model.encode([photo])[0]
    model.vit.to(torch.bfloat16)
    rounded = model.encode([photo])[0]
    assert rounded.tokens.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rounded.tokens, exact.tokens, dim=-1).min() > 0.98


def test_the_head_sees_raw_tokens_and_sets_the_width() -> None:
    torch.manual_seed(0)
    settings = Preprocessing("stretch", 32, 16)
    plain = TimmViT("test_vit", settings)
    headed = TimmViT("test_vit", settings, head={"type": "linear", "dim": 10})
    headed.vit.load_state_dict(plain.vit.state_dict())
    raw, projected = (model.encode([noise_photo()])[0] for model in (plain, headed))
    assert (plain.dim, headed.dim, projected.dim) == (64, 10, 10)
    with torch.no_grad():
        torch.testing.assert_close(projected.tokens, headed.head(raw.tokens, None)[0])


def test_the_same_network_is_differentiable_for_training() -> None:
    model = tiny_backbone()
    pixels, geometry = preprocess(noise_photo(), model.preprocessing)
    tokens, cls, attention, _ = model.dense(pixels[None], geometry.grid)
    assert cls is not None
    assert attention is not None
    (tokens.square().mean() + cls.square().mean()).backward()
    gradients = [parameter.grad for parameter in model.vit.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "name", ["resnet18", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"]
)
def test_what_is_no_plain_vit_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name}.*not a vision transformer"):
        TimmViT(name, Preprocessing("stretch", 64, 16))


def test_an_unknown_architecture_offers_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="vit_smal_patch14_dinov2.*vit_small_patch14_dinov2"):
        TimmViT("vit_smal_patch14_dinov2", Preprocessing())


def test_a_wrong_patch_size_is_refused_with_the_right_one() -> None:
    with pytest.raises(OptionError, match=r"\(16, 16\).*says 14.*patch_size to 16"):
        TimmViT("test_vit", Preprocessing("stretch", 56, 14))


def test_the_config_rebuilds_the_backbone() -> None:
    config: dict[str, Any] = tiny_backbone(mode="pad").config
    rebuilt = TimmViT(
        config["name"], Preprocessing.from_config(config["preprocessing"]), head=config["head"]
    )
    assert rebuilt.config == config
