"""Any language model behind a prefix: what trains, what is stored, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from decoders import load_decoder, train_decoder
from decoders.language_decoder import LanguageDecoder, PromptMLP
from patchioner.base.errors import CheckpointError, OptionError
from tests.decoders.conftest import DIM, PAIRS, SHORT, embed_words, quick
from tests.support.language import language_config, language_folder, language_tokenizer
from tests.support.tiny import change_config

OPTIONS = quick(steps=8, warmup_steps=2, validate_every=3, checkpoint_every=2, validation_share=0.1)


def make(kind: str = "gpt2", **settings: Any) -> LanguageDecoder:
    values: dict[str, Any] = {"prompt_tokens": 4, **settings}
    return LanguageDecoder.create(DIM, language_config(kind), language_tokenizer(), **values)


def weights(decoder: LanguageDecoder) -> Tensor:
    return torch.cat([p.detach().flatten() for p in decoder.module.parameters()])


@pytest.mark.parametrize(
    ("kind", "tune", "mapper", "storage"),
    [
        ("gpt2", "frozen", "mlp", "fp32"),
        ("gpt2", "lora", "mlp", "fp16"),
        ("opt", "lora", "transformer", "fp32"),
        ("llama", "full", "mlp", "fp32"),
    ],
)
def test_training_changes_what_it_should_and_is_stored(
    tmp_path: Path, kind: str, tune: str, mapper: str, storage: Any
) -> None:
    decoder = make(kind, tune=tune, mapper=mapper, lora_rank=2)
    base = {n: p.detach().clone() for n, p in decoder.model.named_parameters() if "lora_" not in n}
    before = weights(decoder)
    reports = train_decoder(decoder, PAIRS, embed_words, OPTIONS)
    assert reports[-1].train_loss < reports[0].train_loss
    assert not torch.equal(weights(decoder), before)
    after = dict(decoder.model.named_parameters())
    assert all(torch.equal(base[name], after[name]) for name in base) == (tune != "full")
    lora = [name for name in after if "lora_B" in name]
    assert bool(lora) == (tune == "lora")
    assert all(bool(after[name].any()) for name in lora)
    assert not decoder.model.training

    decoder.save(tmp_path, storage=storage)
    stored = load_file(tmp_path / "weights.safetensors")
    if kind == "gpt2":  # as others have it, with or without LoRA
        assert stored["language_model.transformer.h.0.attn.c_attn.weight"].shape == (32, 96)
    loaded = load_decoder(tmp_path)
    assert isinstance(loaded, LanguageDecoder) and loaded.config == decoder.config
    left, right = (one.generate(embed_words(PAIRS[:8]), SHORT) for one in (decoder, loaded))
    if storage == "fp32":
        assert left == right
    assert [o.score for o in right] == pytest.approx([o.score for o in left], abs=0.05)
    # A loaded decoder can be trained further.
    again = train_decoder(loaded, PAIRS, embed_words, quick(steps=2))
    assert torch.isfinite(torch.tensor(again[-1].train_loss))


def test_the_mlp_is_linear_tanh_linear() -> None:
    made, row = PromptMLP(DIM, 8, prompt_tokens=3), embed_words(["cat"])
    with torch.no_grad():
        inner = (made.input.weight @ row[0] + made.input.bias).tanh()
        expected = (made.output.weight @ inner + made.output.bias).reshape(3, 8)
        torch.testing.assert_close(made(row)[0], expected)


def test_a_referred_language_model_is_not_stored_and_must_be_the_same(tmp_path: Path) -> None:
    place, out = language_folder(tmp_path / "model"), tmp_path / "out"
    decoder = LanguageDecoder.create(DIM, str(place), keep="reference", tune="lora")
    train_decoder(decoder, PAIRS, embed_words, OPTIONS)
    decoder.save(out, storage="fp32")
    stored = load_file(out / "weights.safetensors")
    assert {name.split(".")[0] for name in stored} == {"mapper", "lora"}
    rows = embed_words(PAIRS[:4])
    assert load_decoder(out).generate(rows, SHORT) == decoder.generate(rows, SHORT)
    with pytest.raises(OptionError, match="leave reference out"):
        LanguageDecoder.create(DIM, str(place), keep="reference", tune="full")
    save_file({**stored, "language_model.x": torch.zeros(1)}, out / "weights.safetensors")
    with pytest.raises(CheckpointError, match="refers to elsewhere"):
        load_decoder(out)
    language_folder(place, seed=6)
    with pytest.raises(CheckpointError, match="not the language model"):
        load_decoder(out)


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("mapper.input.bias", None, "input"),
        ("language_model.transformer.wpe.weight", torch.zeros(2, 3), "wpe"),
        ("colour", torch.zeros(1), "colour"),
    ],
)
def test_weights_must_fit(tmp_path: Path, name: str, tensor: Tensor | None, word: str) -> None:
    make(tune="lora").save(tmp_path, storage="fp32")
    path = tmp_path / "weights.safetensors"
    state = {**load_file(path), name: tensor}
    save_file({key: value for key, value in state.items() if value is not None}, path)
    with pytest.raises(CheckpointError, match=word):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"mapper": "mpl"}, "mapper"),
        ({"tune": "some"}, "tune"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"prompt_tokens": 300}, "positions"),
        ({"mapper": "transformer", "mapping_heads": 5}, "heads"),
        ({"mapper": "transformer", "mapping_layers": 0}, "layers"),
        ({"keep": "reference"}, "no place to refer to"),
        ({"tune": "lora", "lora_targets": ("none_such",)}, "lora_targets"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        make(**settings)


@pytest.mark.parametrize(
    ("change", "word"), [({"lora_rank": 3}, "lora_A"), ({"tune": "frozen"}, "unexpected")]
)
def test_a_config_of_other_weights_is_refused(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    make(tune="lora").save(tmp_path, storage="fp32")
    change_config(tmp_path, **change)
    with pytest.raises(CheckpointError, match=word):
        load_decoder(tmp_path)
