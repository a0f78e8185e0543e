from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from patchioner.base.errors import DetailError, HubError, OptionError
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.generation import write
from patchioner.detail.describe.asking import VisionSettings
from patchioner.detail.describe.hf import TransformersDescriber
from patchioner.detail.describe.views import View
from tests.support.language import language_folder
from tests.support.photos import REGIONS, noise_photo
from tests.support.vision_language import blip2_folder, llava_folder, qwen2_vl_folder

PHOTO = noise_photo()
SHORT = VisionSettings(max_tokens=6)
FAMILIES: dict[str, Callable[..., Path]] = {
    "llava": llava_folder,
    "qwen2_vl": qwen2_vl_folder,
    "blip2": blip2_folder,
}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(llava_folder(tmp_path_factory.mktemp("vlm") / "llava"))


def describer(
    folder: str, settings: VisionSettings = SHORT, **options: Any
) -> TransformersDescriber:
    return TransformersDescriber(folder, settings, device="cpu", **options)


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


def test_picture_seed_and_region_each_make_a_difference(llava: str) -> None:
    cold = VisionSettings(max_tokens=6, temperature=0.0, global_temperature=0.0, samples=1)
    one = describer(llava, cold)
    plain = [said.log_prob for said in one.describe(PHOTO, REGIONS)]
    other = [said.log_prob for said in one.describe(noise_photo(1), REGIONS)]
    assert all(a != pytest.approx(b, abs=1e-6) for a, b in zip(plain, other, strict=True))
    assert [said.log_prob for said in one.describe(PHOTO, REGIONS, seed=1)] == pytest.approx(plain)
    warm = describer(llava)
    texts = {
        said.text for seed in range(2) for said in warm.describe(PHOTO, REGIONS[1:], seed=seed)
    }
    assert len(texts) == 12


def test_without_temperature_it_is_the_models_own_greedy_text(llava: str) -> None:
    cold = VisionSettings(max_tokens=8, global_temperature=0.0)
    one = describer(llava, cold)
    (said,) = one.describe(PHOTO, REGIONS[:1])
    network, processor = one.model.parts()
    text = f"user: <image>{cold.prompt_of(REGIONS[0]).text}\nassistant: "
    inputs = processor(images=PHOTO.image, text=text, return_tensors="pt")
    with torch.no_grad():
        output = network.generate(**inputs, max_new_tokens=8, do_sample=False)
    tail = output[0, inputs["input_ids"].shape[1] :]
    assert said.text == processor.tokenizer.decode(tail, skip_special_tokens=True).strip()


def test_many_photos_share_batches_and_texts_are_those_of_single_ones(
    llava: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = describer(llava)
    jobs = [(noise_photo(i), REGIONS) for i in range(3)]
    alone = [[said.text for said in one.describe(photo, regions)] for photo, regions in jobs]
    sizes: list[int] = []
    plain = write

    def counting(network: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return plain(network, inputs, *args, **options)

    monkeypatch.setattr("patchioner.detail.describe.hf.write", counting)
    outcomes = one.describe_many(jobs)
    assert [[said.text for said in outcome] for outcome in outcomes] == alone  # type: ignore[union-attr]
    assert sizes == [8, 8, 5]


def test_nothing_is_written_twice_nor_loaded_for_it(llava: str, tmp_path: Path) -> None:
    said = describer(llava, cache=CallCache(tmp_path)).describe(PHOTO, REGIONS)
    again = describer(llava, cache=CallCache(tmp_path))
    assert again.describe(PHOTO, REGIONS) == said
    assert again.model._loaded is None
    assert again.cache is not None and again.cache.counts.hits == 7


def test_batches_are_halved_when_memory_runs_out(
    llava: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, room = write, [2]

    def limited(network: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if len(inputs["input_ids"]) > room[0]:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            )
        return plain(network, inputs, *args, **options)

    expected = describer(llava).describe(PHOTO, REGIONS)
    monkeypatch.setattr("patchioner.detail.describe.hf.write", limited)
    said = describer(llava).describe(PHOTO, REGIONS)
    assert [one.text for one in said] == [one.text for one in expected]
    room[0] = 0
    with pytest.raises(DetailError, match="single picture"):
        describer(llava).describe(PHOTO, REGIONS)


def test_what_was_written_before_a_break_stays(
    llava: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = write, [0]

    def breaks(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr("patchioner.detail.describe.hf.write", breaks)
    with pytest.raises(KeyboardInterrupt):
        describer(llava, batch_size=2, cache=CallCache(tmp_path)).describe(PHOTO, REGIONS)
    assert len(list(tmp_path.rglob("*.json"))) == 4
    describer(llava, batch_size=2, cache=CallCache(tmp_path)).describe(PHOTO, REGIONS)
    assert calls[0] == 5  # three more texts, two batches


def test_empty_texts_are_failures_of_their_photo_alone(
    llava: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchioner.detail.describe.hf.clean_answer", lambda text: "")
    good, bad = noise_photo(0), noise_photo(1, name="bad.png")
    one = describer(llava)
    outcomes = one.describe_many([(good, []), (bad, REGIONS)])
    assert outcomes[0] == []
    assert isinstance(outcomes[1], DetailError) and "bad.png" in str(outcomes[1])
    with pytest.raises(DetailError, match="wrote nothing"):
        one.describe(bad, REGIONS)


def test_a_model_without_a_chat_template_is_shown_the_mark_of_the_picture(tmp_path: Path) -> None:
    folder = str(llava_folder(tmp_path / "plain", template=False))
    assert len(describer(folder).describe(PHOTO, REGIONS[:1])) == 1


@pytest.mark.parametrize("kind", ["context", "marked"])
def test_every_view_can_be_shown(llava: str, kind: str) -> None:
    settings = VisionSettings(samples=1, max_tokens=2, view=View(kind))  # type: ignore[arg-type]
    assert len(describer(llava, settings).describe(PHOTO, REGIONS)) == 3


def test_settings_tell_the_model_and_how_it_is_asked(llava: str) -> None:
    settings = describer(llava).settings
    assert settings["describer"] == "hf" and str(settings["model"]).startswith("llava#")
    assert settings["dtype"] == "float32" and settings["max_tokens"] == 6


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="batch_size is 0"):
        TransformersDescriber("x", batch_size=0)
    with pytest.raises(HubError, match="none"):
        describer(str(tmp_path / "none"), offline=True).describe(PHOTO, REGIONS)
    text_only = str(language_folder(tmp_path / "text"))
    with pytest.raises((OptionError, HubError), match="text"):
        describer(text_only).describe(PHOTO, REGIONS)
