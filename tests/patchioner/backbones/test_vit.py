"""timm's ViTs: timm's own tokens and attention, heads, SigLIP's pool, published layouts."""

import re
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from patchioner.backbones import TimmViT, preprocess, vit
from patchioner.backbones.vit import SiglipViT, create_vit, fit_vit
from patchioner.base.errors import CheckpointError, HubError, OptionError
from patchioner.geometry import Preprocessing
from tests.support import Capture, Log, MonkeyPatch
from tests.support.published import official_dinov2
from tests.support.tiny import SMALL, noise_photo, shaken, small_vit, tiny_backbone

PLAIN = {
    "test_vit": 16, "vit_tiny_patch16_224": 16, "vit_small_patch14_dinov2": 14, "vit_small_patch14_reg4_dinov2": 14,
    "vit_xsmall_patch16_clip_224": 16, "deit_tiny_distilled_patch16_224": 16, "vit_tiny_r_s16_p8_224": 32,
}  # fmt: skip
ROTARY = {"vit_tiny_patch16_dinov3_qkvb": 16, "eva02_tiny_patch14_224": 14}
WITHOUT_CLS = {"test_vit2": 16, "test_vit4": 16}
assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


def timms_own(model: TimmViT, image: Image.Image) -> tuple[Tensor, list[Tensor]]:
    """timm's tokens (N, dim), and the last block's softmax (heads, N, N) as its unfused code path has it, if seen."""
    pixels, _ = preprocess(image, model.preprocessing)
    seen: list[Tensor] = []
    attention = model.vit.blocks[-1].attn
    hook = attention.attn_drop.register_forward_hook(lambda _, given, __: seen.append(given[0][0]))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "fused_attn", False)
        tokens = model.vit.forward_features(pixels[None])[0]
    hook.remove()
    return tokens, seen


@pytest.mark.parametrize(("name", "patch"), [*PLAIN.items(), *ROTARY.items(), *WITHOUT_CLS.items()])
def test_tokens_are_timms_own_through_the_head_on_any_grid(name: str, patch: int) -> None:
    """On inputs far from the native size, so that positions are interpolated."""
    overrides = {} if name.startswith("test") else {"depth": 2}
    torch.manual_seed(0)
    settings, head = Preprocessing("aspect", 5 * patch, patch), {"type": "linear", "dim": 20}
    model = shaken(TimmViT(name, settings, head=head, overrides=overrides), 0.02)
    weight, bias = (model.head.get_parameter(f"linear.{k}") for k in ("weight", "bias"))
    for photo in (noise_photo(130, 60), noise_photo(50, 50)):
        tokens, softmax = timms_own(model, photo)
        tokens = (tokens @ weight.T + bias).detach()
        features: Any = model.encode([photo])[0]
        prefix = model.vit.num_prefix_tokens
        rows, columns = features.geometry.grid
        assert (rows != columns) == (photo.width != photo.height)
        assert features.tokens.shape == (rows, columns, 20) and model.dim == 20
        assert_close(features.tokens.flatten(0, 1), tokens[prefix:])
        assert (features.cls is None) == (name in WITHOUT_CLS)
        if features.cls is not None:
            assert_close(features.cls, tokens[0])
        assert (features.registers is None) == ("reg4" not in name and "dinov3" not in name)
        if name not in PLAIN:  # none rather than a wrong one
            assert features.attention is None
            continue
        row = softmax[0][:, 0, prefix:]
        assert_close(features.attention.flatten(1), row / row.sum(1, keepdim=True))


DINOV2, DINOV3 = "vit_small_patch14_reg4_dinov2", "vit_base_patch16_dinov3"
GIANT, CLIP = "vit_giant_patch14_reg4_dinov2", "vit_base_patch16_clip_quickgelu_224"
SIGLIP = "vit_base_patch16_siglip_512"


def as_published_by_dinov2(vit: Any) -> dict[str, Tensor]:
    """timm's state dict the way DINOv2's own files name and cut it."""
    names = {"fc1": "w12", "fc2": "w3"} if hasattr(vit.blocks[0].mlp, "chunk_dim") else {}
    return renamed(official_dinov2(vit), names)


def as_published_by_dinov3(vit: Any) -> dict[str, Tensor]:
    """The way DINOv3's own files name it, with their zero biases and buffers."""
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    state = renamed(vit.state_dict(), names)
    for index in range(len(vit.blocks)):
        state[f"blocks.{index}.attn.qkv.bias"] = torch.zeros(3 * vit.embed_dim)
        state[f"blocks.{index}.attn.qkv.bias_mask"] = torch.ones(3 * vit.embed_dim)
    state["mask_token"] = torch.zeros(1, vit.embed_dim)
    return {**state, "rope_embed.periods": torch.ones(4)}


def as_published_by_open_clip(vit: Any) -> dict[str, Tensor]:
    """Under the visual trunk, beside the text half."""
    state = {f"visual.trunk.{name}": tensor for name, tensor in vit.state_dict().items()}
    return {**state, "text.token_embedding.weight": torch.zeros(3, 3)}


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """A copy, whose names have other parts."""
    for ours, theirs in names.items():
        state = {key.replace(ours, theirs): tensor for key, tensor in state.items()}
    return {key: tensor.clone() for key, tensor in state.items()}


WRITERS = {
    SIGLIP: as_published_by_open_clip,
    DINOV2: as_published_by_dinov2,
    GIANT: as_published_by_dinov2,
    DINOV3: as_published_by_dinov3,
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_in_their_authors_layout_are_read(name: str, capsys: Capture) -> None:
    original, target = small_vit(name), create_vit(name, overrides=SMALL)
    state = WRITERS[name](original.vit)
    count = len(state)
    assert fit_vit(target, state, source="file") == {}
    assert len(state) == count, "the caller's tensors are left alone"
    for key, tensor in original.vit.state_dict().items():
        torch.testing.assert_close(target.state_dict()[key], tensor, rtol=0, atol=1e-6)
    assert capsys.readouterr().out == ""


def test_a_bias_that_the_architecture_has_no_place_for_is_refused() -> None:
    state = as_published_by_dinov3(small_vit(DINOV3).vit)
    state["blocks.1.attn.qkv.bias"][0] = 1.0
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.bias.*_qkvb"):
        fit_vit(create_vit(DINOV3, overrides=SMALL), state, source="file")


def test_openais_projection_is_handed_over() -> None:
    """OpenAI's layout: fused query-key-value in torch's own attention, the projection as (width, dim)."""
    names = {
        "norm_pre": "ln_pre", "norm.": "ln_post.", "blocks.": "transformer.resblocks.", "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj", "norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj", "patch_embed.proj": "conv1", "head.weight": "proj",
        "cls_token": "class_embedding", "pos_embed": "positional_embedding",
    }  # fmt: skip
    state = renamed(timm.create_model(CLIP, num_classes=20, **SMALL).state_dict(), names)
    state.pop("head.bias", None)
    projection = state["proj"]
    state |= {"class_embedding": state["class_embedding"][0, 0], "proj": projection.T}
    state["positional_embedding"] = state["positional_embedding"][0]
    given = {f"visual.{key}": tensor for key, tensor in state.items()}
    classifier = fit_vit(create_vit(CLIP, overrides=SMALL), given, source="file")
    torch.testing.assert_close(classifier["weight"], projection)


def test_a_fetched_linear_head_is_timms_classifier(monkeypatch: MonkeyPatch) -> None:
    """Without a connection: timm is made to give random weights where it would fetch some."""
    made, create = [], timm.create_model

    def offline(name: str, *, pretrained: bool, **settings: Any) -> Any:
        vit = create(name, pretrained=False, **settings)
        made.append((pretrained, renamed(vit.state_dict(), {})))
        return vit

    monkeypatch.setattr(timm, "create_model", offline)
    head, settings = {"type": "linear", "dim": 20}, Preprocessing("stretch", 32, 16)
    model = TimmViT(f"{CLIP}.openai", settings, head=head, pretrained=True, overrides=SMALL)
    ((pretrained, fetched),) = made
    assert pretrained
    assert torch.equal(model.head.get_parameter("linear.weight"), fetched["head.weight"])
    expected_bias = fetched.get("head.bias", torch.zeros(20))
    assert torch.equal(model.head.get_parameter("linear.bias"), expected_bias)
    assert not [key for key in model.vit.state_dict() if key.startswith("head.")]
    assert model.encode([noise_photo()])[0].tokens.shape == (2, 2, 20)
    # Where nothing can be fetched, that is no fault of the architecture.
    fail = Mock(side_effect=OSError("no route to host\nand so on"))
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(HubError, match=r"lvd142m cannot be fetched \(no route to host\)"):
        create_vit("vit_small_patch14_dinov2.lvd142m", pretrained=True)


def test_the_pools_parts_are_the_pool() -> None:
    """With one token to attend to, the softmax is 1: the pool itself is the slow twin of a patch."""
    model, photo = small_vit(SIGLIP, SiglipViT), noise_photo(130, 60)
    pixels, geometry = preprocess(photo, model.preprocessing)
    features, pool = model.encode([photo])[0], model.vit.attn_pool
    assert geometry.grid[0] != geometry.grid[1]
    assert features.attention is not None
    with torch.no_grad():
        tokens = model.vit.forward_features(pixels[None])
        for index, found in enumerate(features.tokens.flatten(0, 1)):
            assert_close(found, pool(tokens[:, index : index + 1])[0])
        assert_close(features.cls, model.vit(pixels[None])[0])
        values = pool.kv(tokens)[0, :, 48:].unflatten(1, (3, 16))
        mixed = torch.einsum("hn,nhd->hd", features.attention.flatten(1), values).flatten()
        projected = pool.proj(mixed)
        assert_close(features.cls, projected + pool.mlp(pool.norm(projected)))


def test_a_network_of_one_block_gives_no_attention_rather_than_a_wrong_one() -> None:
    model = TimmViT("test_vit", Preprocessing("stretch", 64, 16), overrides={"depth": 1})
    features = model.encode([noise_photo()])[0]
    assert (features.attention, features.reference_attention) == (None, None)


def test_a_timm_of_other_arithmetic_is_found_out(monkeypatch: MonkeyPatch, caplog: Log) -> None:
    module: Any = vit

    def doubled(forward: Any) -> Any:
        return lambda *given, **how: 2 * forward(*given, **how)

    for kind in (module.Attention, module.AttentionPoolLatent):
        monkeypatch.setattr(kind, "forward", doubled(kind.forward))
    assert tiny_backbone().encode([noise_photo()])[0].attention is None
    assert timm.__version__ in caplog.text
    with pytest.raises(OptionError, match=re.escape(timm.__version__)):
        small_vit(SIGLIP, SiglipViT)
