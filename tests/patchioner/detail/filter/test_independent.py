from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from patchioner.base.errors import UnknownNameError
from patchioner.detail import DetailRegion, Photo
from patchioner.detail.filter import SCORERS, IndependentScorer
from patchioner.detail.filter.independent import BlipMatcher, ClipMatcher
from patchioner.detail.filter.logistic import Logistic
from tests.support.tiny import noise_photo


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
