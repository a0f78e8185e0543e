"""Options refuse what makes no sense, naming the value."""

from __future__ import annotations

import math

import pytest

from decoders import Decoded, DecodeOptions
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


def test_score_is_the_mean_log_probability() -> None:
    assert Decoded("a", (1, 2), (-1.0, -3.0)).score == -2.0
