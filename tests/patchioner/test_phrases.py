"""Phrases cut from sentences, and where they are asked for."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from decoders import Decoded
from patchioner import Box, Patchioner
from patchioner.base.errors import OptionError
from patchioner.checkpoints.folder import KindSettings
from patchioner.nouns import NounTable
from patchioner.phrases import best_phrases
from tests.support.tiny import noise_photo, tiny_parts

NAMES = ("person", "table", "cup", "coffee")
SENTENCES = (
    "a man sitting at a table with a cup of coffee",
    "a person holding a cup on a table",
    "a young man and a cup of coffee",
)
BOX = [Box(5, 5, 40, 50)]


def sentences(*texts: str) -> list[Decoded]:
    return [Decoded(text, (1, 2), (-0.5, -1.0)) for text in texts]


def phrase(shown: list[float], around: list[float], *texts: str) -> str:
    """Of a region that shows each of `NAMES` so much."""
    spread = torch.stack([torch.zeros(4), torch.full((4,), 0.1)])
    nouns = NounTable(NAMES, torch.eye(4), spread, spread, torch.zeros(4))
    rows = (F.normalize(torch.tensor([one]), dim=1) for one in (shown, around))
    return best_phrases([sentences(*texts)], nouns, *rows)[0].text


@pytest.mark.parametrize(
    ("shown", "around", "says"),
    [
        ([0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], "a cup of coffee"),
        ([0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], "a table with a cup of coffee"),
        # What the whole photo shows as well says less of the region.
        ([0.7, 0.7, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], "a table"),
        ([0.7, 0.7, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], "a person"),
    ],
)
def test_a_phrase_is_what_the_region_shows(
    shown: list[float], around: list[float], says: str
) -> None:
    assert phrase(shown, around, *SENTENCES) == says


def test_without_nouns_the_sentences_vote() -> None:
    rows = torch.zeros(1, 4)
    listed = [sentences("a red bus and a bus", "a dog on a bus", "a dog runs", "a dog", "a dog")]
    (found,) = best_phrases(listed, None, rows, rows)
    assert (found.text, found.log_probs) == ("a red bus", (-0.5, -1.0))
    for said, short in (("it is so", "it is so"), ("a man's hat is on", "a man's hat")):
        (found,) = best_phrases([sentences(said)], None, rows, rows)
        assert found.text == short


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
    assert found["sentences", "auto"] == found["phrases", "sentence"] != found["phrases", "auto"]
    assert short.caption(features, BOX, plain=True) == model.caption(features, BOX, plain=True)
    with pytest.raises(OptionError, match="'short'"):
        model.caption(features, BOX, style="short")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'auto'"):
        KindSettings(style="auto")  # type: ignore[arg-type]
    batch = list(short.caption_many([(features, BOX)] * 3))
    assert [one[0].text for one in batch] == [found["phrases", "auto"]] * 3
