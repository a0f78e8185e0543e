"""Language models from configurations and folders: the same again, tied weights once, bad ones refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from decoders import DecodeOptions
from decoders.language_model import (
    build_language_model,
    describe_language_model,
    fetch_language_model,
    fingerprint,
    tied_state,
    untied_state,
)
from decoders.viecap import ViecapDecoder
from patchioner.base.errors import CheckpointError, HubError, MissingExtraError, OptionError
from patchioner.base.weights import fit_weights
from tests.support.language import language_config, language_folder, language_model

KINDS = ["gpt2", "opt", "llama", "mistral"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model as transformers itself writes one."""
    return language_folder(tmp_path_factory.mktemp("language") / "tiny-gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_described_and_built_again_is_the_same_network(kind: str) -> None:
    model = language_model(kind, seed=1)
    config = describe_language_model(model)
    assert config["model_type"] == kind and "_name_or_path" not in config
    again = build_language_model(config, seed=2)
    assert fingerprint(again) != fingerprint(model)
    fit_weights(again, tied_state(again, untied_state(model)), source="memory")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert fingerprint(again) == fingerprint(model)


def test_seeds_decide_the_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    prints = [fingerprint(language_model(seed=seed)) for seed in (3, 3, 4)]
    assert prints[0] == prints[1] != prints[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_tied_weights_have_one_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(3, 2)
            self.out = nn.Linear(2, 3, bias=False)
            self.out.weight = self.words.weight
            self.register_buffer("places", torch.arange(3))

    module = Tied()
    assert set(untied_state(module)) == {"words.weight", "places"}
    stored = {"words.weight": torch.ones(3, 2), "places": torch.arange(3)}
    assert set(tied_state(module, stored)) == {"words.weight", "out.weight", "places"}
    other = {"out.weight": torch.ones(3, 2)}  # a file that kept only the second name
    assert torch.equal(tied_state(module, other)["words.weight"], torch.ones(3, 2))
    assert set(other) == {"out.weight"}


def test_a_folder_of_transformers_is_read(folder: Path) -> None:
    model, tokenizer = fetch_language_model(str(folder))
    assert fingerprint(model) == fingerprint(language_model(seed=5)) and not model.training
    assert tokenizer.end_ids == (0,) and tokenizer.decode(tokenizer.encode(["a cat"])[0]) == "a cat"


def test_a_decoder_is_created_on_a_folder(folder: Path, tmp_path: Path) -> None:
    decoder = ViecapDecoder.create(8, str(folder), prompts="soft", mapping_layers=1)
    decoder.save(tmp_path)
    assert str(folder) not in (tmp_path / "config.json").read_text(encoding="utf-8")
    found = decoder.generate(torch.randn(2, 8), DecodeOptions(max_tokens=4))
    assert len(found) == 2


def test_folders_that_hold_no_language_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="model_type"):
        fetch_language_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(OptionError, match="no causal language model"):
        fetch_language_model(str(tmp_path))


def test_pickled_weights_are_not_read(tmp_path: Path, folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(language_model().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(HubError, match="safetensors"):
        fetch_language_model(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "gtp2"}, "gtp2"),
        ({}, "model_type"),
        (None, "model_type"),
        ({"model_type": "gpt2", "n_embd": 10, "n_head": 3}, "gpt2"),
        ({"model_type": "vit"}, "vit"),
    ],
)
def test_impossible_configurations_are_refused(config: Any, word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        build_language_model(config)


def test_without_transformers_the_message_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="language-models"):
        build_language_model(language_config())
