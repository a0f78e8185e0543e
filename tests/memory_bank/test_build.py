"""Building banks: from lists and files, with encoders that behave and encoders that do not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memory_bank import MemoryBank, build_bank
from patchioner.base import MemoryBankError, OptionError, TextError

TEXTS = ["a very long caption of a bus", "a cat", "two dogs", "a cat", "three birds fly"]


def encode(texts: list[str]) -> Tensor:
    """Embed a text as its length, its first letter and its number of blanks."""
    return torch.tensor([[len(t), ord(t[0]), t.count(" ") + 1] for t in texts]).float()


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_rows_are_in_the_order_of_the_texts(batch: int) -> None:
    bank = build_bank(TEXTS, encode, batch)
    assert bank.texts == tuple(TEXTS)
    torch.testing.assert_close(bank.embeddings(), encode(TEXTS))


def test_batches_are_bounded_and_sorted_by_length() -> None:
    seen: list[list[str]] = []

    def watch(texts: list[str]) -> Tensor:
        seen.append(texts)
        return encode(texts)

    build_bank(TEXTS, watch, batch=2)
    assert [len(texts) for texts in seen] == [2, 2, 1]
    lengths = [len(text) for texts in seen for text in texts]
    assert lengths == sorted(lengths)


def test_repeats_are_embedded_once_and_counted() -> None:
    seen: list[str] = []

    def watch(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return encode(texts)

    merged = build_bank(TEXTS, watch, merge_repeats=True)
    assert sorted(seen) == sorted(set(TEXTS))
    assert merged.texts == ("a very long caption of a bus", "a cat", "two dogs", "three birds fly")
    assert merged.counts.tolist() == [1, 2, 1, 1]
    queries = torch.tensor([[5.0, 90.0, 3.0]])
    wanted = build_bank(TEXTS, encode).project(queries)
    torch.testing.assert_close(merged.project(queries), wanted)


def test_blank_texts_are_dropped_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bank = build_bank(["  a cat ", "", " \t", "a dog\n"], encode)
    assert bank.texts == ("a cat", "a dog")
    assert "left out 2 blank texts, the first at index 1" in caplog.text


def test_nothing_is_reported_when_nothing_is_blank(caplog: pytest.LogCaptureFixture) -> None:
    build_bank(TEXTS, encode)
    assert caplog.text == ""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("as_text", [True, False])
def test_from_a_file(
    tmp_path: Path, ending: str, as_text: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(("\ufeffa cat" + ending + "un chât\u2028noir" + ending).encode())
    bank = build_bank(str(path) if as_text else path, encode)
    assert bank.texts == ("a cat", "un chât\u2028noir")
    assert caplog.text == ""


def test_other_settings_reach_the_bank() -> None:
    def zero_for_cats(texts: list[str]) -> Tensor:
        return encode(texts) * torch.tensor([[float("cat" not in text)] for text in texts])

    bank = build_bank(TEXTS, zero_for_cats, drop_zero_rows=True, dtype="float16", keep_texts=False)
    assert (len(bank), bank.dtype, bank.texts) == (3, "float16", None)
    with pytest.raises(MemoryBankError, match="zero norm.*: 1, 3"):
        build_bank(TEXTS, zero_for_cats)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no text in it"),
        (["", "  "], r"no text in it \(2 blank"),
        (["a", 3], "item 1 is 3, not a string"),
        ("no/such/file.txt", "no/such/file.txt: cannot be read"),
    ],
)
def test_bad_texts(texts: Any, message: str) -> None:
    with pytest.raises(TextError, match=message):
        build_bank(texts, encode)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(b"")
    with pytest.raises(TextError, match="captions.txt: no text in it"):
        build_bank(path, encode)
    path.write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(TextError, match="captions.txt: not UTF-8"):
        build_bank(path, encode)


def test_bad_batch() -> None:
    with pytest.raises(OptionError, match="batch=0"):
        build_bank(TEXTS, encode, 0)


def test_encoder_that_loses_a_row() -> None:
    with pytest.raises(MemoryBankError, match=r"shape \(4, 3\) for 5 texts, expected \(5, 3\)"):
        build_bank(TEXTS, lambda texts: encode(texts)[1:])


def test_encoder_that_changes_its_width() -> None:
    with pytest.raises(MemoryBankError, match=r"shape \(1, 1\) for 1 texts, expected \(1, 2\)"):
        build_bank(TEXTS, lambda texts: torch.ones(len(texts), len(texts)), batch=2)


def test_encoder_that_returns_a_vector() -> None:
    with pytest.raises(MemoryBankError, match="text embeddings must have shape"):
        build_bank(TEXTS, lambda texts: torch.ones(len(texts)))


def test_encoder_that_gives_nan_names_the_text() -> None:
    def broken(texts: list[str]) -> Tensor:
        return torch.where(encode(texts) == 8, torch.nan, encode(texts))

    with pytest.raises(MemoryBankError, match="'two dogs' is not finite"):
        build_bank(TEXTS, broken)


def test_encoder_with_gradients_leaves_no_graph() -> None:
    layer = torch.nn.Linear(3, 4)
    bank = build_bank(TEXTS, lambda texts: layer(encode(texts)))
    assert isinstance(bank, MemoryBank)
    assert not bank.keys.requires_grad
