"""Banks from captions: what is kept, and that a run that was killed ends where an uninterrupted one does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import patchioner.bank_building as bank_building
from memory_bank import MemoryBank
from patchioner.bank_building import RECORD, BankOptions, build_bank_folder, prepare
from patchioner.base.errors import OptionError, TextError
from patchioner.text import shards
from patchioner.text.bert import BertTower
from tests.support.tiny import TEXTS, tiny_tower

CORPUS = [*TEXTS, "A Red Cat on a table.", TEXTS[3], TEXTS[3], "  ", f" {TEXTS[5]}\n"]


class Killed(BaseException):
    """Stands in for a signal: no handler of errors sees it."""


class Mortal:
    """A tower that is killed at its n-th call."""

    def __init__(self, tower: BertTower, calls: int) -> None:
        self._tower, self._left = tower, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def encode(self, texts: Sequence[str], **options: Any) -> Tensor:
        if self._left == 0:
            raise Killed
        self._left -= 1
        return self._tower.encode(texts, **options)


@pytest.fixture(scope="module")
def tower() -> BertTower:
    return tiny_tower()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = shards.embed_texts
    monkeypatch.setattr(
        bank_building, "embed_texts", lambda *a, **k: original(*a, **{"shard": 7, **k})
    )
    yield


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_captions_are_cleaned_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        texts, counts = prepare(["A cat. ", "a  cat", " ", "A cat."], BankOptions())
    assert (texts, counts) == (["A cat.", "a cat"], [2, 1])
    assert "left out 1 blank captions of 4" in caplog.text
    lower = prepare(["A cat.", "a  cat", "...", "No. 5"], BankOptions(lower=True))
    assert lower == (["a cat", "no. 5"], [2, 1])


def test_a_sample_is_drawn_of_all_captions_and_by_the_seed() -> None:
    captions = ["often"] * 900 + [f"once {i}" for i in range(100)]
    texts, counts = prepare(captions, BankOptions(sample=200))
    assert sum(counts) == 200 and dict(zip(texts, counts, strict=True))["often"] > 150
    assert prepare(captions, BankOptions(sample=200)) == (texts, counts)
    assert prepare(captions, BankOptions(sample=200, seed=1)) != (texts, counts)
    everything = prepare(captions, BankOptions())
    assert prepare(captions, BankOptions(sample=5000)) == everything


@pytest.mark.parametrize("captions", [[], [" "], "a cat", ["a cat", 3]])
def test_what_holds_no_captions_is_refused(captions: Any) -> None:
    with pytest.raises(TextError):
        prepare(captions, BankOptions())


@pytest.mark.parametrize("name", ["sample", "rows"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} is 0"):
        BankOptions(**{name: 0})  # type: ignore[arg-type]


def test_a_bank_holds_the_towers_vectors(tower: BertTower, tmp_path: Path) -> None:
    bank = build_bank_folder(CORPUS, tower, tmp_path / "bank", BankOptions(dtype="float32"))
    texts, counts = prepare(CORPUS, BankOptions())
    assert list(bank.texts or ()) == texts and bank.counts.tolist() == counts
    expected = F.normalize(tower.encode(texts), dim=1)
    torch.testing.assert_close(bank.embeddings(), expected, atol=1e-3, rtol=0)  # shards are fp16
    assert not (tmp_path / "bank" / "unfinished").exists()
    again = MemoryBank.load(tmp_path / "bank")
    assert again.fingerprint() == bank.fingerprint()


def test_raw_norms_keep_the_lengths(tower: BertTower, tmp_path: Path) -> None:
    options = BankOptions(unit=False, dtype="float32", keep_texts=False)
    bank = build_bank_folder(TEXTS, tower, tmp_path / "bank", options)
    rows = tower.encode(TEXTS)
    torch.testing.assert_close(bank.embeddings(), rows, atol=1e-6, rtol=1e-5)
    assert bank.texts is None and float(bank.norms.std()) > 0


def test_compacting_keeps_the_number_of_captions(tower: BertTower, tmp_path: Path) -> None:
    bank = build_bank_folder(CORPUS, tower, tmp_path / "bank", BankOptions(rows=5))
    assert len(bank) == 5 and int(bank.counts.sum()) == len(CORPUS) - 1
    assert bank.texts is not None and set(bank.texts) <= set(prepare(CORPUS, BankOptions())[0])


@pytest.mark.parametrize(
    "options", [BankOptions(), BankOptions(unit=False, rows=6), BankOptions(sample=20, lower=True)]
)
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_and_resumed_build_equals_an_uninterrupted_one(
    tower: BertTower, tmp_path: Path, options: BankOptions, calls: int
) -> None:
    whole = build_bank_folder(CORPUS, tower, tmp_path / "whole", options)
    with pytest.raises(Killed):
        build_bank_folder(CORPUS, Mortal(tower, calls), tmp_path / "killed", options)  # type: ignore[arg-type]
    assert len(list((tmp_path / "killed" / "unfinished").glob("*.safetensors"))) == calls
    resumed = build_bank_folder(CORPUS, tower, tmp_path / "killed", options, resume=True)
    assert resumed.fingerprint() == whole.fingerprint()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_killed_after_the_bank_was_written(
    tower: BertTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_bank_folder(CORPUS, tower, tmp_path / "whole")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("patchioner.run_folder.RunFolder.finish", killed)
        build_bank_folder(CORPUS, tower, tmp_path / "killed")
    again = build_bank_folder(CORPUS, tower, tmp_path / "killed", resume=True)
    assert again.fingerprint() == whole.fingerprint()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_build_is_only_read(tower: BertTower, tmp_path: Path) -> None:
    first = build_bank_folder(CORPUS, tower, tmp_path / "bank")
    mortal: Any = Mortal(tower, 0)
    again = build_bank_folder(CORPUS, mortal, tmp_path / "bank", resume=True)
    assert again.fingerprint() == first.fingerprint()
    with pytest.raises(OptionError, match="resume it"):
        build_bank_folder(CORPUS, tower, tmp_path / "bank")


def test_another_run_in_the_folder_is_named(tower: BertTower, tmp_path: Path) -> None:
    build_bank_folder(CORPUS, tower, tmp_path / "bank")
    with pytest.raises(OptionError, match=r"options\.lower differ"):
        build_bank_folder(CORPUS, tower, tmp_path / "bank", BankOptions(lower=True), resume=True)
    with pytest.raises(OptionError, match="captions differ"):
        build_bank_folder(CORPUS[1:], tower, tmp_path / "bank", resume=True)
    with pytest.raises(OptionError, match=r"text_tower\.weights differ"):
        build_bank_folder(CORPUS, tiny_tower(seed=3), tmp_path / "bank", resume=True)
    with pytest.raises(OptionError, match=r"text_tower\.config"):
        build_bank_folder(CORPUS, tiny_tower(max_tokens=16), tmp_path / "bank", resume=True)


def test_a_folder_of_something_else_is_left_alone(tower: BertTower, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds other files"):
        build_bank_folder(CORPUS, tower, tmp_path)
    assert not (tmp_path / RECORD).exists()
