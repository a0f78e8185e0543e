from __future__ import annotations

import json
from dataclasses import replace

import pytest

from patchioner import Patchioner
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.detail import DetailRegion, Photo
from patchioner.detail.filter import Calibration, DenseScorer, unverifiable

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
    assert [phrase for phrase, _ in together[0].attributes] == ["red bus"]
    assert together[0].score != pytest.approx(together[4].score, abs=1e-6)
    assert scorer.score(photo, []) == []


def test_a_photo_without_features_is_encoded(
    calibrated: Patchioner, photo: Photo, regions: list[DetailRegion]
) -> None:
    scorer = DenseScorer(calibrated)
    asked = [(regions[0], SENTENCES[0])]
    bare = replace(photo, features=None)
    assert scorer.score(bare, asked)[0].score == pytest.approx(
        scorer.score(photo, asked)[0].score, abs=1e-5
    )
    assert scorer.heat_map(bare, SENTENCES[0]).shape == photo.features.tokens.shape[:2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("a red bus", ()),
        ("Two dogs.", ("number: two dog",)),
        ("A dog is sitting.", ("posture: sitting dog",)),
        ("A dog on the left.", ("place: on the left",)),
        ("There is no dog.", ("negation: no",)),
        ("It is there.", ("says nothing",)),
    ],
)
def test_what_cannot_be_verified_is_named(sentence: str, parts: tuple[str, ...]) -> None:
    assert unverifiable(sentence) == parts


def test_settings_are_json_and_hold_the_threshold(calibrated: Patchioner) -> None:
    scorer = DenseScorer(calibrated)
    stored = json.loads(json.dumps(scorer.settings))
    assert stored["threshold"] == scorer.threshold
    assert stored["model"] == "tiny"


def test_a_model_without_calibration_names_the_command(model: Patchioner) -> None:
    with pytest.raises(
        OptionError, match=r"python -m patchioner\.detail\.filter\.calibrate --model"
    ):
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
