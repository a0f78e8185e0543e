"""`patchioner models`, `convert` and `export`: what is listed, that conversions say the same, what exports report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.backbones import TimmViT
from patchioner.cli.main import main
from patchioner.export import BackboneDifference, ExportReport
from tests.support import Capture, MonkeyPatch, published
from tests.support.tiny import DIM, noise_photo, tiny_backbone


@pytest.fixture
def tiny_vit(monkeypatch: MonkeyPatch) -> list[str]:
    """Published folders get a tiny backbone; how it was to fit photos is noted."""
    modes: list[str] = []

    def read(*_: object, mode: str) -> TimmViT:
        modes.append(mode)
        return tiny_backbone(mode="stretch", size=64)

    monkeypatch.setattr("patchioner.checkpoints.published.read_backbone", read)
    return modes


def said(name: Path | str) -> list[tuple[str, Any]]:
    captions = Patchioner.from_pretrained(name, device="cpu").caption(noise_photo())
    return [(one.text, pytest.approx(one.score, abs=1e-4)) for one in captions]


def test_models_are_listed_and_taken_apart(
    capsys: Capture, monkeypatch: MonkeyPatch, tmp_path: Path, checkpoint: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "patchioner-mini" and "MiB on disk, here; licence: Apache-2.0" in lines[2]
    assert "Ruggero1912/Patch-ioner_talk2dino_meacap_COCO_Captions" in lines
    end = "GiB in memory, not fetched yet; licence: none stated; from the model hub"
    assert lines[-1].endswith(end)
    assert main(["models", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny: ") and str(checkpoint) in lines[0]
    parts = ["licence:", "backbone", "text", "memory", "decoder", "together"]
    assert [line.split()[0] for line in lines[1:]] == parts
    assert main(["models", "patchioner-minni"]) == 1
    assert "did you mean 'patchioner-mini'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["decap", "meacap"])
def test_folders_convert(kind: str, tmp_path: Path, tiny_vit: list[str], capsys: Capture) -> None:
    """With the defaults: networks in fp32, the bank in fp16."""
    source, out = getattr(published, f"write_{kind}")(tmp_path / "theirs"), tmp_path / "ours"
    assert main(["convert", str(source), str(out)]) == 0
    assert "for 32 of 32 vectors" in capsys.readouterr().out
    assert said(out) == said(source)
    assert tiny_vit[0] == "stretch"


def test_settings_are_used(tmp_path: Path, tiny_vit: list[str], monkeypatch: MonkeyPatch) -> None:
    named: list[object] = []
    monkeypatch.setattr(
        "patchioner.checkpoints.published.read_text_tower",
        lambda files, config: named.append(config.use_talk2dino_project),
    )
    source = published.write_capdec(tmp_path / "theirs")
    words = ["convert", str(source), str(tmp_path / "ours"), "--fit", "crop"]
    assert main([*words, "--talk2dino", "weights/mine.pth"]) == 0
    assert (tiny_vit, named) == (["crop"], ["weights/mine.pth"])


def test_our_own_models_convert(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["convert", str(checkpoint), str(tmp_path / "again")]) == 0
    assert "32 of 32" in capsys.readouterr().out
    assert said(tmp_path / "again") == said(checkpoint)
    # Weights of a random network survive eight bits badly.
    assert main(["convert", str(checkpoint), str(tmp_path / "small"), "--storage", "int8"]) == 1
    assert "use --storage fp32" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    for out in (checkpoint, tmp_path / "file"):
        assert main(["convert", str(checkpoint), str(out)]) == 1
        assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_another_bank_its_equal_rows_merged_goes_along(
    tmp_path: Path, tiny_vit: list[str], checkpoint: Path
) -> None:
    doubled = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    MemoryBank(doubled).save(tmp_path / "bank", dtype="float32")
    more = ["--bank", str(tmp_path / "bank"), "--merge-duplicates", "--bank-storage", "int8"]
    for source in (published.write_capdec(tmp_path / "theirs"), checkpoint):
        out = tmp_path / f"ours of {source.name}"
        main(["convert", str(source), str(out), *more])
        found = Patchioner.from_pretrained(out, device="cpu")
        assert found.parts.bank is not None and found.settings.projection == "memory"
        bank = found.parts.bank
        assert (len(bank), bank.counts.tolist(), bank.dtype) == (4, [2, 2, 2, 2], "int8")


def test_an_export_is_tried_and_reported(
    checkpoint: Path, tmp_path: Path, capsys: Capture, monkeypatch: MonkeyPatch
) -> None:
    """What is asked for reaches the export; its numbers and the captions that change are told."""
    asked: dict[str, Any] = {}

    def write(model: Patchioner, folder: Path, **how: Any) -> ExportReport:
        asked.update(how)
        model.save_pretrained(folder, storage="fp32")
        difference = BackboneDifference(0.25, 0.125, float("nan"), 0.5, 1.0, 0.5)
        return ExportReport(folder, difference, len(how["photos"]), 1.5)

    monkeypatch.setattr("patchioner.export.export_model", write)
    noise_photo().save(tmp_path / "a.png")
    out, photo = tmp_path / "out", str(tmp_path / "a.png")
    words = ["--format", "openvino", "--photos", photo, "--size", "48", "--fit", "pad"]
    assert main(["export", str(checkpoint), str(out), *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: openvino fp32, 1.5 MiB\n  tried on 1 photos\n")
    assert "float32: tokens 0.25, CLS 0.12\n" in said and "mean 1.000000, least 0.500000" in said
    assert "captions that change: 0 of 6 (size or fit differ, too)" in said
    (given,) = asked.pop("photos")
    assert given.size == (96, 64)
    assert asked == {"format": "openvino", "precision": "fp32", "size": 48, "fit": "pad"}


def test_what_is_in_the_way_is_kept(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    absent = ["--format", "onnx", "--photos", "absent.jpg"]
    for place, words, status, says in (
        (checkpoint, ["--format", "onnx"], 1, "exists already"),
        (out, absent, 1, "no photo at"),
        (out, [], 2, "--format"),
    ):
        assert main(["export", str(checkpoint), str(place), *words]) == status
        assert says in capsys.readouterr().err
    assert not out.exists()
