"""CLIP's, SigLIP's and DINO.txt's text towers: open_clip's own vectors and tokens are the oracle."""

import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, TextError
from patchioner.text import clip, load_tower
from tests.support import Log, randn
from tests.support.tiny import shaken, tiny_tokenizer

VISION = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
LONG = " ".join(["a very long description of many things"] * 6)
TEXTS = [
    "a red bus", "Two dogs, running; on the BEACH!", "a photo of a cat", "x", LONG,
    "it's a caf\u00e9 \u2014 na\u00efve r\u00e9sum\u00e9 &amp; co.", "an <end_of_text> in the middle of a sentence",
]  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "clip": {},
    "quick": {},
    "linear_bias": {"proj_bias": True},
    "no_projection": {"proj_type": "none"},
}
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


def tiny(kind: str = "clip") -> clip.OpenClipText:
    torch.manual_seed(0)
    halves = {"vision_cfg": dict(VISION), "text_cfg": {**TEXT, **KINDS[kind]}}
    config = {"embed_dim": 12, **halves, "quick_gelu": kind == "quick"}
    return shaken(clip.OpenClipText(f"tiny {kind}", architecture=config))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_vectors_are_open_clips_own_and_do_not_depend_on_the_others(kind: str) -> None:
    tower = tiny(kind)
    encoded = tower.encode(TEXTS)
    assert (encoded.dtype, encoded.shape) == (torch.float32, (len(TEXTS), tower.dim))
    assert tower.dim == (16 if kind == "no_projection" else 12)
    config = json.loads(json.dumps(tower.architecture))
    config["text_cfg"]["output_tokens"] = False
    oracle = open_clip.CustomTextCLIP(**config).eval()  # a whole model with our weights
    oracle.text.load_state_dict(tower.text.state_dict())
    close(encoded, oracle.encode_text(open_clip.tokenize(TEXTS, context_length=20)))
    close(tower.encode(TEXTS[::-1], batch=3), encoded.flip(0))
    close(torch.cat([tower.encode([text]) for text in TEXTS]), encoded)


def test_ids_are_open_clips_own_and_long_texts_are_cut_with_one_warning(caplog: Log) -> None:
    tower, texts = tiny(), [*TEXTS, LONG + " and more"]
    expected = open_clip.tokenize(texts, context_length=20)
    for ids, padded in zip(tower.token_ids(texts), expected.tolist(), strict=True):
        assert ids + [0] * (20 - len(ids)) == padded
    assert caplog.messages == ["2 of 8 texts are longer than 20 tokens and were cut"]


def test_a_blank_text_is_refused_by_index() -> None:
    cases: list[tuple[Any, Any]] = [(tiny_tower(), "?!")]
    cases += [(tiny(), blank) for blank in ("", "  \n", "&nbsp;", 3)]
    for tower, blank in cases:
        with pytest.raises(TextError, match="text 1 is"):
            tower.encode(["a cat", blank])


def test_only_the_text_half_is_kept_and_stored(tmp_path: Path) -> None:
    tower = tiny()
    tower.save(tmp_path, storage="fp32")
    stored = load_file(tmp_path / "weights.safetensors")
    assert not [name for name in stored if "visual" in name]
    assert sum(p.numel() for p in tower.parameters()) == sum(t.numel() for t in stored.values())
    assert torch.equal(load_tower(tmp_path).encode(TEXTS), tower.encode(TEXTS))


@pytest.mark.slow
@torch.no_grad()
def test_weights_come_from_a_file_of_open_clips(tmp_path: Path) -> None:
    whole = open_clip.create_model("ViT-S-32-alt").eval()
    path = tmp_path / "open_clip_model.safetensors"
    save_file(whole.state_dict(), path)
    tower = clip.OpenClipText("ViT-S-32-alt", pretrained=str(path))
    close(tower.encode(TEXTS), whole.encode_text(open_clip.tokenize(TEXTS)))


SIGLIP_TEXTS = ["A red bus.", "the cat", "a dog on the table in the snow", "Cat, dog"]
PIECES = tiny_tokenizer().get_vocab_size()
SHAPE: dict[str, Any] = {"width": 24, "layers": 2, "heads": 3}
SETTINGS = clip.SiglipTextSettings(vocabulary=PIECES, dim=24, max_tokens=8, **SHAPE)


def tiny_tower(seed: int = 0) -> clip.SiglipText:
    torch.manual_seed(seed)
    return shaken(clip.SiglipText(SETTINGS, tiny_tokenizer()))


def test_vectors_are_open_clips_own_siglip() -> None:
    shape = {"context_length": 8, "vocab_size": PIECES, **SHAPE}
    kind: dict[str, Any] = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    kind |= {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
    model = open_clip.CustomTextCLIP(24, dict(VISION), {**shape, **kind}).eval()
    tower = tiny_tower()
    tower.read_published(model.state_dict(), source="file")
    expected = model.encode_text(torch.tensor(tower.token_ids(SIGLIP_TEXTS))).detach()
    torch.testing.assert_close(tower.encode(SIGLIP_TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_tokens_are_those_of_open_clips_tokenizer(tmp_path: Path, caplog: Log) -> None:
    kind: Any = transformers.PreTrainedTokenizerFast
    signs = {"pad_token": "[PAD]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    kind(tokenizer_object=tiny_tokenizer(), **signs).save_pretrained(tmp_path)
    oracle = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=8, clean="canonicalize")
    texts = [*SIGLIP_TEXTS, "a red_bus, the blue BUS; on the table in the snow a cat a dog"]
    ids = tiny_tower().token_ids(texts)
    assert ids == oracle(texts).tolist()
    assert ids[-1][-1] == 3  # the end token stays
    assert "2 of 5 texts are longer than 8 tokens and were cut" in caplog.messages


DINOTXT_TEXTS = ["a red bus", "two dogs in the snow", "A red bus!", "a cat"]


def dinotxt_tower(seed: int = 0, **settings: Any) -> clip.DinoTxtText:
    torch.manual_seed(seed)
    return shaken(clip.DinoTxtText(clip.DinoTxtTextSettings(columns=32, **SHAPE, **settings)))


def dinotxt_weights() -> dict[str, Tensor]:
    """As published: by names of their own, queries, keys and values made without a bias."""
    layer: dict[str, tuple[int, ...]] = {"attention_norm": (24,), "ffn_norm": (24,)}
    layer |= {"attention.qkv": (72, 24), "attention.proj": (24, 24)}
    layer |= {"feed_forward.fc1": (96, 24), "feed_forward.fc2": (24, 96)}
    shapes: dict[str, tuple[int, ...]] = {"backbone.token_embedding.weight": (49408, 24)}
    shapes |= {"backbone.positional_embedding": (77, 24), "head.linear_projection.weight": (32, 24)}
    shapes |= {f"backbone.ln_final.{kind}": (24,) for kind in ("weight", "bias")}
    for block, (part, shape) in product((0, 1), layer.items()):
        shapes[f"backbone.blocks.{block}.{part}.weight"] = shape
        if not part.endswith("qkv"):
            shapes[f"backbone.blocks.{block}.{part}.bias"] = shape[:1]
    return {n: randn(*shape, seed=i) / 3 for i, (n, shape) in enumerate(shapes.items())}


def test_vectors_are_those_of_the_padded_published_form() -> None:
    """Written out, of published names, padded to 77 and pooled at the end token."""
    state, both, patch = dinotxt_weights(), dinotxt_tower(space="both"), dinotxt_tower()
    for tower in (both, patch):
        tower.read_published(state, source="file")
    ids = open_clip.tokenizer.tokenize(DINOTXT_TEXTS)
    x = state["backbone.token_embedding.weight"][ids] + state["backbone.positional_embedding"]
    mask = torch.full((77, 77), -torch.inf).triu(1)

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (24,), state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    for block in ("backbone.blocks.0", "backbone.blocks.1"):
        qkv = linear(normed(x, f"{block}.attention_norm"), f"{block}.attention.qkv")
        q, k, v = qkv.unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(2, 3) / 8**0.5 + mask).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{block}.attention.proj")
        inner = F.gelu(linear(normed(x, f"{block}.ffn_norm"), f"{block}.feed_forward.fc1"))
        x = x + linear(inner, f"{block}.feed_forward.fc2")
    ends = normed(x, "backbone.ln_final")[torch.arange(4), ids.argmax(dim=1)]
    encoded = both.encode(DINOTXT_TEXTS)
    close(encoded, linear(ends, "head.linear_projection"))
    assert (both.dim, patch.dim) == (32, 16)  # the second half is the space of the patches
    assert torch.equal(patch.encode(DINOTXT_TEXTS), encoded[:, 16:])


def test_published_weights_of_dinotxt_are_read_by_their_names() -> None:
    state, target, again = dinotxt_weights(), dinotxt_tower(2), dinotxt_tower(3)
    target.read_published(state, source="file")
    expected = target.encode(DINOTXT_TEXTS)
    # DINOv3 has all in one file.
    whole = {f"text_model.{name}": tensor for name, tensor in state.items()}
    whole |= {"visual_model.head.ln_final.weight": torch.zeros(2), "logit_scale": torch.zeros(())}
    again.read_published(whole, source="file")
    assert torch.equal(again.encode(DINOTXT_TEXTS), expected)
    name = "backbone.blocks.0.attention_norm.weight"
    state[name.replace("attention_norm", "attn_norm")] = state.pop(name)
    with pytest.raises(CheckpointError, match=r"resblocks\.0\.ln_1.*unexpected.*attn_norm"):
        target.read_published(state, source="file")
