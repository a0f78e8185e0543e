"""Answers that are kept, so that nothing is asked twice; and models of `transformers` on this machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchioner.base.errors import DetailError, HubError, OptionError
from patchioner.detail import clean_answer
from patchioner.detail.describe import PROMPT, VisionDescriber
from patchioner.detail.models import (
    Answer,
    AskedModel,
    CallCache,
    LocalModel,
    Question,
    SeededSampler,
    Take,
    _prompt,
    generated,
    mask_digest,
)
from tests.patchioner.detail.conftest import REGIONS, noise
from tests.support.language import (
    language_folder,
    language_model,
    spread,
    transformers_twin,
)
from tests.support.vision_language import blip2_folder, qwen2_vl_folder

huggingface_hub = pytest.importorskip("huggingface_hub")
transformers = pytest.importorskip("transformers")
ONE, TWO = Question("fuse", "m", "one"), Question("fuse", "m", "two", shown={"box": (0, 1.5, 2, 3)})
OTHER: dict[str, Any] = {
    "stage": "describe", "model": "n", "user": "u", "system": "s", "sampling": {"temperature": 0.1}, "seed": 1,
    "sample": 1, "shown": {"photo": "ab"},
}  # fmt: skip


class Model(AskedModel):
    """Answers with what it is told to; counts."""

    def __init__(self, folder: Path | None, say: Callable[[], Any]) -> None:
        self.cache = None if folder is None else CallCache(folder)
        self.identity, self.settings = "m", {}
        self.say, self.asked = say, list[Question]()

    def write(self, asked: Sequence[Any], take: Take) -> None:
        for question, _ in asked:
            self.asked.append(question)
            take(question, self.say())

    def text(self, question: Question = ONE) -> object:
        return self.answers([(question, None)])[question.key]


def test_every_field_is_part_of_the_key() -> None:
    assert OTHER.keys() == {field.name for field in fields(Question)}
    keys = {ONE.key, *(replace(ONE, **{name: value}).key for name, value in OTHER.items())}
    assert len(keys) == len(OTHER) + 1
    one = replace(ONE, sampling={"a": 1, "b": 2})
    assert one.key == replace(ONE, sampling={"b": 2, "a": 1}).key
    flat = np.zeros((2, 8), dtype=bool)
    digests = [mask_digest(one) for one in (flat, flat.reshape(8, 2), ~flat, None)]
    assert len(set(digests)) == 4 and digests[3] is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (" A bus.\r\n\tRed. ", "A bus.\n\tRed."),
        ("a\x00b\x1b[31mc\x7f\x9b", "ab[31mc"),
        ("\ufeffto \u202eright\u202c\u200b", "to right"),
        ("<think>so\nmuch</think>\nA bus.", "A bus."),
        ("<THINKING>never closed", ""),
        ("Hmm, a cat.\n</think>\n\nA bus.", "A bus."),
        ("<think>a</think><think>b</think>A bus.", "A bus."),
        ("a <think>b</think>", "a <think>b</think>"),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A bus.", "A bus."),
        ("<|channel|>analysis<|message|>never at an end", ""),
        ("<|im_start|>assistant\nA bus.<|im_end|>\n<|im_start|>user", "A bus."),
        ("A bus, 5 < 6 | 7 > 3.", "A bus, 5 < 6 | 7 > 3."),
        ("\ud800", "\ufffd"),
    ],
)  # fmt: skip
def test_answers_are_cleaned(text: str, left: str) -> None:
    assert clean_answer(text) == left


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_a_cleaned_answer_is_short_writable_and_clean(text: str) -> None:
    cleaned = clean_answer(text, limit=20)
    assert len(cleaned) <= 20 and clean_answer(cleaned, limit=20) == cleaned
    cleaned.encode()


def test_what_was_answered_is_not_asked_again_and_an_error_is(tmp_path: Path) -> None:
    model = Model(tmp_path / "a", lambda: Answer("Ümläut 橋", -0.5))
    assert model.text() == model.text() == model.text(TWO) == Answer("Ümläut 橋", -0.5)
    again = Model(tmp_path / "a", lambda: Answer("no"))
    assert again.text(TWO) == Answer("Ümläut 橋", -0.5)
    assert (model.asked, again.asked) == ([ONE, TWO], [])
    failing = Model(tmp_path / "b", lambda: DetailError("down"))
    for _ in range(2):
        with pytest.raises(DetailError, match="down"):
            failing.ask("", "one", temperature=0.0, max_tokens=5)
    assert len(failing.asked) == 2 and not list((tmp_path / "b").rglob("*.json"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DetailError, match="file"):
        CallCache(tmp_path / "file").put(ONE, Answer("yes"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: b"[" * 100_000,
        lambda text: text.replace(b'"yes"', b'"no"'),
        lambda text: text.replace(b'"yes"', b"7"),
        lambda text: text.replace(b'"user": "one"', b'"user": "two"'),
        lambda text: b"null",
        lambda text: b"\xff\xfe\x00",
    ],
)
def test_a_damaged_file_is_a_miss_with_a_warning(
    tmp_path: Path, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cache = CallCache(tmp_path)
    cache.put(ONE, Answer("yes"))
    path = cache.path(ONE)
    path.write_bytes(spoil(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cache.get(ONE) is None
    assert path.name in caplog.text
    cache.put(ONE, Answer("yes"))
    assert cache.get(ONE) == Answer("yes")


def sampled(logits: Tensor, seeds: list[int], temperatures: list[float]) -> Tensor:
    """(steps, rows): what each row takes when every step has the same logits."""
    sampler = SeededSampler(seeds, temperatures, 200)
    nothing = torch.zeros(len(seeds), 0, dtype=torch.long)
    return torch.stack([sampler(nothing, logits).argmax(1) for _ in range(200)])


def test_tokens_are_drawn_by_their_probability_at_that_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -math.inf])
    tokens = sampled(logits.expand(60, -1), list(range(60)), [0.7] * 60)
    shares = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    torch.testing.assert_close(shares, (logits / 0.7).softmax(0), atol=0.015, rtol=0)
    sampler = SeededSampler([5], [3.0], 1)
    left = sampler(torch.zeros(1, 0, dtype=torch.long), logits[None])
    assert torch.isfinite(left).sum() == 1
    torch.testing.assert_close(sampler.log_probs[0], logits.log_softmax(0)[left.argmax(1)])


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
    transformers_twin(model).save_pretrained(place)
    return place


def ask(model: LocalModel, **changes: Any) -> str:
    return model.ask(
        changes.pop("system", "Be brief."),
        "a red cat",
        **{"temperature": 1.0, "max_tokens": 12, "seed": 1, **changes},
    )


def test_answers_follow_from_the_seed_and_are_kept(folder: Path, tmp_path: Path) -> None:
    model = LocalModel(str(folder), cache=CallCache(tmp_path), device="cpu")
    first = ask(model)
    torch.rand(3)  # the global random numbers play no part
    assert ask(LocalModel(str(folder), device="cpu")) == first
    assert ask(model, seed=2) != first
    assert ask(model, system="") != first
    again = LocalModel(str(folder), cache=CallCache(tmp_path), device="cpu")
    assert ask(again) == first
    assert again._loaded is None  # nothing was loaded for it


@pytest.mark.parametrize("template", [TEMPLATE, NO_SYSTEM])
def test_the_chat_template_words_the_prompt(folder: Path, template: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    prompt = tokenizer.decode(_prompt(tokenizer, "Be brief.", "a cat")["input_ids"][0])
    told = (
        "[system] Be brief.\n[user] a cat" if template == TEMPLATE else "[user] Be brief.\n\na cat"
    )
    assert prompt == f"{told}\n[assistant] "


def test_a_prompt_that_is_too_long_and_a_folder_that_holds_no_model_are_errors(
    folder: Path, tmp_path: Path
) -> None:
    model = LocalModel(str(folder), device="cpu")
    with pytest.raises(DetailError, match="exceed the model's 128"):
        model.ask("", "a cat " * 200, temperature=0.0, max_tokens=5)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises((OptionError, HubError), match="odd"):
        ask(LocalModel(str(tmp_path / "odd"), device="cpu"))
    with pytest.raises((OptionError, HubError), match=folder.name):  # it sees nothing
        describer(str(folder)).describe(PHOTO, REGIONS)


def test_weights_in_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"evil": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HubError, match="safetensors"):
        ask(LocalModel(str(tmp_path), device="cpu"))


def test_a_folder_is_told_by_its_contents(folder: Path, tmp_path: Path) -> None:
    def identity(name: object) -> str:
        return LocalModel(str(name), device="cpu").identity

    other = language_folder(tmp_path / "tiny", seed=6)
    assert identity(folder).startswith("hf:tiny#")
    assert identity(folder) == identity(f"{folder}/../{folder.name}") != identity(other)
    assert identity("gpt2") == "hf:gpt2"


@pytest.mark.parametrize(
    ("error", "said", "local"),
    [
        (ConnectionError("no route"), "only local files were looked at", True),
        (None, r"no such file; give the id", False),
        (ValueError("no such id"), r"no such file; give the id", False),
    ],
)
def test_the_hub_is_asked_once_and_without_a_connection_local_files_are_read(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, said: str, local: bool
) -> None:
    asked: list[object] = []

    def metadata(url: str, **options: Any) -> None:
        asked.append("nobody/nothing" in url)
        if error is not None:
            raise error

    def nothing(name: str, *, local_files_only: bool, **options: Any) -> None:
        asked.append(local_files_only)
        raise OSError("no such file")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", nothing)
    with pytest.raises(HubError, match=said):
        LocalModel("nobody/nothing", device="cpu").parts()
    assert asked == [True, local]


def test_what_makes_no_sense_is_refused() -> None:
    for name, wrong, named in (
        ("", {}, "no model"),
        ("x", {"dtype": "int3"}, "int3"),
        ("x", {"batch_size": 0}, "0"),
    ):
        with pytest.raises(OptionError, match=named):
            LocalModel(name, device="cpu", **wrong)  # type: ignore[arg-type]


PHOTO = noise()


FAMILIES: dict[str, Callable[..., Path]] = {"qwen2_vl": qwen2_vl_folder, "blip2": blip2_folder}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(qwen2_vl_folder(tmp_path_factory.mktemp("vlm") / "qwen"))


def describer(
    folder: str, batch_size: int = 8, max_tokens: int = 6, **settings: Any
) -> VisionDescriber:
    model = LocalModel(folder, sees=True, device="cpu", batch_size=batch_size)
    return VisionDescriber(model, max_tokens=max_tokens, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_do_not_depend_on_their_batch(family: str, tmp_path: Path) -> None:
    folder = str(FAMILIES[family](tmp_path / family))
    together = describer(folder, batch_size=8).describe(PHOTO, REGIONS, seed=4)
    torch.rand(3)
    apart = describer(folder, batch_size=1).describe(PHOTO, REGIONS, seed=4)
    assert [one.text for one in together] == [one.text for one in apart]
    assert len({one.text for one in together}) >= 6
    assert [one.region_id for one in together] == ["global"] + ["spatial-1"] * 3 + ["spatial-2"] * 3
    for one, other in zip(together, apart, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
    fewer = describer(folder).describe(PHOTO, REGIONS[1:2], seed=4)
    assert [one.text for one in fewer] == [one.text for one in together[1:4]]


def test_without_temperature_it_is_the_models_own_greedy_text(seeing: str) -> None:
    one = describer(seeing, max_tokens=8, temperatures=(0.0, 0.0))
    (said,) = one.describe(PHOTO, REGIONS[:1])
    network, processor = one.model.parts()
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    text = f"user: {mark}{PROMPT}\nassistant: "
    inputs = processor(images=PHOTO.image, text=text, return_tensors="pt")
    with torch.no_grad():
        output = network.generate(**inputs, max_new_tokens=8, do_sample=False)
    tail = output[0, inputs["input_ids"].shape[1] :]
    written = processor.tokenizer.decode(tail, skip_special_tokens=True)
    assert said.text == clean_answer(written)


def test_batches_are_halved_when_memory_runs_out(
    seeing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, room = generated, [2]

    def limited(network: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if len(inputs["input_ids"]) > room[0]:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            )
        return plain(network, inputs, *args, **options)

    expected = describer(seeing).describe(PHOTO, REGIONS)
    monkeypatch.setattr("patchioner.detail.models.generated", limited)
    said = describer(seeing).describe(PHOTO, REGIONS)
    assert [one.text for one in said] == [one.text for one in expected]
    room[0] = 0
    with pytest.raises(DetailError, match="region 'global'"):
        describer(seeing).describe(PHOTO, REGIONS)
