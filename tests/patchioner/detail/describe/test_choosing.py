from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from patchioner.base.errors import MissingExtraError, OptionError, UnknownNameError
from patchioner.detail.clients.budget import Budget
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.local import TransformersTextModel
from patchioner.detail.clients.remote_text import RemoteTextModel
from patchioner.detail.describe.asking import VisionSettings
from patchioner.detail.describe.choosing import ClientOptions, make_describer, make_text_model
from patchioner.detail.describe.hf import TransformersDescriber
from patchioner.detail.describe.own import OwnSettings, PatchionerDescriber
from patchioner.detail.describe.remote import RemoteDescriber

LOCAL = "http://127.0.0.1:1/v1"


def test_a_word_with_openai_is_a_server(tmp_path: Path) -> None:
    cache, budget = CallCache(tmp_path), Budget(max_calls=3)
    options = ClientOptions(LOCAL, concurrency=7, cache=cache, budget=budget)
    settings = VisionSettings(samples=1)
    describer = make_describer("openai:qwen2.5vl:7b", settings=settings, options=options)
    fuser = make_text_model("openai:llama3.1:8b", options=options)
    assert isinstance(describer, RemoteDescriber) and isinstance(fuser, RemoteTextModel)
    assert describer.client.model == "qwen2.5vl:7b" and fuser.client.model == "llama3.1:8b"
    assert describer.client.concurrency == 7 and describer.vision is settings
    assert describer.client.budget is fuser.client.budget is budget
    assert describer.cache is fuser.cache is cache
    describer.client.close()
    fuser.client.close()


def test_a_word_with_hf_is_a_local_model_that_is_not_yet_loaded() -> None:
    options = ClientOptions(LOCAL, device="cpu", revision="abc", batch_size=2)
    describer = make_describer("hf:org/model", options=options)
    fuser = make_text_model("hf:org/text", options=options)
    assert isinstance(describer, TransformersDescriber) and describer.batch_size == 2
    assert isinstance(fuser, TransformersTextModel)
    assert describer.model.identity == "hf:org/model@abc"


def test_our_own_captioner_is_asked_as_told() -> None:
    model: Any = SimpleNamespace(settings=SimpleNamespace(name="tiny"))
    describer = make_describer("patchioner", model=model, own=OwnSettings(samples=2))
    assert isinstance(describer, PatchionerDescriber)
    assert (describer.settings["model"], describer.settings["samples"]) == ("tiny", 2)


def test_our_own_captioner_must_be_given() -> None:
    with pytest.raises(OptionError, match="model="):
        make_describer("patchioner")
    with pytest.raises(OptionError, match="deterministic"):
        make_text_model("patchioner")


@pytest.mark.parametrize("spec", ["opena:gpt", "patchionr", "", "patchioner:x", "gpt-4o", "hf"])
def test_other_words_are_refused_with_the_close_ones(spec: str) -> None:
    with pytest.raises((UnknownNameError, OptionError)) as caught:
        make_describer(spec)
    assert "openai:MODEL" in str(caught.value) or "hf:MODEL" in str(caught.value)


@pytest.mark.parametrize("spec", ["hf:", "openai:"])
@pytest.mark.parametrize("make", [make_describer, make_text_model])
def test_a_word_without_a_model_is_refused(make: Any, spec: str) -> None:
    with pytest.raises(OptionError, match="names no model"):
        make(spec, options=ClientOptions(LOCAL))


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(f"pip install 'patchioner[{extra}]'")

    monkeypatch.setattr("patchioner.detail.clients.chat.require", missing)
    with pytest.raises(MissingExtraError, match=r"patchioner\[api\]"):
        make_describer("openai:x", options=ClientOptions(LOCAL))
