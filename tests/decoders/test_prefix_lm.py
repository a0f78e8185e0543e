"""Any language model behind a prefix: what trains, what is stored, and that it learns."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from decoders import DecodeOptions, TrainOptions, TrainReport, load_decoder, train_decoder
from decoders.language_model import (
    fingerprint,
)
from decoders.prefix_lm import PrefixLMDecoder
from patchioner.base.errors import CheckpointError, OptionError
from tests.decoders.conftest import COLOURS, DIM, THINGS, embed_words
from tests.support.language import (
    language_config,
    language_folder,
    language_tokenizer,
    spread,
    transformers_twin,
)

SHORT = DecodeOptions(max_tokens=12)
CORPUS = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS]
OPTIONS = TrainOptions(
    steps=8,
    batch=15,
    learning_rate=5e-3,
    warmup_steps=2,
    noise_sigma=0.01,
    label_smoothing=0.0,
    validate_every=3,
    checkpoint_every=2,
    validation_share=0.1,
)


def make(kind: str = "gpt2", **settings: Any) -> PrefixLMDecoder:
    values: dict[str, Any] = {"prompt_tokens": 4, **settings}
    return PrefixLMDecoder.create(DIM, language_config(kind), language_tokenizer(), **values)


def weights(decoder: PrefixLMDecoder) -> Tensor:
    return torch.cat([p.detach().flatten() for p in decoder.module.parameters()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_folder(tmp_path_factory.mktemp("language") / "tiny-gpt2")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("tune", ["frozen", "lora", "full"])
def test_training_changes_what_it_should_and_nothing_else(kind: str, tune: str) -> None:
    decoder = make(kind, tune=tune)
    base = {n: p.detach().clone() for n, p in decoder.model.named_parameters() if "lora_" not in n}
    before = weights(decoder)
    reports = train_decoder(decoder, CORPUS, embed_words, OPTIONS)
    assert reports[-1].train_loss < reports[0].train_loss
    assert not torch.equal(weights(decoder), before)
    after = dict(decoder.model.named_parameters())
    same = all(torch.equal(base[name], after[name]) for name in base)
    assert same == (tune != "full")
    lora = [name for name in after if "lora_B" in name]
    assert bool(lora) == (tune == "lora")
    assert all(bool(after[name].any()) for name in lora)
    assert not decoder.model.training


@pytest.mark.parametrize("settings", [{}, {"tune": "lora"}, {"mapper": "transformer"}])
def test_killed_and_resumed_ends_where_an_uninterrupted_run_does(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    class Killed(Exception):
        """Stands for a killed process."""

    def die(report: TrainReport) -> None:
        if report.step == 6:
            raise Killed

    whole, resumed = make(**settings), make(**settings)
    train_decoder(whole, CORPUS, embed_words, OPTIONS)
    with pytest.raises(Killed):
        train_decoder(
            make(**settings),
            CORPUS,
            embed_words,
            OPTIONS,
            checkpoint_folder=tmp_path,
            on_report=die,
        )
    train_decoder(resumed, CORPUS, embed_words, OPTIONS, checkpoint_folder=tmp_path, resume=True)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_greedy_equals_transformers_own_generate(kind: str) -> None:
    decoder = make(kind)
    spread(decoder.model, 8.0)
    rows = embed_words(CORPUS[:6])
    model: Any = transformers_twin(decoder.model)
    for row, one in zip(rows, decoder.generate(rows, SHORT), strict=True):
        prefix = decoder.prefixes(row[None])[0][None]
        ids = model.generate(
            inputs_embeds=prefix,
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )[0].tolist()
        assert list(one.token_ids) == (ids[: ids.index(0) + 1] if 0 in ids else ids)


@pytest.mark.parametrize("settings", [{}, {"tune": "lora", "lora_rank": 2}, {"tune": "full"}])
@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_saved_and_loaded_says_the_same(
    tmp_path: Path, settings: dict[str, Any], storage: Any
) -> None:
    decoder = make(**settings)
    train_decoder(decoder, CORPUS, embed_words, OPTIONS)
    decoder.save(tmp_path, storage=storage)
    loaded = load_decoder(tmp_path)
    assert isinstance(loaded, PrefixLMDecoder) and loaded.config == decoder.config
    rows = embed_words(CORPUS[:8])
    left, right = decoder.generate(rows, SHORT), loaded.generate(rows, SHORT)
    if storage == "fp32":
        assert left == right
    assert [o.score for o in right] == pytest.approx([o.score for o in left], abs=0.05)
    # A loaded decoder can be trained further.
    again = train_decoder(loaded, CORPUS, embed_words, OPTIONS)
    assert torch.isfinite(torch.tensor(again[-1].train_loss))


def test_a_referred_language_model_is_not_stored_and_must_be_the_same(
    folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    decoder = PrefixLMDecoder.create(DIM, str(place), keep="reference", tune="lora")
    train_decoder(decoder, CORPUS, embed_words, OPTIONS)
    decoder.save(tmp_path / "out", storage="fp32")
    stored = load_file(tmp_path / "out" / "weights.safetensors")
    assert {name.split(".")[0] for name in stored} == {"mapper", "lora"}
    rows = embed_words(CORPUS[:4])
    assert load_decoder(tmp_path / "out").generate(rows, SHORT) == decoder.generate(rows, SHORT)
    language_folder(place, seed=6)
    with pytest.raises(CheckpointError, match="not the language model"):
        load_decoder(tmp_path / "out")


def test_references_that_make_no_sense_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="no place to refer to"):
        make(keep="reference")
    with pytest.raises(OptionError, match="leave reference out"):
        PrefixLMDecoder.create(DIM, str(folder), keep="reference", tune="full")


def test_the_language_model_keeps_its_names_inside(tmp_path: Path) -> None:
    make(tune="lora").save(tmp_path, storage="fp32")
    names = set(load_file(tmp_path / "weights.safetensors"))
    assert "language_model.transformer.h.0.attn.c_attn.weight" in names
    assert any(name.startswith("lora.") for name in names)
    assert not any("base_layer" in name or "lm_head" in name for name in names)


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


def test_lora_matrices_must_fit(tmp_path: Path) -> None:
    make(tune="lora").save(tmp_path, storage="fp32")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "lora_rank": 3}))
    with pytest.raises(CheckpointError, match="lora_A"):
        load_decoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "tune": "frozen"}))
    with pytest.raises(CheckpointError, match="unexpected"):
        load_decoder(tmp_path)


def test_lora_layers_can_be_named_and_must_exist() -> None:
    decoder = make(tune="lora", lora_targets=("c_proj",))
    names = {n for n, p in decoder.model.named_parameters() if p.requires_grad}
    assert names and all("c_proj" in name for name in names)
    with pytest.raises(OptionError, match="lora_targets"):
        make(tune="lora", lora_targets=("none_such",))


def test_copies_are_whole(tmp_path: Path) -> None:
    decoder = make(tune="lora")
    before = fingerprint(decoder.model)
    copied = copy.deepcopy(decoder)
    train_decoder(copied, CORPUS, embed_words, OPTIONS)
    assert fingerprint(decoder.model) == before != fingerprint(copied.model)
    assert copied.generate(embed_words(CORPUS[:2]), SHORT) != decoder.generate(
        embed_words(CORPUS[:2]), SHORT
    )


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
