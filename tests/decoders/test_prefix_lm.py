"""Any language model behind a prefix: what trains, what is stored, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from decoders import DecodeOptions, TrainReport, load_decoder, train_decoder
from decoders.prefix_lm import PrefixLMDecoder
from patchioner.base.errors import CheckpointError, OptionError
from tests.decoders.conftest import DIM, PAIRS, embed_words, quick
from tests.support.language import language_config, language_folder, language_tokenizer

SHORT = DecodeOptions(max_tokens=12)
OPTIONS = quick(steps=8, warmup_steps=2, validate_every=3, checkpoint_every=2, validation_share=0.1)


def make(kind: str = "gpt2", **settings: Any) -> PrefixLMDecoder:
    values: dict[str, Any] = {"prompt_tokens": 4, **settings}
    return PrefixLMDecoder.create(DIM, language_config(kind), language_tokenizer(), **values)


def weights(decoder: PrefixLMDecoder) -> Tensor:
    return torch.cat([p.detach().flatten() for p in decoder.module.parameters()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_folder(tmp_path_factory.mktemp("language") / "tiny-gpt2")


@pytest.mark.parametrize(
    ("kind", "tune"),
    [("gpt2", "frozen"), ("gpt2", "lora"), ("llama", "lora"), ("opt", "lora"), ("llama", "full")],
)
def test_training_changes_what_it_should_and_nothing_else(kind: str, tune: str) -> None:
    decoder = make(kind, tune=tune)
    base = {n: p.detach().clone() for n, p in decoder.model.named_parameters() if "lora_" not in n}
    before = weights(decoder)
    reports = train_decoder(decoder, PAIRS, embed_words, OPTIONS)
    assert reports[-1].train_loss < reports[0].train_loss
    assert not torch.equal(weights(decoder), before)
    after = dict(decoder.model.named_parameters())
    same = all(torch.equal(base[name], after[name]) for name in base)
    assert same == (tune != "full")
    lora = [name for name in after if "lora_B" in name]
    assert bool(lora) == (tune == "lora")
    assert all(bool(after[name].any()) for name in lora)
    assert not decoder.model.training


@pytest.mark.parametrize("settings", [{"tune": "lora"}, {"mapper": "transformer"}])
def test_killed_and_resumed_ends_where_an_uninterrupted_run_does(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    class Killed(Exception):
        """Stands for a killed process."""

    def die(report: TrainReport) -> None:
        if report.step == 6:
            raise Killed

    whole, resumed = make(**settings), make(**settings)
    train_decoder(whole, PAIRS, embed_words, OPTIONS)
    with pytest.raises(Killed):
        train_decoder(
            make(**settings), PAIRS, embed_words, OPTIONS, checkpoint_folder=tmp_path, on_report=die
        )
    train_decoder(resumed, PAIRS, embed_words, OPTIONS, checkpoint_folder=tmp_path, resume=True)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("settings", [{}, {"tune": "lora", "lora_rank": 2}, {"tune": "full"}])
@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_saved_and_loaded_says_the_same(
    tmp_path: Path, settings: dict[str, Any], storage: Any
) -> None:
    decoder = make(**settings)
    train_decoder(decoder, PAIRS, embed_words, OPTIONS)
    decoder.save(tmp_path, storage=storage)
    loaded = load_decoder(tmp_path)
    assert isinstance(loaded, PrefixLMDecoder) and loaded.config == decoder.config
    rows = embed_words(PAIRS[:8])
    left, right = decoder.generate(rows, SHORT), loaded.generate(rows, SHORT)
    if storage == "fp32":
        assert left == right
    assert [o.score for o in right] == pytest.approx([o.score for o in left], abs=0.05)
    # A loaded decoder can be trained further.
    again = train_decoder(loaded, PAIRS, embed_words, OPTIONS)
    assert torch.isfinite(torch.tensor(again[-1].train_loss))


def test_a_referred_language_model_is_not_stored_and_must_be_the_same(
    folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    decoder = PrefixLMDecoder.create(DIM, str(place), keep="reference", tune="lora")
    train_decoder(decoder, PAIRS, embed_words, OPTIONS)
    decoder.save(tmp_path / "out", storage="fp32")
    stored = load_file(tmp_path / "out" / "weights.safetensors")
    assert {name.split(".")[0] for name in stored} == {"mapper", "lora"}
    rows = embed_words(PAIRS[:4])
    assert load_decoder(tmp_path / "out").generate(rows, SHORT) == decoder.generate(rows, SHORT)
    language_folder(place, seed=6)
    with pytest.raises(CheckpointError, match="not the language model"):
        load_decoder(tmp_path / "out")


@pytest.mark.parametrize("name", ["mapper.input.bias", "language_model.transformer.wpe.weight"])
@pytest.mark.parametrize("damage", ["missing", "shape", "extra"])
def test_weights_must_fit(tmp_path: Path, name: str, damage: str) -> None:
    make(tune="lora").save(tmp_path, storage="fp32")
    path = tmp_path / "weights.safetensors"
    state = load_file(path)
    if damage == "missing":
        del state[name]
    elif damage == "shape":
        state[name] = torch.zeros(2, 3)
    else:
        state["colour"] = torch.zeros(1)
    save_file(state, path)
    with pytest.raises(
        CheckpointError, match="colour" if damage == "extra" else name.split(".")[-2]
    ):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"mapper": "mpl"}, "mapper"),
        ({"tune": "some"}, "tune"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"prompt_tokens": 300}, "positions"),
        ({"mapper": "transformer", "mapping_heads": 5}, "heads"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        make(**settings)


def test_settings_that_do_not_go_together_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no place to refer to"):
        make(keep="reference")
    with pytest.raises(OptionError, match="leave reference out"):
        PrefixLMDecoder.create(DIM, str(folder), keep="reference", tune="full")
    with pytest.raises(OptionError, match="lora_targets"):
        make(tune="lora", lora_targets=("none_such",))
    make(tune="lora").save(tmp_path, storage="fp32")
    config = json.loads((tmp_path / "config.json").read_text())
    for change, word in (({"lora_rank": 3}, "lora_A"), ({"tune": "frozen"}, "unexpected")):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=word):
            load_decoder(tmp_path)
