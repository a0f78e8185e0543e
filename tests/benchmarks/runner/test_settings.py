"""What a run changes of a model: input size, context and weighting by kind of region."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dense import main
from benchmarks.runner.settings import RunSettings, tuned, weighting_of
from patchioner import Patchioner
from patchioner.checkpoints.settings import KindSettings
from patchioner.regions import Weighting
from tests.support.tiny import tiny_parts


def _model(**kinds: KindSettings) -> Patchioner:
    parts = tiny_parts()
    return Patchioner(replace(parts, settings=replace(parts.settings, kinds=kinds)), device="cpu")


def test_a_context_counts_for_kinds_that_have_their_own() -> None:
    model = _model(box=KindSettings(Weighting("attention"), 0.1), trace=KindSettings(context=0.9))
    changed: Any = tuned(model, RunSettings("dense", context=0.4))
    assert changed.settings.context == 0.4
    assert changed.settings.kinds == {
        "box": KindSettings(Weighting("attention")), "trace": KindSettings(),
    }  # fmt: skip
    assert tuned(model, RunSettings("dense")) is model
    kept: Any = tuned(model, RunSettings("dense", temperature=0.5))
    assert kept.settings.kinds == model.settings.kinds


def test_a_variance_alone_changes_the_weighting_of_the_tasks_own_kind() -> None:
    model = _model(box=KindSettings(Weighting("gaussian", variance=2.0)))
    own = weighting_of(model, RunSettings("dense", rounding="reference"))
    assert own == Weighting("gaussian", variance=2.0, rounding="reference")
    assert weighting_of(model, RunSettings("trace", rounding="reference")).kind == "uniform"
    assert weighting_of(model, RunSettings("dense")) is None


@pytest.mark.parametrize("more", [[], ["--size", "96"]])
def test_the_command_takes_an_input_size(
    tmp_path: Path, data: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And the results say which; a size that cannot be is refused with the sizes that can."""
    out = tmp_path / "run"
    inputs = [
        "--data", str(data / "annotations" / "dense_refcocos_dev.json"), "--java", "no",
        "--images", str(data / "photos"), "--rounds", "10",
    ]  # fmt: skip
    assert main([*inputs, *more, "--out", str(out)], load_model=lambda *_: _model()) == 0
    model = json.loads((out / "results.json").read_text())["model"]
    assert model["backbone_config"]["preprocessing"]["size"] == (96 if more else 64)
    assert main([*inputs, "--size", "70"], load_model=lambda *_: _model()) == 1
    assert "multiple of the patch size" in capsys.readouterr().err
