from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from patchioner import Box, Patchioner, WholeImage
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.detail import Photo, score
from patchioner.detail.prose import with_article
from tests.patchioner.detail.conftest import CASES, REGIONS
from tests.support import MonkeyPatch
from tests.support.language import END, raw_tokenizer
from tests.support.tiny import noise_photo


def test_scores_compare_with_names_of_things(model: Patchioner, photo: Photo) -> None:
    assert photo.features is not None
    evidence = score.Evidence(model)
    view = evidence.view(photo.features, WholeImage())
    names = F.normalize(model.embed_text([with_article(noun) for noun in score.NOUNS]), dim=1)
    pooled = F.normalize(model.embed_regions(photo.features, [WholeImage()])[0], dim=0)
    text = F.normalize(model.embed_text(["a red bus"]), dim=1)[0]
    cosines = names @ pooled
    expected = (text @ pooled - cosines.mean()) / cosines.std()
    assert evidence.compare(view, ["a red bus"])[0, 0] == pytest.approx(float(expected), abs=1e-4)
    assert evidence.compare(view, []).shape == (0, 2)
    corner = evidence.view(photo.features, Box(0, 0, 20, 20)).windows
    assert len(corner) < len(view.windows) or len(view.windows) == 1
    by_hand = photo.features.tokens[:5, :5].mean((0, 1))
    torch.testing.assert_close(view.windows[0], F.normalize(by_hand, dim=0), atol=1e-5, rtol=1e-4)


def test_one_support_per_sentence(calibrated: Patchioner, photo: Photo) -> None:
    scorer = score.DenseScorer(calibrated)
    said = ("a red bus on a table", "Two black cats sit left of a boat.", "It is there.")
    asked = [(region, sentence) for region in REGIONS for sentence in said]
    together = [one.score for one in scorer.score(photo, asked)]
    (alone,) = scorer.score(photo, asked[:1])
    assert alone.score == pytest.approx(together[0], abs=1e-5)
    assert [name for name, _ in alone.objects] == ["bus", "table"]
    assert all(0 <= one <= 1 for one in together)
    assert together[0] != pytest.approx(together[3], abs=1e-6)
    assert scorer.score(photo, []) == []


@pytest.mark.parametrize(("sentence", "parts"), CASES["doubts"])
def test_what_cannot_be_verified_is_named(sentence: str, parts: list[str]) -> None:
    assert score.unverifiable(sentence) == tuple(parts)


def test_model_that_cannot_score_says_what_to_do(model: Patchioner, calibrated: Patchioner) -> None:
    settings = replace(calibrated.settings, projection="none")
    mute = replace(calibrated.parts, tower=None)
    for parts, wrong in (
        (mute, "no text tower"), (model.parts, "run patchioner calibrate --detail --model"),
        (replace(calibrated.parts, bank=None, settings=settings), "calibrate it again"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=wrong):
            score.DenseScorer(Patchioner(parts, device="cpu"))


@pytest.mark.parametrize("change", [{"version": 9}, {"objects": {}}, {"objects": None}])
def test_damage_is_refused(change: dict[str, object], calibration: score.Calibration) -> None:
    stored = calibration.to_json()
    assert score.Calibration.from_json(stored, "here").to_json() == stored
    with pytest.raises(CheckpointError, match=f"here.*(version|{next(iter(change))})"):
        score.Calibration.from_json({**stored, **change}, "here")


def test_each_crop_is_seen_once_and_answers_keep_their_order(photo: Photo) -> None:
    seen: list[tuple[tuple[int, int], tuple[str, ...]]] = []

    def match(picture: Image.Image, sentences: Sequence[str]) -> list[float]:
        seen.append((picture.size, tuple(sentences)))
        return [len(sentence) / 10 for sentence in sentences]

    asked = [(REGIONS[1], "a"), (REGIONS[0], "bcd"), (REGIONS[1], "ef" * 8)]
    plain = score.IndependentScorer(match)
    assert [one.score for one in plain.score(photo, asked)] == [0.1, 0.3, 1.0]
    assert seen == [((48, 40), ("a", "ef" * 8)), ((96, 64), ("bcd",))]
    given = score.IndependentScorer(match, name="length", threshold=0.2)
    assert [one.threshold for one in (plain, given)] == [0.3, 0.2]
    assert given.settings["type"] == "length"


def test_blip_is_half_matching_half_cosine(monkeypatch: MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=raw_tokenizer(), pad_token=END)
    pictures = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.BlipProcessor(pictures, tokenizer)
    width = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2
    }  # fmt: skip
    text = {**width, "vocab_size": len(tokenizer), "encoder_hidden_size": 16, "projection_dim": 8}
    vision = {**width, "image_size": 32, "patch_size": 8}
    parts = {"text_config": text, "vision_config": vision}
    torch.manual_seed(0)
    config = transformers.BlipConfig(**parts, image_text_hidden_size=8)
    model = transformers.BlipForImageTextRetrieval(config).eval()
    picture, sentences = noise_photo(), ["a red bus", "cat"]
    monkeypatch.setattr(score, "read_pretrained", lambda *_, **__: (processor, model))
    found = np.asarray(score.load_blip("tiny")(picture, sentences))
    for value, sentence in zip(found, sentences, strict=True):
        inputs = processor(images=picture, text=sentence, return_tensors="pt")
        with torch.inference_mode():
            matching = model(**inputs).itm_score.softmax(1)[0, 1]
            cosine = model(**inputs, use_itm_head=False).itm_score[0, 0]
        assert value == pytest.approx(float(matching + cosine) / 2, abs=1e-5)


def test_clip_is_the_cosine(monkeypatch: MonkeyPatch) -> None:
    model: Any = torch.nn.Linear(1, 1)
    model.encode_image = lambda pixels: pixels.mean((2, 3)) * 3
    model.encode_text = lambda ids: ids.float()
    photo, ids = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[2, 0, 0], [3, 4, 0]])
    library = Mock(get_tokenizer=lambda _: lambda _: ids)
    shown = model, None, lambda _: photo[:, None, None].expand(3, 2, 2)
    library.create_model_and_transforms.return_value = shown
    monkeypatch.setattr(score, "require", lambda *_: library)
    found = np.asarray(score.load_clip("tiny")(noise_photo(), ["a bus", "a cat"]))
    assert found.tolist() == pytest.approx([1.0, 0.6], abs=1e-6)
