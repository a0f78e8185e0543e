"""`patchioner models`, `convert` and `export`: what is listed, that conversions say the same, what exports report."""

from pathlib import Path
from typing import Any

import pytest
import torch

from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.backbones import TimmViT
from patchioner.export import ExportReport
from tests.patchioner.cli.conftest import Command
from tests.support import MonkeyPatch, published
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


def said(name: str) -> list[tuple[Any, Any]]:
    captions = Patchioner.from_pretrained(name, device="cpu").caption(noise_photo())
    return [(one.text, pytest.approx(one.score, abs=1e-4)) for one in captions]


def test_models_are_listed_and_taken_apart(command: Command, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "empty")
    lines = command("models").out.splitlines()
    assert lines[0] == "patchioner-mini" and "MiB on disk, here; licence: Apache-2.0" in lines[2]
    assert "Ruggero1912/Patch-ioner_talk2dino_meacap_COCO_Captions" in lines
    end = "GiB in memory, not fetched yet; licence: none stated; from the model hub"
    assert lines[-1].endswith(end)
    lines = command("models tiny").out.splitlines()
    assert lines[0].startswith("tiny: ") and lines[0].endswith("on disk at tiny")
    parts = ["licence:", "backbone", "text", "memory", "decoder", "together"]
    assert [line.split()[0] for line in lines[1:]] == parts
    done = command("models patchioner-minni")
    assert done.status == 1 and "did you mean 'patchioner-mini'" in done.err


@pytest.mark.parametrize("kind", ["decap", "meacap"])
def test_folders_convert(kind: str, tiny_vit: list[str], command: Command) -> None:
    """With the defaults: networks in fp32, the bank in fp16."""
    getattr(published, f"write_{kind}")(Path("theirs"))
    assert "for 32 of 32 vectors" in command("convert theirs ours").out
    assert said("ours") == said("theirs")
    assert tiny_vit[0] == "stretch"


def test_settings_are_used(tiny_vit: list[str], command: Command, monkeypatch: MonkeyPatch) -> None:
    named: list[object] = []
    read = "patchioner.checkpoints.published.read_text_tower"
    monkeypatch.setattr(read, lambda _, config: named.append(config.use_talk2dino_project))
    published.write_capdec(Path("theirs"))
    done = command("convert theirs ours --fit crop --talk2dino weights/mine.pth")
    assert (done.status, tiny_vit, named) == (0, ["crop"], ["weights/mine.pth"])


def test_our_own_models_convert_and_nothing_is_overwritten(command: Command) -> None:
    assert "32 of 32" in command("convert tiny again").out
    assert said("again") == said("tiny")
    # Weights of a random network survive eight bits badly.
    done = command("convert tiny small --storage int8")
    assert done.status == 1 and "use --storage fp32" in done.err
    Path("file").write_text("mine")
    for line in ("convert tiny again", "convert tiny file", "export tiny file --format onnx"):
        done = command(line)
        assert done.status == 1 and "exists already" in done.err
    assert Path("file").read_text() == "mine"
    done = command("export tiny new --photos absent.jpg --format onnx")
    assert done.status == 1 and "no photo at" in done.err and not Path("new").exists()


def test_another_bank_with_equal_rows_merged_goes_along(tiny_vit: Any, command: Command) -> None:
    doubled = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    MemoryBank(doubled).save("bank", dtype="float32")
    published.write_capdec(Path("theirs"))
    for source in ("theirs", "tiny"):
        command(f"convert {source} {source}2 --bank bank --merge-duplicates --bank-storage int8")
        found = Patchioner.from_pretrained(f"{source}2", device="cpu")
        assert found.parts.bank is not None and found.settings.projection == "memory"
        bank = found.parts.bank
        assert (len(bank), bank.counts.tolist(), bank.dtype) == (4, [2, 2, 2, 2], "int8")


def test_an_export_is_tried_and_reported(command: Command, monkeypatch: MonkeyPatch) -> None:
    """What is asked for reaches the export; its numbers and the captions that change are told."""
    asked: dict[str, Any] = {}

    def write(model: Patchioner, folder: Path, **how: Any) -> ExportReport:
        asked.update(how)
        model.save_pretrained(folder, storage="fp32")
        return ExportReport(folder, 0.25, 1.0, len(how["photos"]), 1.5)

    monkeypatch.setattr("patchioner.export.export_model", write)
    done = command("export tiny out --format openvino --photos photo.png --size 48 --fit pad")
    assert done.out == (
        "out: openvino fp32, 1.5 MiB\n  tried on 1 photos\n"
        "  tokens are off from torch's in float32 by at most 0.25 of the largest, their mean cosine is 1.000000\n"
        "  captions that change: 0 of 6 (size or fit differ, too)\n"
    )
    assert [photo.size for photo in asked.pop("photos")] == [(80, 60)]
    assert asked == {"format": "openvino", "precision": "fp32", "size": 48, "fit": "pad"}
