"""Where published files are looked for, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.published.config import PublishedFiles, as_pattern, base_name
from tests.support.published import as_hub_snapshot, write_config


@pytest.mark.parametrize(
    "given", ["/raid/x/decap-009.pt", "..\\x\\decap-009.pt", "decap-009.pt", "x/decap-009.pt"]
)
def test_base_names(given: str) -> None:
    assert base_name(given) == "decap-009.pt"


def test_as_given_then_by_base_name(tmp_path: Path) -> None:
    files = PublishedFiles.of(write_config(tmp_path / "model"))
    (tmp_path / "model" / "a.pt").touch()
    assert files.find("/raid/somebody/a.pt", "decoder") == tmp_path / "model" / "a.pt"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pt").touch()
    assert files.find("../weights/a.pt", "decoder").resolve() == tmp_path / "weights" / "a.pt"


def test_missing_files_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, name: str) -> str:
        asked.append((repo, name))
        (tmp_path / name).touch()
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    files = PublishedFiles.of(write_config(tmp_path / "model"), "owner/model")
    assert files.find("/raid/b.pt", "decoder") == tmp_path / "b.pt"
    assert asked == [("owner/model", "b.pt")]


def test_a_failing_hub_is_part_of_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise ConnectionError("no route\nand much more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    files = PublishedFiles.of(write_config(tmp_path), "owner/model")
    with pytest.raises(
        CheckpointError, match="decoder 'b.pt' is not beside .*owner/model.*no route"
    ) as caught:
        files.find("b.pt", "decoder")
    assert "\n" not in str(caught.value)


def test_an_empty_name_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="decoder '' is not beside"):
        PublishedFiles.of(write_config(tmp_path)).find("", "decoder")


@pytest.mark.parametrize("given", ["weights[1]", "/raid/x/**", "a?b", "[", "../../up", "C:\\x\\y"])
def test_a_name_out_of_a_config_is_no_pattern(tmp_path: Path, given: str) -> None:
    files = PublishedFiles.of(write_config(tmp_path))
    (tmp_path / "other.pth").touch()
    assert files.any_of([f"{as_pattern(given)}.pth"]) is None
    wanted = tmp_path / f"{base_name(given)}.pth"
    wanted.touch()
    assert files.any_of([f"{as_pattern(given)}.pth"]) == wanted


def test_names(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "mine")
    assert PublishedFiles.of(folder).name == "mine"
    write_config(tmp_path / "mine", "mlp.k.yaml")
    assert PublishedFiles.of(folder / "mlp.k.yaml").name == "mlp.k"
    snapshot = as_hub_snapshot(folder, tmp_path / "cache", "owner/mine")
    assert PublishedFiles.of(snapshot).name == "owner/mine"
