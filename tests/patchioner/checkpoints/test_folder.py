"""Checkpoint folders: written whole, read strictly, and nothing in them is ever executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, MemoryBankError, PatchionerError
from patchioner.checkpoints.folder import read_checkpoint, write_checkpoint
from patchioner.checkpoints.parts import Parts
from patchioner.cli.main import main
from tests.support.tiny import noise_photo, tiny_decoder, tiny_parts, tiny_tower


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    write_checkpoint(tiny_parts(), folder, storage="fp32")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


class Trap:
    """Unpickling it makes a folder: proof that something was executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_every_part_comes_back(folder: Path) -> None:
    parts, original = read_checkpoint(folder), tiny_parts()
    assert parts.settings == original.settings
    assert parts.bank is not None
    assert parts.text_tower is not None
    assert original.bank is not None
    assert original.text_tower is not None
    assert list(parts.bank.texts or ()) == list(original.bank.texts or ())
    assert parts.backbone.config == original.backbone.config
    assert parts.text_tower.settings == original.text_tower.settings
    assert parts.decoder.embedding_dim == original.decoder.embedding_dim


def test_bank_and_tower_may_be_absent_where_the_bridge_needs_none(tmp_path: Path) -> None:
    full = tiny_parts()
    bare = replace(
        full, bank=None, text_tower=None, settings=replace(full.settings, projection="none")
    )
    write_checkpoint(full, tmp_path)
    write_checkpoint(bare, tmp_path)  # over the full one: its bank and tower must not come back
    parts = read_checkpoint(tmp_path)
    assert parts.bank is None
    assert parts.text_tower is None
    assert parts.settings.projection == "none"


def test_a_folder_that_is_no_checkpoint_keeps_what_is_in_it(tmp_path: Path) -> None:
    full = tiny_parts()
    keepsake = tmp_path / "memory_bank" / "keepsake.txt"
    keepsake.parent.mkdir()
    keepsake.touch()
    bare = replace(full, bank=None, settings=replace(full.settings, projection="none"))
    write_checkpoint(bare, tmp_path)
    assert keepsake.exists()


def test_a_checkpoint_stays_where_the_writing_of_another_was_cut_short(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def files_of(root: Path) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in root.parent.rglob("*") if path.is_file()}

    before = files_of(folder)
    monkeypatch.setattr("patchioner.text.BertTower.save", fail)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tiny_parts(1), folder)
    assert files_of(folder) == before


def parts_with(**changes: object) -> Parts:
    return replace(tiny_parts(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["decoder", "text tower", "memory bank"])
def test_parts_of_different_widths_are_refused_with_their_widths(part: str) -> None:
    changes: dict[str, Callable[[], dict[str, object]]] = {
        "decoder": lambda: {"decoder": tiny_decoder(dim=48)},
        "text tower": lambda: {"text_tower": tiny_tower(dim=48)},
        "memory bank": lambda: {"bank": MemoryBank(torch.eye(48))},
    }
    with pytest.raises(CheckpointError, match=f"'{part}': 48"):
        parts_with(**changes[part]())


def test_the_memory_bridge_needs_a_bank() -> None:
    with pytest.raises(CheckpointError, match="no memory bank"):
        parts_with(bank=None)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def reshape(path: Path, name: str) -> None:
    tensors = load_file(path)
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, path)


def poison(path: Path, name: str) -> None:
    tensors = load_file(path)
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, path)


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no such file"),
    "config cut": (lambda f: truncate(f / "config.json"), "not valid JSON"),
    "foreign config": (lambda f: (f / "config.json").write_text("{}"), '"format": "patchioner"'),
    "wrong format": (lambda f: edit(f / "config.json", format="clip"), '"format": "patchioner"'),
    "unknown key": (lambda f: edit(f / "config.json", temprature=1), "mean temperature"),
    "newer version": (lambda f: edit(f / "config.json", version=9), "upgrade"),
    "no backbone": (lambda f: shutil.rmtree(f / "backbone"), "backbone"),
    "no decoder": (lambda f: shutil.rmtree(f / "decoder"), "decoder"),
    "no bank": (lambda f: shutil.rmtree(f / "memory_bank"), "no memory bank"),
    "no weights": (lambda f: (f / "decoder/weights.safetensors").unlink(), "no such file"),
    "weights cut": (lambda f: truncate(f / "backbone/weights.safetensors"), "truncated"),
    "weights empty": (lambda f: empty(f / "text_tower/weights.safetensors"), "empty"),
    "backbone shape": (
        lambda f: reshape(f / "backbone/weights.safetensors", "vit.norm.bias"),
        r"vit\.norm\.bias is \(63,\).*\(64,\)",
    ),
    "decoder shape": (
        lambda f: reshape(f / "decoder/weights.safetensors", "transformer.wte.weight"),
        "wrong shape: transformer.wte.weight",
    ),
    "tower shape": (
        lambda f: reshape(f / "text_tower/weights.safetensors", "project_out.bias"),
        "wrong shape: project_out.bias",
    ),
    "NaN in backbone": (
        lambda f: poison(f / "backbone/weights.safetensors", "head.patch_mean"),
        "head.patch_mean.*not finite",
    ),
    "decoder of another width": (
        lambda f: tiny_decoder(dim=48).save(f / "decoder"),
        "different widths.*'decoder': 48",
    ),
    "bank of another width": (
        lambda f: MemoryBank(torch.eye(48)).save(f / "memory_bank"),
        "different widths.*'memory bank': 48",
    ),
    "bank header": (lambda f: truncate(f / "memory_bank/bank.json"), "not a memory bank"),
    "bank cut": (lambda f: truncate(f / "memory_bank/bank.safetensors"), "truncated"),
    "bank of another size": (
        lambda f: reshape(f / "memory_bank/bank.safetensors", "keys"),
        "header promises",
    ),
    "bank texts cut": (lambda f: truncate(f / "memory_bank/texts.jsonl"), "truncated"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused(folder: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(PatchionerError, match=message) as caught:
        read_checkpoint(folder)
    assert isinstance(caught.value, (CheckpointError, MemoryBankError))


@pytest.mark.parametrize("part", ["backbone", "decoder", "text_tower"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_in_place_of_weights_is_named_and_never_executed(
    folder: Path, tmp_path: Path, part: str, writer: str
) -> None:
    sprung = tmp_path / "sprung"
    path = folder / part / "weights.safetensors"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save(Trap(sprung), path)
    with pytest.raises(CheckpointError, match="pickle"):
        read_checkpoint(folder)
    assert not sprung.exists()


def test_stray_pickles_in_the_folder_are_ignored(folder: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for place in (folder, folder / "backbone", folder / "memory_bank"):
        (place / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
        (place / "weights.pt").write_bytes(pickle.dumps(Trap(sprung)))
    read_checkpoint(folder)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["no config", "decoder shape", "weights cut", "bank cut"])
def test_the_command_line_says_it_in_a_line(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, _ = DAMAGES[name]
    damage(folder)
    noise_photo().save(tmp_path / "photo.png")
    status = main(["caption", str(tmp_path / "photo.png"), "--model", str(folder)])
    error = capsys.readouterr().err
    assert status == 1
    assert "Traceback" not in error
    assert str(folder) in error or "bank" in error


def test_one_wrong_byte_in_a_small_bank_is_noticed(folder: Path) -> None:
    path = folder / "memory_bank" / "bank.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # still a sound file of finite numbers
    path.write_bytes(bytes(content))
    with pytest.raises(MemoryBankError):
        read_checkpoint(folder)
