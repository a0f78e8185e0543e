"""Banks from captions: what is kept, encoders that misbehave, and that a killed run ends where any other does."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memory_bank import MemoryBank, build, build_bank_folder, compact
from memory_bank.build import Embed, embed_on_ray, embed_texts, prepare, shard_path
from patchioner.base import errors
from patchioner.base.errors import CheckpointError, MemoryBankError, OptionError, TextError
from tests.memory_bank.conftest import random_rows
from tests.support import Log, MonkeyPatch

THINGS = ("cat", "bus", "kite")
WORDS = [f"a {colour} {thing}" for colour in ("red", "blue", "old") for thing in THINGS]
CORPUS = [*WORDS, "A Red cat.", WORDS[3], WORDS[3], "  ", f" {WORDS[5]}\n"]
ENCODER = {"config": {"width": 3}, "weights": "abc"}


class Killed(BaseException):
    """Stands in for a signal: no handler of errors sees it."""


def encode(texts: Sequence[str]) -> Tensor:
    """Embed a text as its length, its first letter and its number of words."""
    return torch.tensor([[len(t), ord(t[2]), 1 + t.count("a")] for t in texts]).float()


def mortal(calls: int) -> Embed:
    """An encoder that is killed at its n-th call."""
    left = [encode] * calls

    def embed(texts: Sequence[str]) -> Tensor:
        if not left:
            raise Killed
        return left.pop()(texts)

    return embed


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(embed_texts, "__kwdefaults__", {"shard": 4, "unit": True})
    monkeypatch.setattr(build, "SHARD", 4)


def make(out: Path, embed: Embed = encode, **options: Any) -> MemoryBank:
    given = {"captions": CORPUS, "encoder": ENCODER, **options}
    return build_bank_folder(embed=embed, out=out, **given)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_captions_are_cleaned_counted_and_drawn(caplog: Log) -> None:
    with caplog.at_level(logging.WARNING):
        assert prepare(["A cat. ", "a  cat", " ", "A cat."]) == (["A cat.", "a cat"], [2, 1])
    assert "1 blank captions of 4" in caplog.text
    lower = prepare(["A cat.", "a  cat", "...", "No. 5"], lower=True)
    assert lower == (["a cat", "no. 5"], [2, 1])
    captions = ["often"] * 900 + [f"once {i}" for i in range(100)]
    texts, counts = prepare(captions, sample=200)
    assert sum(counts) == 200 and dict(zip(texts, counts, strict=True))["often"] > 150
    assert prepare(captions, sample=200) == (texts, counts) != prepare(captions, sample=200, seed=1)
    assert prepare(captions, sample=5000) == prepare(captions)
    wrong: list[Any] = [[], [" "], "a cat", ["a cat", 3], ["a \ud800"]]
    for nothing in wrong:
        with pytest.raises(TextError):
            prepare(nothing)


def test_a_bank_holds_the_encoders_vectors(tmp_path: Path) -> None:
    texts, counts = prepare(CORPUS)
    bank = make(tmp_path / "unit", dtype="float32")
    assert list(bank.texts or ()) == texts and bank.counts.tolist() == counts
    torch.testing.assert_close(bank.embeddings(), F.normalize(encode(texts)), atol=1e-3, rtol=0)
    raw = make(tmp_path / "raw", dtype="float32", unit=False, keep_texts=False)
    torch.testing.assert_close(raw.embeddings(), encode(texts), atol=1e-6, rtol=1e-5)
    small = make(tmp_path / "small", rows=5)
    assert len(small) == 5 and int(small.counts.sum()) == len(CORPUS) - 1
    assert set(small.texts or ()) <= set(texts)


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda texts: encode(texts)[1:], r"\(3, 3\) for 4 texts"),
        (lambda texts: torch.ones(len(texts)), r"\(rows, dim\), got \(4,\)"),
        (lambda texts: encode(texts).long(), "int64"),
        (lambda texts: encode(texts).tolist(), "list"),
        (lambda texts: encode(texts).log().sub_(9).sqrt(), "'a red cat' is not finite"),
    ],
)
def test_encoders_that_misbehave(tmp_path: Path, embed: Any, message: str) -> None:
    with pytest.raises(MemoryBankError, match=message):
        make(tmp_path / "bank", embed)


@pytest.mark.parametrize(
    ("options", "calls"), [({}, 0), ({}, 2), ({"unit": False, "rows": 6}, 1), ({"sample": 12}, 1), ({}, None)]
)
def test_killed_and_resumed_it_equals_an_uninterrupted_build(
    tmp_path: Path, options: dict[str, Any], calls: int | None, monkeypatch: MonkeyPatch
) -> None:
    """None: killed after the bank was written."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    bank = make(whole, **options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if calls is None:
            patch.setattr("patchioner.base.files.RunFolder.finish", lambda *_: mortal(0)(()))
        make(killed, mortal(9 if calls is None else calls), **options)
    written = len(list((killed / "unfinished").glob("*.safetensors")))
    assert written == (3 if calls is None else calls)
    assert make(killed, resume=True, **options).fingerprint() == bank.fingerprint()
    assert contents(killed) == contents(whole)
    assert not (whole / "unfinished").exists()


def test_a_finished_build_is_only_read_and_another_run_is_named(tmp_path: Path) -> None:
    first = make(tmp_path)
    assert make(tmp_path, mortal(0), resume=True).fingerprint() == first.fingerprint()
    other = {**ENCODER, "weights": "abd"}
    for name, value, message in (
        ("resume", False, str(tmp_path)), ("rows", 2.5, "rows is 2.5"),
        ("lower", True, r"options\.lower differ"), ("captions", CORPUS[1:], "captions differ"),
        ("encoder", other, r"text_tower\.weights differ"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            changes: dict[str, Any] = {"resume": True, name: value}
            make(tmp_path, **changes)


def test_shards_of_others_and_damaged_ones(tmp_path: Path) -> None:
    assert embed_texts(encode, WORDS, tmp_path).dtype == torch.float16  # rounded in every run
    with pytest.raises(CheckpointError, match="000000000.safetensors"):
        embed_texts(encode, WORDS, tmp_path, shard=9)
    path = tmp_path / "000000004.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="000000004.safetensors"):
        embed_texts(encode, WORDS, tmp_path)


def counted_bank(rows: int = 60, dim: int = 5) -> MemoryBank:
    counts = torch.randint(1, 5, (rows,), generator=torch.Generator().manual_seed(0))
    return MemoryBank(random_rows(rows, dim), [f"text {row}" for row in range(rows)], counts)


def plain_kmeans(bank: MemoryBank, rows: int, seed: int, iterations: int) -> MemoryBank:
    """Spherical k-means, one cluster at a time, for data on which no cluster runs empty."""
    start = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:rows]
    centroids = bank.keys[start]
    for iteration in range(iterations):
        label = (bank.keys @ centroids.T).argmax(dim=1)
        members = [torch.nonzero(label == cluster).flatten() for cluster in range(rows)]
        if iteration < iterations - 1:
            sums = [(bank.keys[m] * bank.counts[m, None]).sum(dim=0) for m in members]
            centroids = torch.stack([total / total.norm() for total in sums])
    weights, texts = bank.counts[:, None].float(), bank.texts or ()
    values = [(bank.embeddings() * weights)[m].sum(dim=0) / weights[m].sum() for m in members]
    pairs = zip(members, centroids, strict=True)
    nearest = [texts[int(m[(bank.keys[m] @ centroid).argmax()])] for m, centroid in pairs]
    return MemoryBank(torch.stack(values), nearest, [int(weights[m].sum()) for m in members])


@pytest.mark.parametrize("rows", [1, 2, 30, 59, 60])
def test_size_mass_and_mean_are_kept(rows: int) -> None:
    bank = counted_bank()
    small = compact(bank, rows, seed=rows, iterations=3)
    assert (len(small), small.counts.sum()) == (rows, bank.counts.sum())
    found, wanted = (one.counts.float() @ one.embeddings() for one in (small, bank))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_compaction_equals_the_plain_twin(iterations: int) -> None:
    bank = counted_bank(200, 3)
    fast, slow = (make(bank, 8, seed=3, iterations=iterations) for make in (compact, plain_kmeans))
    torch.testing.assert_close(fast.embeddings(), slow.embeddings(), rtol=1e-4, atol=1e-5)
    assert (fast.counts.tolist(), fast.texts) == (slow.counts.tolist(), slow.texts)


def test_equal_rows_are_one_row_and_bad_options() -> None:
    rows = torch.eye(3)[[0] * 50 + [1] + [2]]
    small = compact(MemoryBank(rows, dtype="float16"), 3)
    assert (sorted(small.counts.tolist()), small.dtype) == ([1, 1, 50], "float16")
    assert compact(MemoryBank(rows), 40).counts.tolist() == [50, 1, 1]
    for wrong in ({"rows": 0}, {"rows": 5, "iterations": 0}, {"rows": 2.5}):
        with pytest.raises(OptionError, match="whole number"):
            compact(small, **wrong)


def dying(marker: Path) -> Embed:
    """An encoder whose process dies at the first shard of all."""

    def embed(texts: Sequence[str]) -> Tensor:
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return encode(texts)

    return embed


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.usefixtures("cluster")
def test_ray_writes_the_missing_shards_of_one_process(tmp_path: Path) -> None:
    one, two, marker = tmp_path / "one", tmp_path / "two", tmp_path / "died"
    two.mkdir()
    embed_texts(encode, WORDS, one, shard=3)
    shard_path(two, 3).write_bytes(shard_path(one, 3).read_bytes())
    embed_on_ray(partial(dying, marker), WORDS, two, shard=3, workers=2)
    assert marker.exists() and contents(one) == contents(two)
    with pytest.raises(errors.PatchionerError, match="one row each"):
        embed_on_ray(lambda: lambda texts: encode(texts)[1:], WORDS, tmp_path, shard=3, workers=1)
    with pytest.raises(errors.PatchionerError, match="start again"):  # not for ever
        embed_on_ray(lambda: lambda _: os._exit(1), WORDS, tmp_path, workers=1)
