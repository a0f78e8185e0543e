"""Settings: refused by name, and paced to the size of the corpus."""

from __future__ import annotations

from typing import Any

import pytest

from patchioner.adaptation import AdaptOptions, DecoderShape
from patchioner.base.errors import OptionError


@pytest.mark.parametrize(
    "values",
    [
        {"noise": 0.0},
        {"noise": float("nan")},
        {"noise": float("inf")},
        {"bank_rows": 0},
        {"storage": "fp8"},
        {"epochs": -1.0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"validation_share": 1.0},
        {"seed": -1},
    ],
)
def test_impossible_values_are_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(values))):
        AdaptOptions(**values)


def test_a_fresh_decoder_learns_longer() -> None:
    tuned = AdaptOptions().training(texts=640, max_tokens=20)
    fresh = AdaptOptions(fresh=DecoderShape()).training(texts=640, max_tokens=20)
    assert fresh.epochs > tuned.epochs


def test_what_is_asked_for_wins() -> None:
    options = AdaptOptions(epochs=2, learning_rate=0.01, batch=8, noise=0.2, seed=3, autocast=True)
    training = options.training(texts=80, max_tokens=20)
    assert (training.epochs, training.learning_rate, training.batch) == (2, 0.01, 8)
    assert (training.noise_sigma, training.seed, training.autocast) == (0.2, 3, True)
    assert training.max_tokens == 20


def test_behind_the_bank_the_trainer_adds_no_noise_of_its_own() -> None:
    assert AdaptOptions().training(texts=80, max_tokens=20).noise_sigma == 0


@pytest.mark.parametrize("texts", [20, 2000, 1_000_000])
def test_reports_come_about_ten_times_but_never_far_apart(texts: int) -> None:
    options = AdaptOptions(batch=64, epochs=10)
    training = options.training(texts=texts, max_tokens=20)
    total = training.total_steps(-(-texts // 64))
    assert 1 <= training.validate_every <= 1000
    assert total // training.validate_every >= 10
    assert training.warmup_steps <= total // 10
    assert training.checkpoint_every <= 200
