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
from hypothesis import given
from hypothesis import strategies as st

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
from tests.patchioner.detail.conftest import PHOTO, REGIONS
from tests.support.language import language_folder, language_model, spread, transformers_twin
from tests.support.vision_language import blip2_folder, qwen2_vl_folder

huggingface_hub = pytest.importorskip("huggingface_hub")
transformers = pytest.importorskip("transformers")
ONE, TWO = (
    Question("fuse", "m", "one"),
    Question("fuse", "m", "two", shown={"box": (0, 1.5, 2, 3), "mask": None}),
)
OTHER: dict[str, Any] = {
    "stage": "describe", "model": "n", "user": "u", "system": "s", "sampling": {"temperature": 0.1}, "seed": 1,
    "sample": 1, "shown": {"photo": "ab"},
}  # fmt: skip


class Model(AskedModel):
    """Answers with what it is told to; counts."""

    def __init__(self, folder: Path, answer: Answer | DetailError) -> None:
        self.cache, self.identity, self.settings = CallCache(folder), "m", {}
        self.answer, self.asked = answer, list[Question]()

    def write(self, asked: Sequence[Any], take: Take) -> None:
        for question, _ in asked:
            self.asked.append(question)
            take(question, self.answer)

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


@pytest.mark.parametrize(("text", "left"), [
    (" A bus.\r\n\tRed. ", "A bus.\n\tRed."), ("a\x00b\x1b[31mc\x7f\x9b", "ab[31mc"),
    ("\ufeffto \u202eright\u202c\u200b", "to right"), ("<think>so\nmuch</think>\nA bus.", "A bus."),
    ("<THINKING>never closed", ""), ("Hmm, a cat.\n</think>\n\nA bus.", "A bus."),
    ("<think>a</think><think>b</think>A bus.", "A bus."), ("a <think>b</think>", "a <think>b</think>"),
    ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A bus.", "A bus."),
    ("<|channel|>analysis<|message|>never at an end", ""),
    ("<|im_start|>assistant\nA bus.<|im_end|>\n<|im_start|>user", "A bus."),
    ("A bus, 5 < 6 | 7 > 3.", "A bus, 5 < 6 | 7 > 3."), ("\ud800", "\ufffd"),
    ("[THINK]Hm.[/THINK]A bus.", "A bus."), ("◁think▷Hm.◁/think▷A bus.", "A bus."), ("<seed:think>Hm", ""),
    ("<thought>Hm.</thought>\nA bus.", "A bus."), ("<unused94>thought\nHm.<unused95>A bus.", "A bus."),
    ("<|begin_of_thought|>Hm<|end_of_thought|>\n<|begin_of_solution|>A bus.<|end_of_solution|>", "A bus."),
    ("<|START_THINKING|>Hm<|END_THINKING|><|START_RESPONSE|>A bus.<|END_RESPONSE|>", "A bus."),
    ("Here is my thought process:\nHm.\nHere is my response:\nA bus.", "A bus."),
    ("Thinking...\nHm.\n...done thinking.\n\nA bus.", "A bus."),
    ("analysisA photo. Hm.assistantfinalA bus.", "A bus."), ("An analysis of a bus.", "An analysis of a bus."),
    ('<details type="reasoning" done="true"><summary>Thought</summary>Hm</details>A bus.', "A bus."),
    ("<think>Hm</think><answer>A bus.</answer>", "A bus."), ("<|begin_of_box|>A bus.<|end_of_box|>", "A bus."),
    ("<|start_header_id|>assistant<|end_header_id|>\n\nA bus.<|eot_id|>", "A bus."), ("A bus.</s>", "A bus."),
    ("<start_of_turn>model\nA bus.<end_of_turn>\n<start_of_turn>user", "A bus."), ("ASSISTANT: A bus.", "A bus."),
    ("A bus.<\uff5cend\u2581of\u2581sentence\uff5c>", "A bus."), ("A bus.<end_of_utterance>", "A bus."),
    ('<tool_call>\n{"name": "zoom"}\n</tool_call>', ""), ('[TOOL_CALLS][{"name": "zoom"}]', ""),
    ('```json\n{"text": "A bus."}\n```', '{"text": "A bus."}'), ("```\nA bus.", "A bus."),
    ("A sign says ```\nGO\n```", "A sign says ```\nGO\n```"), ("A\U000e0041\U000e0042 bus.", "A bus."),
    ("<s>[INST] Hm [/INST] A bus", "Hm"), ("<|begin_of_thought|>Hm", ""), ("[/INST]" * 7_000, ""),
])  # fmt: skip
def test_answers_are_cleaned(text: str, left: str) -> None:
    assert clean_answer(text) == left


pieces = st.sampled_from([*"aé橋 \n\r\x00\u202e\ud800", "<think>", "</think>", "<|end|>"])


@given(st.lists(pieces, max_size=30).map("".join))
def test_a_cleaned_answer_is_short_writable_and_clean(text: str) -> None:
    cleaned = clean_answer(text, limit=20)
    assert len(cleaned) <= 20 and clean_answer(cleaned, limit=20) == cleaned
    cleaned.encode()


def test_what_was_answered_is_not_asked_again_and_an_error_is(tmp_path: Path) -> None:
    said = Answer("Ümläut 橋", -0.5)
    model, again = Model(tmp_path / "a", said), Model(tmp_path / "a", Answer("no"))
    assert model.text() == model.text() == model.text(TWO) == again.text(TWO) == said
    assert (model.asked, again.asked) == ([ONE, TWO], [])
    turned = replace(TWO, shown=dict(reversed(TWO.shown.items())))
    assert CallCache(tmp_path / "a").get(turned) == said
    failing = Model(tmp_path / "b", DetailError("down"))
    for _ in range(2):
        with pytest.raises(DetailError, match="down"):
            failing.ask("", "one", temperature=0.0, max_tokens=5)
    assert len(failing.asked) == 2 and not list((tmp_path / "b").rglob("*.json"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DetailError, match="file"):
        CallCache(tmp_path / "file").put(ONE, Answer("yes"))


@pytest.mark.parametrize(("old", "new"), [
    (b'"yes"', b'"no"'), (b'"yes"', b"7"), (b'"user": "one"', b'"user": "two"'), (b"}\n", b""),
    (None, b""), (None, b"[" * 100_000), (None, b"null"), (None, b"\xff\xfe\x00"),
])  # fmt: skip
def test_a_damaged_file_is_a_miss_with_a_warning(
    tmp_path: Path, old: bytes | None, new: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CallCache(tmp_path)
    cache.put(ONE, Answer("yes"))
    path = cache.path(ONE)
    path.write_bytes(new if old is None else path.read_bytes().replace(old, new))
    with caplog.at_level(logging.WARNING):
        assert cache.get(ONE) is None
    assert path.name in caplog.text
    cache.put(ONE, Answer("yes"))
    assert cache.get(ONE) == Answer("yes")


def test_tokens_are_drawn_by_their_probability_at_that_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -math.inf])
    sampler, none = SeededSampler(range(60), [0.7] * 60, 200), torch.zeros(60, 0, dtype=torch.long)
    tokens = torch.cat([sampler(none, logits.expand(60, -1)).argmax(1) for _ in range(200)])
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    torch.testing.assert_close(shares, (logits / 0.7).softmax(0), atol=0.015, rtol=0)
    sampler = SeededSampler([5], [3.0], 1)
    left = sampler(none[:1], logits[None])
    assert torch.isfinite(left).sum() == 1
    torch.testing.assert_close(sampler.log_probs[0], logits.log_softmax(0)[left.argmax(1)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = language_folder(tmp_path_factory.mktemp("language") / "tiny")
    model: Any = language_model(seed=5)
    spread(model, 4.0)
    transformers_twin(model).save_pretrained(place)
    return place


def ask(model: LocalModel, system: str = "Be brief.", seed: int = 1) -> str:
    return model.ask(system, "a red cat", temperature=1.0, max_tokens=12, seed=seed)


def test_answers_follow_from_the_seed_and_are_kept(folder: Path, tmp_path: Path) -> None:
    model = LocalModel(str(folder), cache=CallCache(tmp_path), device="cpu")
    first = ask(model)
    torch.rand(3)  # the global random numbers play no part
    assert ask(LocalModel(str(folder), device="cpu")) == first
    assert ask(model, seed=2) != first
    assert ask(model, system="") != first
    several = [
        replace(ONE, user=user, sampling={"max_tokens": 3, "temperature": 0.0}) for user in "ab"
    ]
    assert len(model.answers((one, None) for one in several)) == 2
    again = LocalModel(str(folder), cache=CallCache(tmp_path), device="cpu")
    assert ask(again) == first
    assert again._loaded is None  # nothing was loaded for it


TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@pytest.mark.parametrize(("template", "told"), [
    (TEMPLATE, "[system] Be brief.\n[user] a cat"), (NO_SYSTEM + TEMPLATE, "[user] Be brief.\n\na cat")
])  # fmt: skip
def test_the_chat_template_words_the_prompt(folder: Path, template: str, told: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    prompt = tokenizer.decode(_prompt(tokenizer, "Be brief.", "a cat")["input_ids"][0])
    assert prompt == f"{told}\n[assistant] "


def test_long_prompts_and_folders_without_a_model(folder: Path, tmp_path: Path) -> None:
    model = LocalModel(str(folder), device="cpu")
    with pytest.raises(DetailError, match="exceed the model's 128"):
        model.ask("", "a cat " * 200, temperature=0.0, max_tokens=5)
    with pytest.raises((OptionError, HubError), match=folder.name):  # it sees nothing
        describer(str(folder)).describe(PHOTO, REGIONS)
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises((OptionError, HubError), match=tmp_path.name):
        ask(LocalModel(str(tmp_path), device="cpu"))
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"evil": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HubError, match="safetensors"):  # pickles are not read
        ask(LocalModel(str(tmp_path), device="cpu"))


def test_a_folder_is_told_by_its_contents(folder: Path, tmp_path: Path) -> None:
    def identity(name: object) -> str:
        return LocalModel(str(name), device="cpu").identity

    other = language_folder(tmp_path / "tiny", seed=6)
    assert identity(folder).startswith("hf:tiny#")
    assert identity(folder) == identity(f"{folder}/../{folder.name}") != identity(other)
    assert identity("gpt2") == "hf:gpt2"


@pytest.mark.parametrize(("error", "said", "local"), [
    (ConnectionError("no route"), "only local files were looked at", True),
    (None, r"no such file; give the id", False), (ValueError("no such id"), r"no such file; give the id", False),
])  # fmt: skip
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


@pytest.mark.parametrize(("wrong", "named"), [
    ({"name": ""}, "no model"), ({"dtype": "int3"}, "int3"), ({"batch_size": 0}, "0")
])  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        LocalModel(**{"name": "x", "device": "cpu", **wrong})


FAMILIES: dict[str, Callable[..., Path]] = {"qwen2_vl": qwen2_vl_folder, "blip2": blip2_folder}


@pytest.fixture(scope="module", params=FAMILIES)
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(FAMILIES[request.param](tmp_path_factory.mktemp("vlm") / request.param))


def describer(
    folder: str, batch_size: int = 8, max_tokens: int = 6, **settings: Any
) -> VisionDescriber:
    model = LocalModel(folder, sees=True, device="cpu", batch_size=batch_size)
    return VisionDescriber(model, max_tokens=max_tokens, **settings)


def test_texts_do_not_depend_on_their_batch(seeing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they where memory runs out and batches are halved."""
    whole = describer(seeing)
    together = whole.describe(PHOTO, REGIONS, seed=4)
    torch.rand(3)
    apart = describer(seeing, batch_size=1).describe(PHOTO, REGIONS, seed=4)
    assert [one.text for one in together] == [one.text for one in apart]
    assert len({one.text for one in together}) >= 6
    assert [one.region_id for one in together] == ["global"] + ["spatial-1"] * 3 + ["spatial-2"] * 3
    for one, other in zip(together, apart, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
    fewer = whole.describe(PHOTO, REGIONS[1:2], seed=4)
    assert [one.text for one in fewer] == [one.text for one in together[1:4]]
    room = [2]

    def limited(network: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if len(inputs["input_ids"]) > room[0]:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return generated(network, inputs, *args, **options)

    monkeypatch.setattr("patchioner.detail.models.generated", limited)
    halved = whole.describe(PHOTO, REGIONS, seed=4)
    assert [one.text for one in halved] == [one.text for one in together]
    room[0] = 0
    with pytest.raises(DetailError, match="region 'global'"):
        whole.describe(PHOTO, REGIONS)


@pytest.mark.parametrize("seeing", ["qwen2_vl"], indirect=True)
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
