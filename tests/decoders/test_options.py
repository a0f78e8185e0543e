"""Options refuse what makes no sense, naming the value."""

from __future__ import annotations

import math

import pytest

from decoders import Decoded, DecodeOptions, TrainOptions
from patchioner.base.errors import OptionError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "bean"),
        ("max_tokens", 0),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("min_tokens", -1),
        ("min_tokens", 31),
        ("beam_width", 0),
        ("seed", -1),
        ("seed", 2**128),
        ("length_penalty", -0.5),
        ("length_penalty", math.nan),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("batch_memory_mb", 0),
        ("banned_words", ["cat"]),
        ("banned_words", ("cat", " ")),
        ("banned_words", "cat"),
    ],
)
def test_bad_decode_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        DecodeOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("noise_sigma", -0.1),
        ("label_smoothing", 1.0),
        ("validation_share", 1.0),
        ("steps", 0),
        ("decay", "none"),
        ("seed", 2**64),
    ],
)
def test_bad_train_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        TrainOptions(**{name: value})  # type: ignore[arg-type]


def test_score_is_the_mean_log_probability() -> None:
    assert Decoded("a", (1, 2), (-1.0, -3.0)).score == -2.0


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_rate_rises_then_falls_to_zero(decay: str) -> None:
    options = TrainOptions(learning_rate=1.0, warmup_steps=4, decay=decay)  # type: ignore[arg-type]
    rates = [options.rate_at(step, 20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0.0)
