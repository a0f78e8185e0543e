"""Checkpoint folders written whole and read strictly; settings; parts that fit one another and are never changed."""

import itertools
import json
import math
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from decoders import DecodeOptions
from decoders.retrieval import RetrievalDecoder
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.base.errors import CheckpointError, HubError, MemoryBankError, OptionError
from patchioner.checkpoints import folder as folders
from patchioner.checkpoints.folder import KindSettings, ModelSettings, Parts, read_checkpoint
from patchioner.regions import Box, Mask, Trace, Weighting
from patchioner.text import BertTower
from tests.support import MonkeyPatch
from tests.support.tiny import DIM, noise_photo, tiny_decoder, tiny_parts, tiny_tower

FULL = ModelSettings(
    "mine", Weighting("gaussian", variance=0.5, rounding="reference"), context=0.5, projection="none", temperature=0.02,
    kinds={"box": KindSettings(Weighting("attention"), 0.25), "trace": KindSettings(context=0.0)}, normalize=False,
    crop=True, decode=DecodeOptions(strategy="beam", banned_words=("photo", "picture of")), licence="Apache-2.0",
)  # fmt: skip


def test_settings_survive_json() -> None:
    stored = ModelSettings.from_json(json.loads(json.dumps(FULL.to_json())), "config.json")
    assert stored == FULL and hash(stored) == hash(FULL)
    # A kind overrides what it names alone.
    assert stored.for_region(Box(0, 0, 1, 1)) == (Weighting("attention"), 0.25)
    assert stored.for_region(Trace([(1, 1)])) == (FULL.weighting, 0.0)
    assert stored.for_region(Mask(np.tri(4, dtype=bool))) == (FULL.weighting, 0.5)
    for key, name in itertools.product(("projection", "bridge"), ("memory", "none", "raw")):
        config = {"format": "patchioner", "version": 1, key: name}
        assert ModelSettings.from_json(config, "config.json").projection == name


def test_what_is_no_config_and_what_would_poison_an_embedding_is_refused() -> None:
    for values in list[Any]((None, [], "patchioner", 3, {})):
        with pytest.raises(CheckpointError, match="is no Patchioner config"):
            ModelSettings.from_json(values, "config.json")
    for field, number in itertools.product(("temperature", "context"), (math.nan, math.inf, -0.5)):
        with pytest.raises(OptionError, match=field):
            ModelSettings(**{field: number})  # type: ignore[arg-type]


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "tiny"))


def test_a_caption_does_not_read_the_text_tower(checkpoint: Path, monkeypatch: MonkeyPatch) -> None:
    restore = Mock(side_effect=lambda tower, folder: tower)
    monkeypatch.setattr(BertTower, "restore", lambda *given: restore(*given))
    model = Patchioner.from_pretrained(checkpoint, device="cpu")
    assert model.settings == tiny_parts().settings
    assert model.caption(noise_photo(), [Box(1, 1, 20, 20)])[0].text
    restore.assert_not_called()
    model.embed_text(["one"])
    model.embed_text(["two"])
    assert [one.args[1] for one in restore.call_args_list] == [checkpoint / "text_tower"]
    assert pickle.loads(pickle.dumps(model.parts)).tower is not None


def test_bank_and_tower_may_be_absent_where_the_projection_needs_none(tmp_path: Path) -> None:
    bare = replace(without_bank(tiny_parts(), "none"), tower=None)
    (tmp_path / "memory_bank").mkdir()
    (tmp_path / "memory_bank" / "keepsake").touch()
    folders.write_checkpoint(bare, tmp_path)
    assert (tmp_path / "memory_bank" / "keepsake").exists()  # the folder was no checkpoint yet
    for written in (tiny_parts(), bare):  # the full one's bank and tower must not come back
        folders.write_checkpoint(written, tmp_path)
    parts = read_checkpoint(tmp_path)
    assert (parts.bank, parts.text_tower, parts.settings.projection) == (None, None, "none")


def test_writing_cut_short_leaves_the_old(folder: Path) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}

    before = held()
    with MonkeyPatch.context() as patch:
        patch.setattr(BertTower, "save", Mock(side_effect=KeyboardInterrupt))
        for out in (folder, folder.parent / "new"):
            with pytest.raises(KeyboardInterrupt):
                folders.write_checkpoint(tiny_parts(1), out)
            assert held() == before
    parts = read_checkpoint(folder)
    folders.write_checkpoint(tiny_parts(1), folder)
    with pytest.raises(CheckpointError, match="replaced since the model was read"):
        assert parts.text_tower is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # still a sound file of finite numbers
    path.write_bytes(bytes(content))


def as_file(path: Path) -> None:
    """As git leaves a link where the system has none."""
    shutil.rmtree(path)
    path.write_text("../elsewhere")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no such file"),
    "no backbone": (lambda f: shutil.rmtree(f / "backbone"), "backbone"),
    "no decoder": (lambda f: shutil.rmtree(f / "decoder"), "decoder"),
    "no bank": (lambda f: shutil.rmtree(f / "memory_bank"), "no memory bank"),
    "weights cut": (lambda f: cut(f / "backbone/weights.safetensors"), "truncated"),
    "tokenizer cut": (lambda f: cut(f / "text_tower/tokenizer.json"), "not a readable tokenizer"),
    "one byte of a bank": (lambda f: flip(f / "memory_bank/bank.safetensors"), "bank"),
    "tower no folder": (lambda f: as_file(f / "text_tower"), "text_tower is no folder"),
    "decoder width": (lambda f: tiny_decoder(dim=48).save(f / "decoder"), "'decoder': 48"),
    "tower width": (lambda f: tiny_tower(dim=48).save(f / "text_tower"), "'text tower': 48"),
    "bank width": (lambda f: MemoryBank(torch.eye(48)).save(f / "memory_bank"), "'memory bank': 48"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused(folder: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises((CheckpointError, MemoryBankError), match=message):
        assert read_checkpoint(folder).text_tower is not None


def without_bank(parts: Parts, projection: str = "raw") -> Parts:
    return replace(parts, bank=None, settings=replace(parts.settings, projection=projection))


def test_what_needs_a_bank_and_what_another_one_changes(model: Patchioner) -> None:
    parts, bank = model.parts, MemoryBank(torch.eye(DIM), [str(row) for row in range(DIM)])
    with pytest.raises(CheckpointError, match="asked for, but there is no memory bank"):
        without_bank(parts, "memory")
    with pytest.raises(CheckpointError, match="RetrievalDecoder draws on a memory bank"):
        replace(without_bank(parts), decoder=RetrievalDecoder(DIM))
    assert parts.with_bank(bank).settings == parts.settings
    assert parts.with_bank(bank).bank is bank and parts.bank is not bank
    # A decoder that retrieves sends nothing through its bank, and still does not.
    raw = replace(without_bank(parts, "none"), bank=bank, decoder=RetrievalDecoder(DIM))
    assert raw.with_bank(bank).settings.projection == "none"
    # A first bank is the projection.
    assert without_bank(parts).with_bank(bank).settings.projection == "memory"
    with pytest.raises(CheckpointError, match="different widths"):
        without_bank(parts).with_bank(MemoryBank(torch.eye(8)))


def test_half_networks_on_a_gpu_halve_the_bank_and_copies_share_it(model: Patchioner) -> None:
    half, single = torch.bfloat16, torch.float32
    cases: list[Any] = [
        ("float32", "cuda", half, "float16"), ("float32", "cuda", single, "float32"), ("int8", "cuda", half, "int8"),
        ("float16", "cuda", single, "float16"), ("float32", "cpu", half, "float32"),
    ]  # fmt: skip
    for stored, device, dtype, kept in cases:
        assert folders.resident_precision(stored, torch.device(device), dtype) == kept
    parts: Any = model.parts
    copied: Any = parts.to("cpu", half)
    assert copied.backbone.vit.cls_token.dtype == half
    assert copied.bank.keys is parts.bank.keys
    assert without_bank(parts).to("cpu", single).bank is None


def test_a_bank_of_another_model_is_told_by_its_texts() -> None:
    parts = tiny_parts()
    tower = parts.text_tower
    assert tower is not None
    texts = [f"{name} on a table" for name in ("a cup", "two dogs", "a red bus", "a clock")]
    own = tower.encode(texts)
    for sound in (MemoryBank(own, texts), MemoryBank(-own), MemoryBank(own[:1], texts[:1])):
        parts.check_bank(sound)
    with pytest.raises(CheckpointError, match="another model"):
        parts.check_bank(MemoryBank(-own, texts))
    for nowhere in (None, Mock(side_effect=HubError("offline"))):  # captions need no tower
        replace(parts, tower=nowhere).check_bank(MemoryBank(-own, texts))
