"""Banks from captions: what is kept, encoders that misbehave, and that a killed run ends where any other does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memory_bank import MemoryBank, build, build_bank_folder
from memory_bank.build import Embed, embed_texts, prepare
from patchioner.base.errors import CheckpointError, MemoryBankError, OptionError, TextError

WORDS = [
    f"a {colour} {thing}" for colour in ("red", "blue", "old") for thing in ("cat", "bus", "kite")
]


CORPUS = [*WORDS, "A Red cat.", WORDS[3], WORDS[3], "  ", f" {WORDS[5]}\n"]
ENCODER = {"config": {"width": 3}, "weights": "abc"}


class Killed(BaseException):
    """Stands in for a signal: no handler of errors sees it."""


def encode(texts: Sequence[str]) -> Tensor:
    """Embed a text as its length, its first letter and its number of words."""
    return torch.tensor([[len(t), ord(t[2]), 1 + t.count("a")] for t in texts]).float()


def mortal(calls: int) -> Embed:
    """An encoder that is killed at its n-th call."""
    left = [calls]

    def embed(texts: Sequence[str]) -> Tensor:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return encode(texts)

    return embed


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_texts, "__kwdefaults__", {"shard": 4, "unit": True})
    monkeypatch.setattr(build, "SHARD", 4)


def make(out: Path, embed: Embed = encode, **options: Any) -> MemoryBank:
    return build_bank_folder(CORPUS, embed, out, **{"encoder": ENCODER, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_captions_are_cleaned_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = prepare(["A cat. ", "a  cat", " ", "A cat."])
    assert found == (["A cat.", "a cat"], [2, 1])
    assert "1 blank captions of 4" in caplog.text
    lower = prepare(["A cat.", "a  cat", "...", "No. 5"], lower=True)
    assert lower == (["a cat", "no. 5"], [2, 1])


def test_a_sample_is_drawn_of_all_captions_and_by_the_seed() -> None:
    captions = ["often"] * 900 + [f"once {i}" for i in range(100)]
    texts, counts = prepare(captions, sample=200)
    assert sum(counts) == 200 and dict(zip(texts, counts, strict=True))["often"] > 150
    assert prepare(captions, sample=200) == (texts, counts)
    assert prepare(captions, sample=200, seed=1) != (texts, counts)
    assert prepare(captions, sample=5000) == prepare(captions)


@pytest.mark.parametrize("captions", [[], [" "], "a cat", ["a cat", 3]])
def test_what_holds_no_captions_is_refused(captions: Any) -> None:
    with pytest.raises(TextError):
        prepare(captions)


def test_a_bank_holds_the_encoders_vectors(tmp_path: Path) -> None:
    def built(**options: Any) -> MemoryBank:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return make(out, dtype="float32", **options)

    texts, counts = prepare(CORPUS)
    bank = built()
    assert list(bank.texts or ()) == texts and bank.counts.tolist() == counts
    torch.testing.assert_close(bank.embeddings(), F.normalize(encode(texts)), atol=1e-3, rtol=0)
    raw = built(unit=False, keep_texts=False)
    torch.testing.assert_close(raw.embeddings(), encode(texts), atol=1e-6, rtol=1e-5)
    assert raw.texts is None and float(raw.norms.std()) > 0
    small = built(rows=5)
    assert len(small) == 5 and int(small.counts.sum()) == len(CORPUS) - 1
    assert set(small.texts or ()) <= set(texts)


ENCODERS: dict[str, tuple[Callable[[Sequence[str]], Any], str]] = {
    "loses a row": (lambda texts: encode(texts)[1:], r"\(3, 3\) for 4 texts"),
    "gives a vector": (lambda texts: torch.ones(len(texts)), r"\(rows, dim\), got \(4,\)"),
    "gives integers": (lambda texts: encode(texts).long(), "int64"),
    "gives a list": (lambda texts: encode(texts).tolist(), "list"),
    "gives nan": (lambda texts: encode(texts).log().sub_(9).sqrt(), "'a red cat' is not finite"),
}


@pytest.mark.parametrize("fault", ENCODERS)
def test_encoders_that_misbehave(tmp_path: Path, fault: str) -> None:
    embed, message = ENCODERS[fault]
    with pytest.raises(MemoryBankError, match=message):
        make(tmp_path / "bank", embed)


@pytest.mark.parametrize("options", [{}, {"unit": False, "rows": 6}, {"sample": 12}])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_and_resumed_build_equals_an_uninterrupted_one(
    tmp_path: Path, options: dict[str, Any], calls: int
) -> None:
    whole = make(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        make(tmp_path / "killed", mortal(calls), **options)
    assert len(list((tmp_path / "killed" / "unfinished").glob("*.safetensors"))) == calls
    resumed = make(tmp_path / "killed", resume=True, **options)
    assert resumed.fingerprint() == whole.fingerprint()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not (tmp_path / "whole" / "unfinished").exists()


def test_killed_after_the_bank_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "whole")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("patchioner.base.files.RunFolder.finish", killed)
        make(tmp_path / "killed")
    make(tmp_path / "killed", resume=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_build_is_only_read(tmp_path: Path) -> None:
    first = make(tmp_path)
    assert make(tmp_path, mortal(0), resume=True).fingerprint() == first.fingerprint()
    with pytest.raises(OptionError, match=str(tmp_path)):
        make(tmp_path)


def test_another_run_in_the_folder_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(OptionError, match=r"options\.lower differ"):
        make(tmp_path, lower=True, resume=True)
    with pytest.raises(OptionError, match=r"text_tower\.weights differ"):
        make(tmp_path, encoder={**ENCODER, "weights": "abd"}, resume=True)
    with pytest.raises(OptionError, match="captions differ"):
        build_bank_folder(CORPUS[1:], encode, tmp_path, encoder=ENCODER, resume=True)


def test_shards_of_others_and_damaged_ones_are_refused_by_name(tmp_path: Path) -> None:
    found = embed_texts(encode, WORDS, tmp_path)
    assert found.dtype == torch.float16  # rounded in every run alike
    with pytest.raises(CheckpointError, match="000000000.safetensors"):
        embed_texts(encode, WORDS, tmp_path, shard=9)
    path = tmp_path / "000000004.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="000000004.safetensors"):
        embed_texts(encode, WORDS, tmp_path)
