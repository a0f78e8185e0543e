from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.detail.filter import Calibration, FalseAccepts, calibrate_model
from patchioner.detail.filter.calibration import calibrate_matcher, swap_thing


def test_the_threshold_lets_the_chosen_share_of_swaps_through(calibration: Calibration) -> None:
    assert calibration.measured["accepted swap"] == pytest.approx(0.5, abs=0.05)
    assert calibration.measured["photos"] == 12
    assert calibration.objects.inputs == ("pooled", "peak", "memory")


def test_the_same_seed_gives_the_same_numbers(
    model: Patchioner, pairs: list[Any], calibration: Calibration
) -> None:
    again = calibrate_model(model, pairs, rates=FalseAccepts(0.5, 0.2, 0.8))
    assert again.to_json() == calibration.to_json()
    assert calibrate_model(model, pairs, seed=1).to_json() != calibration.to_json()


def test_a_stricter_rate_gives_a_higher_threshold(
    model: Patchioner, pairs: list[Any], calibration: Calibration
) -> None:
    strict = calibrate_model(model, pairs, rates=FalseAccepts(0.1, 0.2, 0.8))
    assert strict.sentences.threshold > calibration.sentences.threshold


def test_it_survives_json(calibration: Calibration) -> None:
    again = Calibration.from_json(calibration.to_json(), "here")
    assert again.to_json() == calibration.to_json()


def test_a_swap_exchanges_one_thing() -> None:
    caption, name = swap_thing("A red bus.", iter(["apple"]), random.Random(0)) or ("", "")
    assert (caption, name) == ("an apple.", "apple")
    assert swap_thing("It is.", iter(["apple"]), random.Random(0)) is None
    assert swap_thing("A red bus.", iter([]), random.Random(0)) is None


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_rates_outside_of_their_range_are_refused(rate: float) -> None:
    with pytest.raises(OptionError, match="false-accept rate of object"):
        FalseAccepts(object=rate)


def test_one_photo_is_too_few(model: Patchioner, pairs: list[Any]) -> None:
    with pytest.raises(OptionError, match="1 photos"):
        calibrate_model(model, pairs[:1])


def test_a_matcher_is_calibrated_by_its_own_numbers(pairs: list[Any]) -> None:
    """One that knows the true captions by heart is certain of them."""
    true = {caption for _, captions in pairs for caption in captions}

    def match(picture: Image.Image, sentences: Any) -> np.ndarray:
        return np.array([0.9 if sentence in true else 0.1 for sentence in sentences])

    fitted = calibrate_matcher(match, pairs, false_accept=0.2)
    assert fitted([[0.9]])[0] > 0.9 and fitted([[0.1]])[0] < 0.1
    assert fitted.inputs == ("match",)
