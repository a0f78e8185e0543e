"""Names and where they lead: folders, shipped models, the hub, and what is said where they lead nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from patchioner.base.errors import HubError, UnknownNameError
from patchioner.checkpoints import hub
from patchioner.model import Patchioner
from tests.support.tiny import tiny_parts


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
