"""timm's ViTs: timm's own tokens and attention, heads, SigLIP's pool, published layouts."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from patchioner.backbones import TimmViT, preprocess, vit
from patchioner.backbones.vit import (
    SiglipViT,
    StandardiseHead,
    build_head,
    create_vit,
    fit_vit,
)
from patchioner.base.errors import CheckpointError, HubError, OptionError
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


def test_the_same_network_is_differentiable_for_training() -> None:
    model = tiny_backbone()
    pixels, geometry = preprocess(noise_photo(), model.preprocessing)
    tokens, cls, attention, *_ = model.dense(pixels[None], geometry.grid)
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


def test_a_wrong_patch_size_is_refused_with_the_right_one() -> None:
    with pytest.raises(OptionError, match=r"\(16, 16\).*says 14.*patch_size to 16"):
        TimmViT("test_vit", Preprocessing("stretch", 56, 14))


CLIP_STATISTICS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


# name, size, patch, width, heads, tokens before the patches


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"dept": 2}, "dept.*'depth'"), ({"num_classes": 7}, "num_classes"), ({"depth": "2"}, "2")],
)
def test_overrides_that_are_none_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create_vit("vit_small_patch14_dinov2", overrides=overrides)


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


CONFIGS: list[dict[str, Any]] = [{}, {"type": "standardise"}, {"type": "linear", "dim": 5}]


def filled(config: dict[str, Any]) -> nn.Module:
    head = build_head(config, 8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*head.parameters(), *head.buffers()]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return head


@pytest.mark.parametrize("config", CONFIGS)
def test_pooling_before_equals_pooling_after(config: dict[str, Any]) -> None:
    head, tokens = filled(config), torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(3, 12, generator=torch.Generator().manual_seed(2))
    weights /= weights.sum(1, keepdim=True)
    before = head(torch.einsum("bt,btd->bd", weights, tokens), None)[0]
    after = torch.einsum("bt,btd->bd", weights, head(tokens, None)[0])
    torch.testing.assert_close(before, after)


def test_standardising_has_statistics_of_its_own_for_the_global_token() -> None:
    head, tokens = StandardiseHead(2), torch.tensor([[3.0, 5.0]])
    head.patch_mean.fill_(1.0)
    head.patch_inverse_std.fill_(0.5)
    head.cls_mean.fill_(2.0)
    head.cls_inverse_std.fill_(2.0)
    patches, cls = head(tokens, tokens[0])
    assert patches.tolist() == [[1.0, 2.0]]
    assert cls is not None
    assert cls.tolist() == [2.0, 6.0]


NAME = "vit_base_patch16_siglip_512"


SIGLIP_SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}


HALF = (0.5, 0.5, 0.5)


def small_siglip(mode: Fit = "aspect", size: int = 80) -> SiglipViT:
    torch.manual_seed(0)
    model = SiglipViT(NAME, Preprocessing(mode, size, 16, HALF, HALF), overrides=SIGLIP_SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_a_patch_is_what_the_pool_makes_of_it_alone() -> None:
    """With one token to attend to, the softmax is 1: the pool itself is the slow twin."""
    model, photo = small_siglip(), noise_photo(130, 60)
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
    model, photo = small_siglip(), noise_photo(60, 130)
    pixels, _ = preprocess(photo, model.preprocessing)
    with torch.no_grad():
        expected = model.vit(pixels[None])[0]
    cls = model.encode([photo])[0].cls
    assert cls is not None
    torch.testing.assert_close(cls, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_the_pools_and_makes_the_pooled_values() -> None:
    model, photo = small_siglip(), noise_photo()
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


def test_open_clips_checkpoints_hold_it_under_the_visual_trunk() -> None:
    original, target = (
        small_siglip(),
        SiglipViT(NAME, Preprocessing("stretch", 64, 16), overrides=SIGLIP_SMALL),
    )
    state = {f"visual.trunk.{name}": t for name, t in original.vit.state_dict().items()}
    state["text.token_embedding.weight"] = torch.zeros(3, 3)
    assert fit_vit(target.vit, state, source="file") == {}
    for name, tensor in original.vit.state_dict().items():
        assert torch.equal(target.vit.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_gap_512", "vit_tiny_patch16_224"])
def test_without_an_attention_pool_there_is_no_way_to_the_text(name: str) -> None:
    with pytest.raises(OptionError, match="no attention pool"):
        SiglipViT(name, Preprocessing("stretch", 64, 16), overrides={"depth": 1})


def test_a_network_of_one_block_gives_no_attention_rather_than_a_wrong_one() -> None:
    model = TimmViT("test_vit", Preprocessing("stretch", 64, 16), overrides={"depth": 1})
    pixels, _ = preprocess(noise_photo(), model.preprocessing)
    with torch.no_grad():
        expected = model.vit.forward_features(pixels[None])[0]
    features = model.encode([noise_photo()])[0]
    torch.testing.assert_close(features.tokens.flatten(0, 1), expected[1:], rtol=1e-4, atol=1e-4)
    assert (features.attention, features.reference_attention) == (None, None)


def test_a_timm_that_computes_attention_in_another_way_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = vit.Attention.forward
    monkeypatch.setattr(vit.Attention, "forward", lambda self, *a, **k: 2 * forward(self, *a, **k))
    assert tiny_backbone().encode([noise_photo()])[0].attention is None
    assert timm.__version__ in caplog.text
    pool = vit.AttentionPoolLatent.forward
    monkeypatch.setattr(
        vit.AttentionPoolLatent, "forward", lambda self, *a, **k: 2 * pool(self, *a, **k)
    )
    with pytest.raises(OptionError, match=re.escape(timm.__version__)):
        small_siglip()
