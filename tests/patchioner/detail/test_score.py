from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from patchioner import Box, Patchioner, WholeImage
from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError
from patchioner.detail.score import (
    NOUNS,
    SCORERS,
    BlipMatcher,
    Calibration,
    ClipMatcher,
    DenseScorer,
    Evidence,
    IndependentScorer,
    Logistic,
    unverifiable,
)
from patchioner.detail.text import with_article
from patchioner.detail.values import DetailRegion, Photo
from tests.support.tiny import noise_photo


def test_each_text_is_embedded_once(model: Patchioner, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence(model)
    asked: list[str] = []
    plain = model.embed_text
    monkeypatch.setattr(model, "embed_text", lambda texts: asked.extend(texts) or plain(texts))
    found = evidence.embed(["a zebu", "a yak", "a zebu"])
    evidence.embed(["a yak"])
    assert asked == ["a zebu", "a yak"]
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert evidence.embed([]).shape[0] == 0


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


def test_a_model_without_text_tower_cannot_score(model: Patchioner) -> None:
    from dataclasses import replace

    mute = Patchioner(replace(model.parts, text_tower=None), device="cpu")
    with pytest.raises(OptionError, match="no text tower"):
        Evidence(mute)


SENTENCES = [
    "a red bus on a table",
    "Two black cats are sitting to the left of a boat.",
    "It is there.",
    "a red bus",
]


def test_one_support_per_sentence_whatever_else_is_asked(
    calibrated: Patchioner, photo: Photo, regions: list[DetailRegion]
) -> None:
    scorer = DenseScorer(calibrated)
    asked = [(region, sentence) for region in regions for sentence in SENTENCES]
    together = scorer.score(photo, asked)
    alone = [scorer.score(photo, [one])[0] for one in asked]
    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert 0 <= one.score <= 1
    assert [name for name, _ in together[0].objects] == ["bus", "table"]
    assert together[0].score != pytest.approx(together[4].score, abs=1e-6)
    assert scorer.score(photo, []) == []


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("A red bus", ("colour: red",)),
        ("Two dogs.", ("number: two",)),
        ("A cat left of a dog, not on it.", ("place: left", "negation: not")),
        ("It is calm.", ("names no thing",)),
        ("A bus on a street.", ()),
    ],
)
def test_what_cannot_be_verified_is_named(sentence: str, parts: tuple[str, ...]) -> None:
    assert unverifiable(sentence)[: len(parts) or None] == parts


def test_a_model_without_calibration_names_the_command(model: Patchioner) -> None:
    with pytest.raises(OptionError, match=r"python -m patchioner\.detail\.calibrate --model"):
        DenseScorer(model)


def test_a_calibration_of_other_measures_is_refused(
    calibrated: Patchioner, calibration: Calibration
) -> None:
    parts = replace(
        calibrated.parts, bank=None, settings=replace(calibrated.settings, projection="none")
    )
    with pytest.raises(OptionError, match="calibrate it again"):
        DenseScorer(Patchioner(parts, device="cpu"), calibration=calibration)


def test_a_damaged_calibration_is_refused(model: Patchioner, calibration: Calibration) -> None:
    stored = calibration.to_json()
    damages: list[dict[str, object]] = [{"version": 9}, {"objects": {}}, {"objects": None}]
    for damage in damages:
        settings = replace(model.settings, calibration={"detail": {**stored, **damage}})
        with pytest.raises(CheckpointError, match="calibration"):
            DenseScorer(Patchioner(replace(model.parts, settings=settings), device="cpu"))
    del stored["sentences"]
    with pytest.raises(CheckpointError, match="sentences"):
        Calibration.from_json(stored, "calibration")


class Remembering:
    """A matcher that says how long sentences are, and remembers what it saw."""

    name = "length"

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[int, int], tuple[str, ...]]] = []

    def match(self, picture: Image.Image, sentences: Sequence[str]) -> np.ndarray:
        self.seen.append((picture.size, tuple(sentences)))
        return np.array([len(sentence) / 10 for sentence in sentences])


def test_each_crop_is_seen_once_and_answers_keep_their_order(
    photo: Photo, regions: list[DetailRegion]
) -> None:
    matcher = Remembering()
    asked = [(regions[1], "a"), (regions[0], "bcd"), (regions[1], "ef" * 8)]
    found = IndependentScorer(matcher).score(photo, asked)
    assert [one.score for one in found] == [0.1, 0.3, 1.0]
    assert matcher.seen == [((48, 32), ("a", "ef" * 8)), ((96, 64), ("bcd",))]


def test_a_calibration_makes_probabilities_and_has_the_threshold(
    photo: Photo, regions: list[DetailRegion]
) -> None:
    fitted = Logistic(("match",), (0.5,), (0.1,), (2.0,), 0.0, 0.6)
    scorer = IndependentScorer(Remembering(), calibration=fitted)
    assert scorer.threshold == 0.6
    assert IndependentScorer(Remembering()).threshold == 0.3
    assert IndependentScorer(Remembering(), calibration=fitted, threshold=0.2).threshold == 0.2
    assert scorer.score(photo, [(regions[0], "abcde")])[0].score == pytest.approx(0.5)
    assert scorer.settings["type"] == "length"


class Words:
    """A tokenizer that counts letters."""

    def __call__(self, texts: list[str], *, max_length: int, **_: object) -> TokenBatch:
        rows = [[1 + ord(letter) % 30 for letter in text[:max_length]] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return TokenBatch(input_ids=ids, attention_mask=(ids > 0).long())


class TokenBatch(dict[str, Tensor]):
    def to(self, device: torch.device) -> TokenBatch:
        return self


class Processor:
    """As much of a BLIP processor as a matcher asks for."""

    def __init__(self) -> None:
        self.tokenizer = Words()

    def image_processor(self, *, images: Image.Image, return_tensors: str) -> dict[str, Tensor]:
        pixels = np.asarray(images.resize((32, 32)), dtype=np.float32) / 255
        return {"pixel_values": torch.from_numpy(pixels).permute(2, 0, 1)[None]}


def test_blip_is_half_matching_half_cosine() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    width = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = transformers.BlipConfig(
        text_config={
            **width,
            "vocab_size": 40,
            "encoder_hidden_size": 16,
            "projection_dim": 8,
            "bos_token_id": 1,
            "sep_token_id": 2,
        },
        vision_config={**width, "image_size": 32, "patch_size": 8},
        image_text_hidden_size=8,
    )
    model = transformers.BlipForImageTextRetrieval(config).eval()
    processor, picture, sentences = Processor(), noise_photo(), ["a red bus", "cat"]
    found = BlipMatcher(model, processor).match(picture, sentences)
    pixels = processor.image_processor(images=picture, return_tensors="pt")["pixel_values"]
    for score, sentence in zip(found, sentences, strict=True):
        texts = processor.tokenizer([sentence], max_length=64)
        with torch.inference_mode():
            matching = model(pixel_values=pixels, **texts).itm_score.softmax(1)[0, 1]
            cosine = model(pixel_values=pixels, use_itm_head=False, **texts).itm_score[0, 0]
        assert score == pytest.approx(float(matching + cosine) / 2, abs=1e-5)


def test_clip_is_the_cosine() -> None:
    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def encode_image(self, pixels: Tensor) -> Tensor:
            return pixels.mean((2, 3)) * 3

        def encode_text(self, ids: Tensor) -> Tensor:
            return ids.float()

    def pixels(picture: Image.Image) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 2, 2)

    def tokens(sentences: list[str]) -> Tensor:
        return torch.tensor(
            [[2, 0, 0] if "bus" in sentence else [3, 4, 0] for sentence in sentences]
        )

    found = ClipMatcher(Tiny(), pixels, tokens).match(noise_photo(), ["a bus", "a cat"])
    np.testing.assert_allclose(found, [1.0, 0.6], atol=1e-6)


def test_unknown_scorers_are_named() -> None:
    assert SCORERS.names() == ("blip", "clip")
    with pytest.raises(UnknownNameError, match="did you mean 'clip'"):
        SCORERS.get("clap")
