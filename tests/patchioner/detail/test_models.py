"""Answers that are kept, so that nothing is asked twice; and models of `transformers` on this machine."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchioner.base.errors import DetailError, HubError, OptionError
from patchioner.detail import clean_answer, models
from patchioner.detail.describe import PROMPT, VisionDescriber
from tests.patchioner.detail.conftest import CASES, PHOTO, REGIONS
from tests.support import Log, MonkeyPatch
from tests.support.language import language_folder, language_model, spread, transformers_twin
from tests.support.vision_language import blip2_folder, qwen2_vl_folder

huggingface_hub = pytest.importorskip("huggingface_hub")
transformers = pytest.importorskip("transformers")
ONE = models.Question("fuse", "m", "one")
TWO = models.Question("fuse", "m", "two", shown={"box": (0, 1.5, 2, 3), "mask": None})
OTHER: dict[str, Any] = {
    "stage": "describe", "model": "n", "user": "u", "system": "s", "sampling": {"temperature": 0.1}, "seed": 1,
    "sample": 1, "shown": {"photo": "ab"},
}  # fmt: skip


class Model(models.AskedModel):
    """Answers with what it is told to; remembers what it was asked."""

    def __init__(self, folder: Path, answer: models.Answer | DetailError) -> None:
        self.cache, self.identity, self.settings = models.CallCache(folder), "m", {}
        self.answer, self.asked = answer, list[models.Question]()

    def write(self, asked: Sequence[Any], take: models.Take) -> None:
        for question, _ in asked:
            self.asked.append(question)
            take(question, self.answer)


def test_every_field_is_part_of_the_key() -> None:
    assert OTHER.keys() == {field.name for field in fields(models.Question)}
    keys = {ONE.key, *(replace(ONE, **{name: value}).key for name, value in OTHER.items())}
    assert len(keys) == len(OTHER) + 1
    one = replace(ONE, sampling={"a": 1, "b": 2})
    assert one.key == replace(ONE, sampling={"b": 2, "a": 1}).key
    flat = np.zeros((2, 8), dtype=bool)
    digests = [models.mask_digest(one) for one in (flat, flat.reshape(8, 2), ~flat, None)]
    assert len(set(digests)) == 4 and digests[3] is None


@pytest.mark.parametrize(("text", "left"), [*CASES["answers"], ("[/INST]" * 7_000, "")])
def test_answers_are_cleaned(text: str, left: str) -> None:
    assert clean_answer(text) == left
    assert clean_answer("A bus. " * 9, limit=9) == "A bus. A"


def test_what_was_answered_is_not_asked_again_and_an_error_is(tmp_path: Path) -> None:
    said = models.Answer("Ümläut 橋", -0.5)
    turned = replace(TWO, shown=dict(reversed([*TWO.shown.items()])))
    model, again = Model(tmp_path / "a", said), Model(tmp_path / "a", models.Answer("no"))
    for one in (model, model, again):
        found = one.answers((question, None) for question in (ONE, TWO, turned))
        assert found == {ONE.key: said, TWO.key: said}
    assert len(model.asked) == 2 and again.asked == []
    failing = Model(tmp_path / "b", DetailError("down"))
    for _ in range(2):
        with pytest.raises(DetailError, match="down"):
            failing.ask("", "one", temperature=0.0, max_tokens=5)
    assert len(failing.asked) == 2 and not list((tmp_path / "b").rglob("*.json"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DetailError, match="file"):
        models.CallCache(tmp_path / "file").put(ONE, said)


@pytest.mark.parametrize(("old", "new"), [
    (b'"yes"', b'"no"'), (b'"yes"', b"7"), (b'"user": "one"', b'"user": "two"'), (b"}\n", b""),
    (None, b"[" * 100_000), (None, b"null"), (None, b"\xff\xfe\x00"),
])  # fmt: skip
def test_a_damaged_file_is_a_miss_with_a_warning(tmp_path: Path, old: bytes | None, new: bytes, caplog: Log) -> None:
    cache = models.CallCache(tmp_path)
    cache.put(ONE, models.Answer("yes"))
    path = cache.path(ONE)
    path.write_bytes(new if old is None else path.read_bytes().replace(old, new))
    with caplog.at_level(logging.WARNING):
        assert cache.get(ONE) is None
    assert path.name in caplog.text


def test_tokens_are_drawn_by_their_probability_at_that_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -math.inf])
    sampler = models.SeededSampler(range(60), [0.7] * 60, 200)
    none = torch.zeros(60, 0, dtype=torch.long)
    tokens = torch.cat([sampler(none, logits.expand(60, -1)).argmax(1) for _ in range(200)])
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    torch.testing.assert_close(shares, (logits / 0.7).softmax(0), atol=0.015, rtol=0)
    sampler = models.SeededSampler([5], [3.0], 1)
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


def local(name: object, **options: Any) -> models.LocalModel:
    return models.LocalModel(str(name), device="cpu", **options)


def ask(model: models.LocalModel, system: str = "Be brief.", seed: int = 1) -> str:
    return model.ask(system, "a red cat", temperature=1.0, max_tokens=12, seed=seed)


def test_answers_follow_from_the_seed_and_are_kept(folder: Path, tmp_path: Path) -> None:
    model, again = (local(folder, cache=models.CallCache(tmp_path)) for _ in range(2))
    first = ask(model)
    torch.rand(3)  # the global random numbers play no part
    assert first == ask(local(folder)) == ask(again)
    assert again._loaded is None  # nothing was loaded for it
    assert first not in (ask(model, seed=2), ask(model, system=""))


TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
START = "{{ bos_token }}"


@pytest.mark.parametrize("start", ["", START])
def test_the_chat_template_words_the_prompt(folder: Path, start: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.bos_token = start + TEMPLATE, tokenizer.eos_token
    told = models.prompted(tokenizer, "x", [], ["a cat"])["input_ids"][0]
    mark = tokenizer.bos_token if start else ""
    assert tokenizer.decode(told) == f"{mark}[user] a cat\n[assistant] "


def test_long_prompts_and_folders_without_a_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DetailError, match="exceed the model's 128"):
        local(folder).ask("", "a cat " * 200, temperature=0.0, max_tokens=5)
    with pytest.raises((OptionError, HubError), match=folder.name):  # it sees nothing
        local(folder, sees=True).parts()
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises((OptionError, HubError), match=tmp_path.name):
        local(tmp_path).parts()
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"evil": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HubError, match="safetensors"):  # pickles are not read
        local(tmp_path).parts()


def test_what_a_model_is_called(folder: Path, tmp_path: Path) -> None:
    other = language_folder(tmp_path / "tiny", seed=6)
    names = (folder, f"{folder}/../{folder.name}", other, "gpt2")
    one, same, another, hub = (local(name).identity for name in names)
    assert one == same != another and one.startswith("hf:tiny#") and hub == "hf:gpt2"


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("no such id"), None])
def test_the_hub_is_asked_once_and_out_of_reach_local_files_are_read(
    monkeypatch: MonkeyPatch, error: Exception | None
) -> None:
    asked, offline = list[object](), isinstance(error, ConnectionError)

    def metadata(url: str, **options: Any) -> None:
        asked.append("nobody/nothing" in url)
        if error is not None:
            raise error

    def nothing(name: str, *, local_files_only: bool, **options: Any) -> None:
        asked.append(local_files_only)
        raise OSError("no such file")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", nothing)
    with pytest.raises(HubError, match=r"no such file; .*give the id"):
        local("nobody/nothing").parts()
    assert asked == [True, offline]


FAMILIES: dict[str, Callable[..., Path]] = {"qwen2_vl": qwen2_vl_folder, "blip2": blip2_folder}


@pytest.fixture(scope="module", params=FAMILIES)
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(FAMILIES[request.param](tmp_path_factory.mktemp("vlm") / request.param))


def describer(folder: str, **settings: Any) -> VisionDescriber:
    return VisionDescriber(local(folder, sees=True), max_tokens=6, **settings)


def test_texts_do_not_depend_on_their_batch(seeing: str, monkeypatch: MonkeyPatch) -> None:
    """Nor do they where memory runs out and batches are halved."""
    whole = describer(seeing)
    together = whole.describe(PHOTO, REGIONS, seed=4)
    said = [one.text for one in together]
    assert len(set(said)) >= 6
    assert [one.region_id for one in together] == ["global"] + ["spatial-1"] * 3 + ["spatial-2"] * 3
    with monkeypatch.context() as alone:
        alone.setattr(models, "_AT_ONCE", 1)
        apart = describer(seeing).describe(PHOTO, REGIONS, seed=4)
    for one, other in zip(together, apart, strict=True):
        assert one.text == other.text and one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
    fewer = whole.describe(PHOTO, REGIONS[1:2], seed=4)
    assert [one.text for one in fewer] == said[1:4]
    room, generate = [2], models.generated

    def limited(network: Any, inputs: Any, *args: Any) -> Any:
        if len(inputs["input_ids"]) > room[0]:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return generate(network, inputs, *args)

    monkeypatch.setattr("patchioner.detail.models.generated", limited)
    assert [one.text for one in whole.describe(PHOTO, REGIONS, seed=4)] == said
    room[0] = 0
    with pytest.raises(DetailError, match="region 'global'"):
        whole.describe(PHOTO, REGIONS)


@pytest.mark.parametrize("seeing", ["qwen2_vl"], indirect=True)
def test_without_temperature_it_is_the_models_own_greedy_text(seeing: str) -> None:
    one: Any = describer(seeing, temperatures=(0.0, 0.0))
    (said,) = one.describe(PHOTO, REGIONS[:1])
    network, processor = one.model.parts()
    text = f"user: <|vision_start|><|image_pad|><|vision_end|>{PROMPT}\nassistant: "
    inputs = processor(images=PHOTO.image, text=text, return_tensors="pt")
    output = network.generate(**inputs, max_new_tokens=6, do_sample=False)
    tail = output[0, inputs["input_ids"].shape[1] :]
    written = processor.tokenizer.decode(tail, skip_special_tokens=True)
    assert said.text == clean_answer(written)
