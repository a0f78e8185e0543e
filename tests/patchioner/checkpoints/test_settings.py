"""The root config: a round trip, and every wrong key or value refused with the file's name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from decoders import DecodeOptions
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.checkpoints.folder import KindSettings, ModelSettings
from patchioner.regions import Box, Mask, Trace, Weighting

FULL = ModelSettings(
    name="mine",
    weighting=Weighting("gaussian", variance=0.5, rounding="reference"),
    context=0.5,
    kinds={"box": KindSettings(Weighting("attention"), 0.25), "trace": KindSettings(context=0.0)},
    projection="none",
    temperature=0.02,
    normalize=False,
    crop=True,
    decode=DecodeOptions(strategy="beam", banned_words=("photo", "picture of")),
    licence="Apache-2.0",
)


def test_settings_survive_json() -> None:
    stored = json.loads(json.dumps(FULL.to_json()))
    assert ModelSettings.from_json(stored, "config.json") == FULL
    assert hash(FULL) == hash(ModelSettings.from_json(stored, "config.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "no .format.: .patchioner."),
        ({"version": 2}, "version 2, this release reads 1"),
        ({"temprature": 0.1}, "unknown key 'temprature'.*temperature"),
        ({"weighting": {"kind": "gausian"}}, "gausian"),
        ({"weighting": {"variants": 1}}, "variants"),
        ({"weighting": [1]}, "config"),
        ({"decode": {"max_tokens": 0}}, "max_tokens"),
        ({"decode": {"max_token": 3}}, "max_token"),
        ({"decode": 3}, "config"),
        ({"decode": ["greedy"]}, "config"),
        ({"projection": "rope"}, "rope"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "warm"}, "config"),
        ({"context": "some"}, "config"),
        ({"context": -1}, "context"),
        ({"kinds": {"boxes": {}}}, "'boxes'.*'box'"),
        ({"kinds": {"box": {"contexts": 1}}}, "contexts"),
        ({"kinds": {"box": {"context": -1}}}, "context"),
        ({"kinds": {"box": {"weighting": {"kind": "round"}}}}, "round"),
        ({"kinds": {"box": 3}}, "config"),
        ({"kinds": 3}, "config"),
    ],
)
def test_wrong_values_are_refused_with_the_file(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelSettings.from_json({**FULL.to_json(), **changes}, "there/config.json")
    assert "there/config.json" in str(caught.value)


@pytest.mark.parametrize("values", [None, [], "patchioner", 3, {}])
def test_what_is_no_config_is_refused(values: Any) -> None:
    with pytest.raises(CheckpointError, match="is no Patchioner config"):
        ModelSettings.from_json(values, "config.json")


@pytest.mark.parametrize("field", ["temperature", "context"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_numbers_that_would_poison_an_embedding_are_refused(field: str, value: float) -> None:
    with pytest.raises(OptionError, match=field):
        ModelSettings(**{field: value})  # type: ignore[arg-type]


def test_a_kind_overrides_what_it_names_alone() -> None:
    triangle = Mask(np.tri(4, dtype=bool))
    assert FULL.for_region(Box(0, 0, 1, 1)) == (Weighting("attention"), 0.25)
    assert FULL.for_region(Trace([(1, 1)])) == (FULL.weighting, 0.0)
    assert FULL.for_region(triangle) == (FULL.weighting, 0.5)


@pytest.mark.parametrize("projection", ["memory", "none", "raw"])
@pytest.mark.parametrize("key", ["projection", "bridge"])
def test_the_projections_by_either_name(key: str, projection: str) -> None:
    config = {"format": "patchioner", "version": 1, key: projection}
    assert ModelSettings.from_json(config, "config.json").projection == projection
