"""Names and where they lead; what is known by name, and how much memory parts take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from decoders.retrieval import RetrievalDecoder
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.base.errors import HubError, UnknownNameError
from patchioner.checkpoints import hub
from patchioner.checkpoints.hub import folder_bytes, known_models, part_sizes
from tests.support.published import as_hub_snapshot, write_capdec
from tests.support.tiny import DIM, tiny_parts


class TransportError(Exception):
    """Stands for what the hub client's HTTP library raises: no OSError, and another in each release."""


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model inside the package."""
    folder = tmp_path / "package" / hub.SHIPPED
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")

    def folders() -> Iterator[Path]:
        yield folder

    monkeypatch.setattr(hub, "_shipped_folders", folders)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_folder_comes_first_then_the_shipped_name(shipped: Path, tmp_path: Path) -> None:
    assert hub.find_model(hub.SHIPPED) == shipped
    assert hub.shipped_models() == (hub.SHIPPED,)
    (tmp_path / hub.SHIPPED).mkdir()
    assert hub.find_model(hub.SHIPPED) == Path(hub.SHIPPED)
    assert hub.find_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["patchioner-minni", "Patchioner-Mini", "patchioner_mini", ""])
def test_an_unknown_name_offers_the_shipped_model(shipped: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown model '{name}'.*'patchioner-mini'"):
        hub.find_model(name)


@pytest.mark.parametrize("name", ["./none", "../none", "/none/at/all", "~/none-here", "~nobody/x"])
def test_a_path_that_leads_nowhere_is_called_a_path(shipped: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no checkpoint folder at '{name}'"):
        hub.find_model(name)


def test_a_yaml_file_describes_a_model(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "mlp.k.yaml").write_text("prefix_size: 4")
    assert hub.find_model("mlp.k.yaml") == Path("mlp.k.yaml")
    assert hub.find_model(str(tmp_path / "mlp.k.yaml")) == tmp_path / "mlp.k.yaml"


@pytest.mark.parametrize("name", ["none.yaml", "configs/none.yaml", "configs/none.yml"])
def test_a_missing_yaml_file_is_no_hub_id(shipped: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no model file at '{name}'"):
        hub.find_model(name)


def test_another_file_is_no_checkpoint(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(UnknownNameError, match="'model.pt' is a file that is no checkpoint"):
        hub.find_model("model.pt")


def fetch_failing_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("outgoing traffic has been disabled\nand much more"),
        TransportError("name or service not known"),
        TimeoutError("timed out"),
        ValueError("Repo id must use alphanumeric chars"),
        RuntimeError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_fails_in_any_way_offers_the_shipped_model(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fetch_failing_with(monkeypatch, error)
    with pytest.raises(HubError, match="'owner/model'.*connection.*'patchioner-mini'") as caught:
        hub.find_model("owner/model")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OSError)


FIND = """
from patchioner.checkpoints.hub import find_model
from patchioner.base.errors import HubError
try:
    find_model("owner/model")
except HubError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [("HF_HUB_OFFLINE", "1", "disabled"), ("HF_ENDPOINT", "http://127.0.0.1:9", "refused")],
)
def test_the_real_client_without_a_connection_gives_up_at_once(
    tmp_path: Path, setting: str, value: str, reason: str
) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), setting: value}
    command = [sys.executable, "-c", FIND]
    out = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert reason in out
    assert "'patchioner-mini'" in out


def test_a_hub_id_goes_to_the_client_with_its_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None = None) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.find_model("owner/model", revision="v2") == tmp_path
    assert asked == [("owner/model", "v2")]


class FakeApi:
    """Keeps what is pushed, file by file."""

    created: list[str]
    files: dict[str, int]

    def create_repo(self, name: str, *, exist_ok: bool) -> None:
        assert exist_ok
        FakeApi.created = [name]

    def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
        assert [repo_id] == FakeApi.created
        paths = [path for path in folder_path.rglob("*") if path.is_file()]
        FakeApi.files = {str(p.relative_to(folder_path)): p.stat().st_size for p in paths}


def test_pushing_uploads_the_whole_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    Patchioner(tiny_parts(), device="cpu").push_to_hub("owner/mine")
    assert FakeApi.created == ["owner/mine"]
    assert set(FakeApi.files) == {
        "config.json",
        "backbone/config.json",
        "backbone/weights.safetensors",
        "decoder/config.json",
        "decoder/tokenizer.json",
        "decoder/weights.safetensors",
        "memory_bank/bank.json",
        "memory_bank/bank.safetensors",
        "memory_bank/texts.jsonl",
        "text_tower/config.json",
        "text_tower/tokenizer.json",
        "text_tower/weights.safetensors",
    }
    assert all(FakeApi.files.values())


@pytest.mark.parametrize("error", [PermissionError("403"), TransportError("no route")])
def test_a_push_that_fails_says_how_to_log_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    class FailingApi(FakeApi):
        def create_repo(self, name: str, *, exist_ok: bool) -> None:
            raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", FailingApi)
    with pytest.raises(HubError, match="cannot push to 'owner/mine'.*hf auth login"):
        hub.upload(tmp_path, "owner/mine")


def test_shipped_models_come_first_and_are_here() -> None:
    first = known_models()[0]
    assert (first.name, first.here, first.source) == ("patchioner-mini", True, "this package")
    assert first.disk is not None and 10e6 < first.disk < 200e6
    assert first.licence == "Apache-2.0"
    assert "vit_small" in first.about and "projection: memory" in first.about


def test_published_models_are_known_and_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    published = known_models()[1:]
    assert [model.name for model in published] == [
        f"Ruggero1912/Patch-ioner_talk2dino_{kind}_COCO_Captions"
        for kind in ("decap", "capdec", "viecap", "meacap")
    ]
    assert all((model.disk, model.here) == (None, False) for model in published)
    assert {model.licence for model in published} == {"none stated"}


def test_a_fetched_model_has_a_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "Ruggero1912/Patch-ioner_talk2dino_capdec_COCO_Captions"
    snapshot = as_hub_snapshot(write_capdec(tmp_path / "theirs"), tmp_path / "cache", name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (found,) = [model for model in known_models() if model.name == name]
    assert found.here and found.disk == folder_bytes(snapshot)


def test_sizes_of_parts_are_those_of_their_tensors() -> None:
    parts = tiny_parts()
    sizes = part_sizes(parts)
    assert list(sizes) == ["backbone", "text tower", "memory bank", "decoder"]
    network = sum(tensor.numel() for tensor in parts.decoder.network.state_dict().values())  # type: ignore[attr-defined]
    tied = parts.decoder.network.config.vocab_size * parts.decoder.network.config.width  # type: ignore[attr-defined]
    assert sizes["decoder"][0] in (network, network - tied)
    assert sizes["decoder"][1] == 4 * sizes["decoder"][0]
    assert parts.bank is not None
    assert sizes["memory bank"][0] == len(parts.bank) * DIM
    assert sizes["memory bank"][1] == len(parts.bank) * (4 * DIM + 4 + 8)


def test_absent_parts_and_a_decoder_without_weights() -> None:
    parts = tiny_parts()
    bank = MemoryBank(torch.eye(DIM), [str(row) for row in range(DIM)], dtype="float16")
    plain = replace(parts, text_tower=None, bank=bank, decoder=RetrievalDecoder(DIM))
    sizes = part_sizes(plain)
    assert "text tower" not in sizes
    assert sizes["decoder"] == (0, 0)
    assert sizes["memory bank"][1] == DIM * (2 * DIM + 4 + 8)


def test_the_memory_of_a_known_model_is_what_it_takes_when_loaded() -> None:
    first = known_models()[0]
    loaded = sum(
        size for _, size in part_sizes(Patchioner.from_pretrained(first.name).parts).values()
    )
    assert first.memory == pytest.approx(loaded, rel=0.02)
    decap, capdec = known_models()[1:3]
    assert 2.2 < decap.memory / 2**30 < 2.4 and 0.5 < capdec.memory / 2**30 < 0.7
