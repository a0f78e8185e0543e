"""The root config: a round trip, and every wrong key or value refused with the file's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from decoders import DecodeOptions
from patchioner.aggregate import Weighting
from patchioner.settings import ModelSettings
from patchioner_base.errors import CheckpointError, OptionError

FULL = ModelSettings(
    name="mine",
    weighting=Weighting("gaussian", variance=0.5, rounding="reference"),
    context=0.5,
    bridge="none",
    temperature=0.02,
    decode=DecodeOptions(strategy="beam", banned_words=("photo", "picture of")),
    licence="Apache-2.0",
)


def test_settings_survive_json() -> None:
    stored = json.loads(json.dumps(FULL.to_json()))
    assert ModelSettings.from_json(stored, "config.json") == FULL
    assert hash(FULL) == hash(ModelSettings.from_json(stored, "config.json"))


def test_absent_keys_take_their_defaults() -> None:
    values = {"format": "patchioner", "version": 1}
    assert ModelSettings.from_json(values, "config.json") == ModelSettings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, 'no "format": "patchioner"'),
        ({"version": 2}, "version 2, this release reads 1"),
        ({"temprature": 0.1}, "unknown key 'temprature'; did you mean temperature"),
        ({"weighting": {"kind": "gausian"}}, "gausian"),
        ({"weighting": {"variants": 1}}, "variants"),
        ({"weighting": [1]}, "config"),
        ({"decode": {"max_tokens": 0}}, "max_tokens"),
        ({"decode": {"max_token": 3}}, "max_token"),
        ({"decode": 3}, "config"),
        ({"decode": ["greedy"]}, "config"),
        ({"bridge": "rope"}, "rope"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "warm"}, "config"),
        ({"context": "some"}, "config"),
        ({"context": -1}, "context"),
    ],
)
def test_wrong_values_are_refused_with_the_file(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelSettings.from_json({**FULL.to_json(), **changes}, "there/config.json")
    assert "there/config.json" in str(caught.value)


@pytest.mark.parametrize("values", [None, [], "patchioner", 3, {}])
def test_what_is_no_config_is_refused(values: Any) -> None:
    with pytest.raises(CheckpointError, match="not the config of a Patchioner checkpoint"):
        ModelSettings.from_json(values, "config.json")


@pytest.mark.parametrize("field", ["temperature", "context"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_numbers_that_would_poison_an_embedding_are_refused(field: str, value: float) -> None:
    with pytest.raises(OptionError, match=field):
        ModelSettings(**{field: value})  # type: ignore[arg-type]
