"""SigLIP's text tower against open_clip's own network and tokenizing, with a tiny random vocabulary."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from patchioner.base.errors import CheckpointError, OptionError, TextError
from patchioner.text import load_tower
from patchioner.text.clip import SiglipText, SiglipTextSettings, canonical

open_clip = pytest.importorskip("open_clip")

WORDS = [
    "<pad>",
    "<eos>",
    "<unk>",
    "a",
    "red",
    "blue",
    "bus",
    "cat",
    "dog",
    "on",
    "in",
    "the",
    "snow",
    "table",
]
SETTINGS = SiglipTextSettings(vocabulary=20, dim=24, width=24, layers=2, heads=3, max_tokens=8)
TEXTS = ["A red bus.", "the cat", "a dog on the table in the snow", "Cat, dog"]


def tiny_tokenizer() -> Tokenizer:
    """Words and, as Gemma's for SigLIP, an end token that the tokenizer adds itself."""
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def tiny_tower(seed: int = 0) -> SiglipText:
    torch.manual_seed(seed)
    tower = SiglipText(SETTINGS, tiny_tokenizer())
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tower


def test_the_defaults_are_siglip_2s() -> None:
    config = open_clip.get_model_config("ViT-B-16-SigLIP2-512")
    text, own = config["text_cfg"], SiglipTextSettings()
    assert (own.vocabulary, own.dim) == (text["vocab_size"], config["embed_dim"])
    assert (own.width, own.layers, own.heads) == (text["width"], text["layers"], text["heads"])
    assert own.max_tokens == text["context_length"] == 64
    assert text["tokenizer_kwargs"] == {"clean": "canonicalize"}


def test_vectors_are_open_clips_own() -> None:
    model = open_clip.CustomTextCLIP(
        embed_dim=24,
        vision_cfg={"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8},
        text_cfg={
            "context_length": 8,
            "vocab_size": 20,
            "width": 24,
            "heads": 3,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    ).eval()
    tower = tiny_tower()
    tower.read_published(model.state_dict(), source="file")
    with torch.no_grad():
        expected = model.encode_text(tower.token_ids(TEXTS))
    torch.testing.assert_close(tower.encode(TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_tokens_are_those_of_open_clips_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path)
    oracle = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=8, clean="canonicalize")
    texts = [*TEXTS, "a red_bus, the blue BUS; on the table in the snow a cat a dog"]
    assert tiny_tower().token_ids(texts).tolist() == oracle(texts).tolist()


def test_a_vector_depends_on_its_text_alone() -> None:
    tower = tiny_tower()
    together = tower.encode(TEXTS, batch=3)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(tower.encode([text])[0], together[row], rtol=1e-5, atol=1e-6)
    assert tower.encode([]).shape == (0, 24)


def test_long_texts_are_cut_before_the_end_token_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tower = tiny_tower()
    with caplog.at_level(logging.WARNING):
        ids = tower.token_ids(["a cat", "a red bus on the table in the snow"])
    assert ids.shape == (2, 8)
    assert ids[0].tolist() == [3, 7, 1, 0, 0, 0, 0, 0]
    assert ids[1, -1] == 1
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 texts are longer than 8 tokens and were cut"
    ]


def test_it_comes_back_from_its_folder(tmp_path: Path) -> None:
    tower = tiny_tower()
    tower.save(tmp_path, storage="fp32")
    loaded = load_tower(tmp_path)
    assert loaded.config == tower.config
    assert torch.equal(loaded.encode(TEXTS), tower.encode(TEXTS))


@pytest.mark.parametrize("text", ["", "  ", "?!"])
def test_blank_texts_are_refused(text: str) -> None:
    with pytest.raises(TextError, match="text 1"):
        tiny_tower().encode(["a cat", text])


def test_cleaning() -> None:
    assert canonical(" A  red_bus,\nparked. ") == "a red bus parked"


def test_a_tokenizer_too_large_is_refused() -> None:
    small = SiglipTextSettings(vocabulary=5, dim=8, width=8, layers=1, heads=1, max_tokens=8)
    with pytest.raises(OptionError, match="14 pieces, the tower only 5"):
        SiglipText(small, tiny_tokenizer())


@pytest.mark.parametrize(
    ("change", "message"), [({"width": 25}, "no multiple"), ({"layers": 0}, "1 or more")]
)
def test_impossible_shapes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SiglipTextSettings(**change)  # type: ignore[arg-type]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_tower().save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer"):
        load_tower(tmp_path)
