from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from patchioner.base.errors import DetailError, HubError, MissingExtraError, OptionError
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.generation import SeededSampler, write
from patchioner.detail.clients.local import TransformersTextModel
from patchioner.detail.clients.pretrained import PretrainedModel
from tests.support.language import language_folder, language_model, spread

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + TEMPLATE
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = language_folder(tmp_path_factory.mktemp("language") / "tiny")
    model: Any = language_model(seed=5)
    spread(model, 4.0)
    model.save_pretrained(place)
    return place


def ask(model: TransformersTextModel, **changes: Any) -> str:
    return model.ask(
        changes.pop("system", "Be brief."),
        "a red cat",
        **{"temperature": 1.0, "max_tokens": 12, "seed": 1, **changes},
    )


def test_answers_follow_from_the_seed_and_are_kept(folder: Path, tmp_path: Path) -> None:
    model = TransformersTextModel(str(folder), cache=CallCache(tmp_path), device="cpu")
    first = ask(model)
    torch.rand(3)  # the global random numbers play no part
    assert ask(TransformersTextModel(str(folder), device="cpu")) == first
    assert ask(model, seed=2) != first
    assert ask(model, system="") != first
    again = TransformersTextModel(str(folder), cache=CallCache(tmp_path), device="cpu")
    assert ask(again) == first
    assert again.model._loaded is None  # nothing was loaded for it


def test_without_temperature_it_is_the_models_own_greedy_text(folder: Path) -> None:
    transformers: Any = import_module("transformers")
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("Be brief.\n\na red cat\n\n", return_tensors="pt")
    with torch.no_grad():
        output = plain.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)
    expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    model = TransformersTextModel(str(folder), device="cpu")
    assert ask(model, temperature=0.0) == expected.strip()


def test_texts_and_log_probabilities_end_with_the_end_mark(folder: Path) -> None:
    network, _ = PretrainedModel(str(folder), "AutoModelForCausalLM", "AutoTokenizer").parts()
    inputs = {
        "input_ids": torch.tensor([[5, 6], [7, 8]]),
        "attention_mask": torch.ones(2, 2).long(),
    }
    free = write(
        network,
        inputs,
        SeededSampler([1, 2], [1.0, 1.0], top_p=1.0, max_tokens=8),
        max_tokens=8,
        pad=0,
    )
    stop = free[0].tokens[3]
    network.generation_config.eos_token_id = [stop, 10**6]
    sampler = SeededSampler([1, 2], [1.0, 1.0], top_p=1.0, max_tokens=8)
    short = write(network, inputs, sampler, max_tokens=8, pad=0)
    length = free[0].tokens.index(stop)
    assert short[0].tokens == free[0].tokens[:length]
    values = torch.stack(sampler.log_probs)[: length + 1, 0]
    assert short[0].log_prob == pytest.approx(values.mean().item(), rel=1e-5)
    whole = torch.cat([inputs["input_ids"][:1], torch.tensor([[*short[0].tokens, stop]])], dim=1)
    with torch.no_grad():
        slow = network(whole).logits.log_softmax(-1)[0, 1:-1].gather(1, whole[0, 2:, None]).mean()
    assert short[0].log_prob == pytest.approx(slow.item(), rel=1e-4)


@pytest.mark.parametrize("template", [TEMPLATE, NO_SYSTEM])
def test_the_chat_template_words_the_prompt(folder: Path, template: str) -> None:
    from patchioner.detail.clients.local import _encoded

    transformers: Any = import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    prompt = tokenizer.decode(_encoded(tokenizer, "Be brief.", "a cat")["input_ids"][0])
    if template == TEMPLATE:
        assert prompt == "[system] Be brief.\n[user] a cat\n[assistant] "
    else:
        assert prompt == "[user] Be brief.\n\na cat\n[assistant] "


def test_a_prompt_that_is_too_long_is_an_error(folder: Path) -> None:
    model = TransformersTextModel(str(folder), device="cpu")
    with pytest.raises(DetailError, match="exceed the model's 128"):
        model.ask("", "a cat " * 200, temperature=0.0, max_tokens=5)


def test_a_model_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="cannot be read"):
        ask(TransformersTextModel(str(tmp_path / "none"), device="cpu", offline=True))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises((OptionError, HubError), match="odd"):
        ask(TransformersTextModel(str(tmp_path / "odd"), device="cpu"))


def test_weights_in_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"evil": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HubError, match="safetensors"):
        ask(TransformersTextModel(str(tmp_path), device="cpu"))


def test_a_package_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers: Any = import_module("transformers")

    def fail(*_: object, **__: object) -> None:
        raise ImportError("needs num2words\nand more")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(MissingExtraError, match="needs num2words"):
        ask(TransformersTextModel(str(folder), device="cpu"))


def test_a_folder_is_told_by_its_contents_and_a_hub_model_by_its_revision(
    folder: Path, tmp_path: Path
) -> None:
    def identity(name: str, **options: Any) -> str:
        return PretrainedModel(
            name, "AutoModelForCausalLM", "AutoTokenizer", device="cpu", **options
        ).identity

    other = language_folder(tmp_path / "tiny", seed=6)
    assert identity(str(folder)).startswith("hf:tiny#")
    assert identity(str(folder)) != identity(str(other))
    assert identity(str(folder)) == identity(f"{folder}/../{folder.name}")
    assert identity("gpt2", revision="abc") == "hf:gpt2@abc"


def test_precision_is_chosen_and_checked(folder: Path) -> None:
    network, _ = PretrainedModel(
        str(folder), "AutoModelForCausalLM", "AutoTokenizer", device="cpu", dtype="bfloat16"
    ).parts()
    assert network.dtype == torch.bfloat16
    with pytest.raises(OptionError, match="'int4'"):
        TransformersTextModel(str(folder), dtype="int4")
    with pytest.raises(OptionError, match="no model"):
        TransformersTextModel("")
