"""Loading models of others: without a connection, the hub is asked once and local files are read."""

from __future__ import annotations

from typing import Any

import pytest

from patchioner.base.errors import HubError, OptionError
from patchioner.detail.clients.pretrained import PretrainedModel

huggingface_hub = pytest.importorskip("huggingface_hub")
transformers = pytest.importorskip("transformers")


def model(**more: Any) -> PretrainedModel:
    return PretrainedModel("nobody/nothing", "AutoModel", "AutoTokenizer", device="cpu", **more)


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How the library was called; it finds nothing."""
    calls: list[dict[str, Any]] = []

    def nothing(name: str, **options: Any) -> None:
        calls.append(options)
        raise OSError("no such file")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", nothing)
    return calls


def hub_says(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[str]:
    asked: list[str] = []

    def metadata(url: str, **options: Any) -> None:
        asked.append(url)
        if error is not None:
            raise error

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    return asked


def test_without_a_connection_local_files_are_read(
    monkeypatch: pytest.MonkeyPatch, loading: list[dict[str, Any]]
) -> None:
    asked = hub_says(monkeypatch, ConnectionError("no route"))
    with pytest.raises(HubError, match="only local files were looked at"):
        model().parts()
    assert len(asked) == 1
    assert "nobody/nothing" in asked[0]
    assert [call.get("local_files_only") for call in loading] == [True]


@pytest.mark.parametrize("error", [None, ValueError("no such id")])
def test_a_hub_that_answers_is_used(
    monkeypatch: pytest.MonkeyPatch, loading: list[dict[str, Any]], error: Exception | None
) -> None:
    hub_says(monkeypatch, error)
    with pytest.raises(HubError, match=r"no such file; give the id"):
        model().parts()
    assert [call.get("local_files_only") for call in loading] == [None]


def test_offline_the_hub_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, loading: list[dict[str, Any]]
) -> None:
    asked = hub_says(monkeypatch, None)
    with pytest.raises(HubError):
        model(offline=True).parts()
    assert asked == []


def test_a_model_has_a_name_and_a_known_precision() -> None:
    with pytest.raises(OptionError, match="no model is named"):
        PretrainedModel("", "AutoModel", "AutoTokenizer")
    with pytest.raises(OptionError, match="float32"):
        model(dtype="int3")
