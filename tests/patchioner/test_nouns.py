"""Captions cut to what their regions show, and where such phrases are asked for."""

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from patchioner import Box, Patchioner
from patchioner.base.errors import OptionError
from patchioner.checkpoints.folder import KindSettings
from patchioner.nouns import NounTable, cut_to_shown, keep_shown_colours
from tests.support.tiny import noise_photo, tiny_parts

NAMES = ("person", "table", "cup", "coffee")
SENTENCE = "a person sitting at a table with a cup of coffee"
BOX = [Box(5, 5, 40, 50)]


@pytest.mark.parametrize(
    ("shown", "around", "odds", "says"),
    [
        ([0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0] * 4, "a cup of coffee"),
        ([0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0] * 4, "a table with a cup of coffee"),
        ([1.0, 0.0, 1.0, 0.0], [0.0] * 4, [0.0] * 4, "a person and a cup"),
        # What the whole photo shows as well says less of the region; what captions get wrong says less, too.
        ([0.7, 0.7, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0] * 4, "a table"),
        ([1.0, 0.0, 1.0, 0.0], [0.0] * 4, [0.0, 0.0, -8.0, 0.0], "a person"),
    ],
)
def test_a_phrase_is_what_the_region_shows(
    shown: list[float], around: list[float], odds: list[float], says: str
) -> None:
    spread = torch.stack([torch.zeros(4), torch.full((4,), 0.1)])
    nouns = NounTable(NAMES, torch.eye(4), spread, spread, torch.tensor(odds))
    rows = (F.normalize(torch.tensor([one]), dim=1) for one in (shown, around))
    assert cut_to_shown([SENTENCE], nouns, *rows) == [says]


@pytest.mark.parametrize(
    ("sentence", "says", "of_a_part"),
    [
        (SENTENCE, "a person and a table with a cup of coffee", None),
        ("a plane flies through the air", "a plane", None),
        ("the street is full", "the street", None),
        ("a man holds a hat, a dog and a woman", "a man, a hat and a dog", None),
        ("a group of people are sitting", "people", "a person"),
        ("a dog in a man's hat", "a dog in a man's hat", None),
        ("it is so", "it is so", None),
        ("two old cars and a dog's toys", "two old cars and a dog's toys", "an old car and a dog's toys"),
        ("a herd of elephants", "a herd of elephants", None),
        ("some glasses", "some glasses", None),
    ],
)
def test_without_nouns_all_things_are_kept(sentence: str, says: str, of_a_part: str | None) -> None:
    """What is said of a small region is one thing."""
    rows = torch.zeros(3, 4)
    shares = torch.tensor([0.5, 0.1, 0.099])
    assert cut_to_shown([sentence] * 3, None, rows, rows, shares) == [says, says, of_a_part or says]
    assert cut_to_shown([sentence], None, rows[:1], rows[:1]) == [says]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a blue bus", "a blue bus"),
        ("a red uniform and a blue umbrella", "a uniform and a blue umbrella"),
        ("a person with a red umbrella", "a person with an umbrella"),
        ("a black and white cat", "a black and white cat"),
    ],
)
def test_a_colour_stays_where_no_other_fits_better(text: str, says: str) -> None:
    def embed(texts: Sequence[str]) -> torch.Tensor:
        return torch.eye(2)[[int("blue" in one) for one in texts]]

    assert keep_shown_colours([text], torch.tensor([[0.0, 2.0]]), embed) == [says]


@patch("patchioner.guidance.cut_to_shown", lambda texts, *_: [f"cut {text}" for text in texts])
def test_style_is_the_setting_of_a_kind_or_the_one_asked_for() -> None:
    parts = tiny_parts()
    kinds = {"box": KindSettings(style="phrase")}
    model = Patchioner(parts, device="cpu")
    short = Patchioner(replace(parts, settings=replace(parts.settings, kinds=kinds)), device="cpu")
    features = model.encode(noise_photo())
    found = {
        (name, style): one.caption(features, BOX, style=style)[0].text
        for name, one in (("sentences", model), ("phrases", short))
        for style in ("auto", "sentence", "phrase")
    }
    assert found["phrases", "auto"] == found["phrases", "phrase"] == found["sentences", "phrase"]
    assert found["sentences", "auto"] == found["phrases", "sentence"]
    assert found["phrases", "auto"] == f"cut {found['phrases', 'sentence']}"
    assert short.caption(features, BOX, plain=True) == model.caption(features, BOX, plain=True)
    with pytest.raises(OptionError, match="'short'"):
        model.caption(features, BOX, style="short")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'auto'"):
        KindSettings(style="auto")  # type: ignore[arg-type]
    batch = list(short.caption_many([(features, BOX)] * 3))
    assert [one[0].text for one in batch] == [found["phrases", "auto"]] * 3
