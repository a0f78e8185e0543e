"""DINO.txt's text tower against open_clip's causal transformer with the same weights, padded as published."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.text.clip import DinoTxtText, DinoTxtTextSettings
from tests.support.tiny import shaken

open_clip = pytest.importorskip("open_clip")

SHAPE: dict[str, Any] = {"columns": 32, "width": 24, "layers": 2, "heads": 3}
TEXTS = ["a red bus", "two dogs in the snow", "A red bus!", "a cat"]


def tiny_tower(seed: int = 0, **settings: Any) -> DinoTxtText:
    torch.manual_seed(seed)
    return shaken(DinoTxtText(DinoTxtTextSettings(**{**SHAPE, **settings})))


def open_clips_twin(tower: DinoTxtText) -> Any:
    """The same weights in open_clip's network, which pads to 77 and pools at the end token."""
    twin = open_clip.transformer.TextTransformer(
        width=24, heads=3, layers=2, output_dim=32, pool_type="argmax"
    )
    state = tower.backbone.state_dict()
    renamed = {
        "attention_norm": "ln_1",
        "ffn_norm": "ln_2",
        "attention.qkv.": "attn.in_proj_",
        "attention.proj": "attn.out_proj",
        "feed_forward.fc1": "mlp.c_fc",
        "feed_forward.fc2": "mlp.c_proj",
        "blocks": "transformer.resblocks",
    }
    named = {}
    for key, tensor in state.items():
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        named[key] = tensor
    for index in range(2):
        named[f"transformer.resblocks.{index}.attn.in_proj_bias"] = torch.zeros(72)
    named["text_projection"] = tower.head.linear_projection.weight.T
    twin.load_state_dict(named)
    return twin.eval()


def test_vectors_are_those_of_the_padded_published_form() -> None:
    both, patch = tiny_tower(space="both"), tiny_tower()
    with torch.no_grad():
        expected = open_clips_twin(both)(open_clip.tokenizer.tokenize(TEXTS))
    torch.testing.assert_close(both.encode(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert (both.dim, patch.dim) == (32, 16)  # the second half is the space of the patches
    assert torch.equal(patch.encode(TEXTS), both.encode(TEXTS)[:, 16:])


def test_the_published_tower_on_no_memory() -> None:
    with torch.device("meta"):
        tower = DinoTxtText(DinoTxtTextSettings())
    shapes = {name: tuple(t.shape) for name, t in tower.state_dict().items()}
    assert tower.dim == 1024
    assert shapes["backbone.token_embedding.weight"] == (49408, 1280)
    assert shapes["backbone.positional_embedding"] == (77, 1280)
    assert shapes["backbone.blocks.23.feed_forward.fc1.weight"] == (5120, 1280)
    assert shapes["head.linear_projection.weight"] == (2048, 1280)
    assert "backbone.blocks.24.attention.qkv.weight" not in shapes


def test_long_texts_keep_their_end_token_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    long = "a cat " * 80
    ids = tiny_tower().token_ids([long, "a cat"])
    assert ids[0] == open_clip.tokenizer.tokenize([long])[0].tolist()
    assert caplog.messages == ["1 of 2 texts are longer than 77 tokens and were cut"]


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_published_weights_are_read(prefix: str) -> None:
    original, target = tiny_tower(1), tiny_tower(2)
    state = {f"{prefix}{name}": t for name, t in original.state_dict().items()}
    if prefix:
        state["visual_model.head.ln_final.weight"] = torch.zeros(2)
        state["logit_scale"] = torch.zeros(())
    target.read_published(state, source="file")
    assert torch.equal(original.encode(TEXTS), target.encode(TEXTS))


def test_other_names_are_refused_by_name() -> None:
    state = dict(tiny_tower().state_dict())
    state["backbone.blocks.0.attn_norm.weight"] = state.pop(
        "backbone.blocks.0.attention_norm.weight"
    )
    with pytest.raises(CheckpointError, match=r"attention_norm.*unexpected.*attn_norm"):
        tiny_tower().read_published(state, source="file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "cls"}, "'cls' is unknown"),
        ({"columns": 31}, "must be even"),
        ({"width": 25}, "multiple of its 3 heads"),
        ({"layers": 0}, "1 or more"),
        ({"max_tokens": 2}, "no room for start"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DinoTxtTextSettings(**{**SHAPE, **change})
