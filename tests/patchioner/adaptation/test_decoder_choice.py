"""Adaptations onto language models: from text alone to captions of a photo, and on again from there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decoders import TrainReport
from decoders.entities import EntityPrompter
from decoders.language_model import LanguageDecoder
from decoders.prefix_lm import PrefixLMDecoder
from decoders.viecap import ViecapDecoder
from patchioner import Patchioner
from patchioner.adaptation import AdaptOptions, LanguageModelShape, adapt
from patchioner.base.errors import OptionError, TextError
from patchioner.checkpoints.folder import read_checkpoint
from patchioner.checkpoints.parts import Parts
from tests.support.language import language_folder, language_model
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

QUICK = AdaptOptions(epochs=2, batch=8, learning_rate=2e-3)
KINDS: list[dict[str, Any]] = [
    {"decoder": "viecap"},
    {"decoder": "meacap"},
    {"decoder": "prefix_lm"},
    {"decoder": "prefix_lm", "tune": "lora", "keep": "reference"},
]
NAMES = ["viecap", "meacap", "prefix_lm", "lora"]


class Killed(Exception):
    """Stands for a killed process."""


@pytest.fixture(scope="module")
def source() -> Parts:
    return tiny_parts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(language_folder(tmp_path_factory.mktemp("language") / "tiny"))


def weights(out: Path) -> Tensor:
    decoder = read_checkpoint(out).decoder
    assert isinstance(decoder, LanguageDecoder)
    return torch.cat([p.detach().flatten() for p in decoder.module.parameters()])


@pytest.mark.parametrize("values", KINDS, ids=NAMES)
def test_from_text_to_captions_and_on_again(
    source: Parts, folder: str, tmp_path: Path, values: dict[str, Any]
) -> None:
    options = replace(QUICK, fresh=LanguageModelShape(language_model=folder, **values))
    out = adapt(source, TEXTS, tmp_path / "one", options)
    model = Patchioner.from_pretrained(out, device="cpu")
    (caption,) = model.caption(noise_photo())
    assert isinstance(caption.text, str) and caption.score < 0
    assert json.loads((out / "decoder" / "config.json").read_text())["type"] == values["decoder"]
    again = adapt(read_checkpoint(out), TEXTS, tmp_path / "two", replace(QUICK, noise=0.05))
    assert not torch.equal(weights(again), weights(out))
    assert read_checkpoint(again).settings.projection == "none"


@pytest.mark.parametrize("values", [KINDS[0], KINDS[3]], ids=["viecap", "lora"])
def test_killed_and_resumed_ends_where_an_uninterrupted_run_does(
    source: Parts, folder: str, tmp_path: Path, values: dict[str, Any]
) -> None:
    options = replace(QUICK, fresh=LanguageModelShape(language_model=folder, **values))
    whole = adapt(source, TEXTS, tmp_path / "whole" / "model", options)

    def kill(report: TrainReport) -> None:
        if report.step >= 4:
            raise Killed

    out = tmp_path / "parts" / "model"
    with pytest.raises(Killed):
        adapt(source, TEXTS, out, options, on_report=kill)
    steps: list[int] = []
    adapt(source, TEXTS, out, options, resume=True, on_report=lambda r: steps.append(r.step))
    assert steps[0] > 1
    assert torch.equal(weights(out), weights(whole))


def test_a_changed_language_model_is_another_run(source: Parts, tmp_path: Path) -> None:
    place = language_folder(tmp_path / "language")
    options = replace(QUICK, fresh=LanguageModelShape("viecap", str(place)))
    out = adapt(source, TEXTS, tmp_path / "out", options)
    other: Any = language_model(seed=9)
    other.save_pretrained(place)
    with pytest.raises(OptionError, match="language_model"):
        adapt(source, TEXTS, out, options, resume=True)


def test_entities_are_those_asked_for_in_the_towers_space(
    source: Parts, folder: str, tmp_path: Path
) -> None:
    shape = LanguageModelShape("viecap", folder, entities=("cat", "bus"))
    out = adapt(source, TEXTS, tmp_path / "out", replace(QUICK, fresh=shape))
    decoder = read_checkpoint(out).decoder
    assert isinstance(decoder, ViecapDecoder) and isinstance(decoder.prompter, EntityPrompter)
    assert decoder.prompter.names == ("cat", "bus") and decoder.prompter.dim == 64
    twice = replace(shape, entities=("cat", "cat"))
    with pytest.raises(TextError, match="twice"):
        adapt(source, TEXTS, tmp_path / "no", replace(QUICK, fresh=twice))
    assert not (tmp_path / "no").exists()


def test_a_reference_keeps_the_checkpoint_small(source: Parts, folder: str, tmp_path: Path) -> None:
    sizes = {}
    for keep in ("inside", "reference"):
        shape = LanguageModelShape("prefix_lm", folder, keep=keep)
        out = adapt(source, TEXTS, tmp_path / keep, replace(QUICK, fresh=shape))
        assert isinstance(read_checkpoint(out).decoder, PrefixLMDecoder)
        sizes[keep] = (out / "decoder" / "weights.safetensors").stat().st_size
    assert sizes["reference"] < sizes["inside"]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"decoder": "viecat"}, "decoder"),
        ({"language_model": ""}, "language_model"),
        ({"tune": "lora"}, "prefix_lm"),
        ({"decoder": "meacap", "entities": ("cat",)}, "entities"),
        ({"decoder": "prefix_lm", "tune": "some"}, "tune"),
        ({"decoder": "prefix_lm", "keep": "away"}, "keep"),
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        LanguageModelShape(**{"decoder": "viecap", "language_model": "gpt2", **values})


def test_learning_rates_suit_the_decoder() -> None:
    def rate(**values: Any) -> float:
        return AdaptOptions(fresh=LanguageModelShape(language_model="gpt2", **values)).rate

    assert AdaptOptions().rate == rate(decoder="prefix_lm") == 1e-3
    assert rate(decoder="viecap") == rate(decoder="prefix_lm", tune="full") == 1e-4
    assert AdaptOptions(learning_rate=0.5).training(texts=9, max_tokens=9).learning_rate == 0.5
