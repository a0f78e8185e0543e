"""Concepts of captions: merging, counting, filtering, order; and how alike names are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from decoders.meacap import (
    SAME_HEAD,
    SYNONYM,
    ConceptPrompter,
    SentenceSimilarity,
    find_concepts,
    word_similarity,
)
from decoders.scene_graph import Entity, RuleParser, SceneGraph
from patchioner.base.errors import OptionError


def graphs(*names: str) -> list[SceneGraph]:
    """One graph a caption: "red bus, man" -> a bus with the attribute red, a man."""
    made = []
    for caption in names:
        parts = [part.split() for part in caption.split(",") if part.strip()]
        made.append(SceneGraph(tuple(Entity(part[-1], tuple(part[:-1])) for part in parts)))
    return made


def found(*names: str, **settings: Any) -> list[str]:
    texts = [caption.replace(",", "") for caption in names]
    return find_concepts(texts, graphs(*names), **settings)


def test_what_three_of_five_captions_name_is_kept() -> None:
    assert found("bus, man", "bus, dog", "man, bus", "cat", "tree") == ["bus"]
    assert found("bus, man", "bus, man", "man, bus", "cat", "tree") == ["bus", "man"]


def test_an_attribute_is_kept_from_three_captions_on() -> None:
    assert found("red bus", "red bus", "bus", "big bus") == ["bus"]
    assert found("red bus", "red bus", "red bus", "big bus") == ["red bus"]
    assert found("two red bus", "two red bus", "two red bus") == ["red bus"], "numbers are none"


def test_order_is_the_mean_place_and_only_the_first_stay() -> None:
    same = "a, b, c, d, e, f"
    assert found(same, same, same) == ["a", "b", "c", "d"]
    assert found(same, same, same, most=2) == ["a", "b"]
    assert found("x, y", "y, x", "y, x") == ["y", "x"]


def test_alike_names_are_one_concept_under_the_most_frequent_name() -> None:
    texts = ["a man", "a guy", "the guy runs"]
    assert find_concepts(texts, graphs("man", "guy", "guy")) == ["guy"]


def test_fallbacks_fewer_votes_then_the_nearest_caption_then_nothing() -> None:
    assert found("bus, man", "bus, dog", "cat", "tree", "kite") == ["bus"]
    assert found("bus, man", "dog", "cat") == ["bus", "man"]
    assert found("", "dog", "cat") == ["dog"]
    assert found("", "") == []
    assert find_concepts([], []) == []


def test_real_sentences() -> None:
    texts = [
        "A red double-decker bus driving down a city street.",
        "Two red buses parked on the street.",
        "A man waits for a red bus in London.",
        "A crowded street with a red bus and cars.",
        "People cross the street in front of a bus.",
    ]
    assert find_concepts(texts, RuleParser().parse(texts)) == ["street", "red bus"]


@pytest.mark.parametrize(
    "settings",
    [{"captions": 0}, {"most": 0}, {"min_count": -1}, {"min_attribute": 1.5}, {"merge_above": 2.0}],
)
def test_options_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        ConceptPrompter(**settings)


def test_word_similarity() -> None:
    names = ["dog", "dogs", "hot dog", "puppy", "tennis ball", "tennis racket", "ball"]
    alike = word_similarity(names)
    assert alike.shape == (7, 7) and torch.equal(alike, alike.T)
    assert alike[0, 1] == 1 and alike.diagonal().eq(1).all()
    assert alike[0, 2] == pytest.approx(SAME_HEAD) and alike[0, 3] == pytest.approx(SYNONYM)
    assert alike[4, 5] == 0 and alike[4, 6] == pytest.approx(SAME_HEAD)
    assert word_similarity([]).shape == (0, 0)


def test_the_own_sentence_encoder_pools_by_the_mean(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hot", "dog", "cat"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, initializer_range=0.5,
    )  # fmt: skip
    network: Any = transformers.BertModel(config).eval()
    network.save_pretrained(tmp_path)
    alike = SentenceSimilarity(model=str(tmp_path))(["hot dog", "cat", "hot dog"])
    with torch.no_grad():
        vectors = [
            network(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
            for ids in ([4, 5], [6])
        ]
    wanted = torch.cosine_similarity(vectors[0], vectors[1], dim=0)
    assert alike[0, 1] == pytest.approx(float(wanted), abs=1e-5)
    assert alike[0, 2] == pytest.approx(1.0, abs=1e-5) and abs(float(wanted)) < 0.99
