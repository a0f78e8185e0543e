from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from patchioner import Box, Patchioner, WholeImage
from patchioner.base.errors import OptionError
from patchioner.detail import Photo
from patchioner.detail.filter.evidence import Evidence, MemoryWords, TextEmbedder, with_article
from patchioner.detail.filter.vocabulary import NOUNS


class Counted:
    """A model that counts what it embeds."""

    def __init__(self, model: Patchioner) -> None:
        self.model = model
        self.texts: list[str] = []

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        self.texts += texts
        return self.model.embed_text(texts)


def test_each_text_is_embedded_once_and_forgotten_in_turn(model: Patchioner) -> None:
    counted = Counted(model)
    embed = TextEmbedder(counted, limit=2)  # type: ignore[arg-type]
    found = embed(["a bus", "a cat", "a bus"])
    embed(["a cat"])
    assert counted.texts == ["a bus", "a cat"]
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    embed(["a dog"])  # the bus goes
    embed(["a cat", "a bus"])
    assert counted.texts[2:] == ["a dog", "a bus"]
    assert embed([]).shape[0] == 0


def test_scores_are_how_far_above_the_names_of_things_a_text_lies(
    model: Patchioner, photo: Photo
) -> None:
    assert photo.features is not None
    evidence = Evidence(model)
    view = evidence.view(photo.features, WholeImage())
    names = F.normalize(model.embed_text([with_article(noun) for noun in NOUNS]), dim=1)
    pooled = F.normalize(model.embed_regions(photo.features, [WholeImage()])[0], dim=0)
    text = F.normalize(model.embed_text(["a red bus"]), dim=1)[0]
    cosines = names @ pooled
    expected = (text @ pooled - cosines.mean()) / cosines.std()
    assert evidence.compare(view, ["a red bus"])[0, 0] == pytest.approx(float(expected), abs=1e-4)
    assert evidence.compare(view, []).shape == (0, 2)


def test_windows_stay_inside_their_region(model: Patchioner, photo: Photo) -> None:
    assert photo.features is not None
    evidence = Evidence(model)
    whole = evidence.view(photo.features, WholeImage()).windows
    corner = evidence.view(photo.features, Box(0, 0, 20, 20)).windows
    assert len(corner) < len(whole) or len(whole) == 1
    rows, columns, _ = photo.features.tokens.shape
    size = min(5, rows), min(5, columns)
    by_hand = photo.features.tokens[: size[0], : size[1]].mean((0, 1))
    torch.testing.assert_close(whole[0], F.normalize(by_hand, dim=0), atol=1e-5, rtol=1e-4)


def test_memory_words_count_near_texts_only() -> None:
    memory = MemoryWords(torch.eye(3), ["a red bus", "a cat", "a cat on a bus"])
    weights = memory.weights(torch.tensor([0.0, 1.0, 0.0]))
    assert weights.sum() == pytest.approx(1.0) and weights.argmax() == 1
    assert memory.log_odds(weights, "tabby cat") > 0 > memory.log_odds(weights, "bus")
    assert memory.log_odds(weights, "zebra") < memory.log_odds(weights, "cat")
    without = memory.weights(torch.tensor([0.0, 1.0, 0.0]), without=["a cat", "not there"])
    assert without[1] == 0 and without.sum() == pytest.approx(1.0)


def test_a_heat_map_has_the_cosine_of_each_patch(model: Patchioner, photo: Photo) -> None:
    assert photo.features is not None
    found = Evidence(model).heat_map(photo.features, "a red bus")
    assert found.shape == tuple(photo.features.tokens.shape[:2]) and found.dtype == np.float32
    token = F.normalize(photo.features.tokens[1, 2], dim=0)
    text = F.normalize(model.embed_text(["a red bus"]), dim=1)[0]
    assert found[1, 2] == pytest.approx(float(token @ text), abs=1e-5)


def test_a_model_without_text_tower_cannot_score(model: Patchioner) -> None:
    from dataclasses import replace

    mute = Patchioner(replace(model.parts, text_tower=None), device="cpu")
    with pytest.raises(OptionError, match="no text tower"):
        Evidence(mute)


def test_the_vocabulary_has_each_thing_once() -> None:
    assert len(set(NOUNS)) == len(NOUNS) > 300
