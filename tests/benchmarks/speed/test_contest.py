"""The two sides: shapes, weights, banks, scaling of what is not run, and the demand that tokens are equal."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.naive import STEPS, NaiveDecoder
from benchmarks.speed.contest import Ours, Published, check_equal, decode_in_chunks
from benchmarks.speed.floor import PARTS
from benchmarks.speed.scene import make_photo, random_boxes
from benchmarks.speed.shapes import (
    SHAPES,
    build_random_backbone,
    build_random_decoder,
    read_bank,
    read_raw_rows,
    write_bank,
)
from decoders import DecodeOptions
from patchioner.base.errors import MemoryBankError, PatchionerError

TINY = SHAPES["tiny"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_bank(TINY, folder)
    return folder


@pytest.fixture(scope="module")
def photo(work: Path) -> Image.Image:
    with Image.open(make_photo(work / "photo.jpg")) as opened:
        return opened.convert("RGB")


def test_published_shapes() -> None:
    """Those that the targets are given for."""
    shapes = SHAPES["published"]
    assert (shapes.rows, shapes.dim, shapes.vocabulary) == (591_753, 768, 50257)
    assert (shapes.layers, shapes.width, shapes.config) == (4, 768, "dinov2-vitb14-reg")
    assert (shapes.counts, shapes.breakdown) == ((1, 10, 100, 1000), 100)


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = build_random_backbone(TINY), build_random_backbone(TINY)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    first, second = (build_random_decoder(TINY).network.state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_captions_end_nowhere_or_where_cocos_do() -> None:
    vectors = torch.nn.functional.normalize(
        torch.randn(40, TINY.dim, generator=torch.Generator().manual_seed(0)), dim=1
    )
    options = DecodeOptions(max_tokens=STEPS)
    never = build_random_decoder(TINY).generate(vectors, options)
    assert {len(one.token_ids) for one in never} == {STEPS}
    ending = build_random_decoder(TINY, ends=True).generate(vectors, options)
    lengths = [len(one.token_ids) for one in ending]
    assert 8 <= sum(lengths) / len(lengths) <= 20
    assert len(set(lengths)) > 1


def test_never_a_token_that_cannot_be_written() -> None:
    """The published system would write nothing at all."""
    decoder = build_random_decoder(TINY)
    never = {decoder.tokenizer.end_id, decoder.tokenizer.start_id, *decoder.unwritable_ids}
    written = NaiveDecoder(decoder).token_ids(torch.randn(20, TINY.dim))
    assert not never & {token for ids in written for token in ids}


def test_both_sides_read_the_same_bank(work: Path) -> None:
    rows, bank = read_raw_rows(work), read_bank(work)
    assert torch.allclose(bank.embeddings(), rows, atol=1e-5)
    assert rows.norm(dim=1).std() > 1  # raw rows, as Talk2DINO's, are no unit vectors


def test_a_bank_that_is_there_is_kept(work: Path) -> None:
    stamp = (work / "rows.npy").stat().st_mtime_ns
    write_bank(TINY, work)
    assert (work / "rows.npy").stat().st_mtime_ns == stamp
    assert np.load(work / "rows.npy").dtype == np.float32


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_every_precision_has_a_bank_of_its_own(work: Path, precision: str) -> None:
    """Converted rows would count as memory that a saved bank does not take."""
    assert Ours(TINY, work, precision=precision).bank.dtype == precision
    wanted = read_bank(work).to(dtype=read_bank(work, precision).dtype)
    assert torch.equal(read_bank(work, precision).keys, wanted.keys)


def test_a_bank_of_a_missing_precision_is_written_and_of_other_rows_replaced(
    tmp_path: Path,
) -> None:
    fewer = replace(TINY, rows=40)
    write_bank(fewer, tmp_path)
    shutil.rmtree(tmp_path / "bank-float16")
    with pytest.raises(MemoryBankError, match="no bank of float16 rows"):
        read_bank(tmp_path, "float16")
    write_bank(fewer, tmp_path)
    assert len(read_bank(tmp_path, "float16")) == 40
    write_bank(TINY, tmp_path)
    assert {len(read_bank(tmp_path, name)) for name in ("float32", "float16", "int8")} == {
        TINY.rows
    }


def test_no_bank(tmp_path: Path) -> None:
    with pytest.raises(MemoryBankError, match="holds no bank"):
        read_bank(tmp_path)


def test_tokens_must_be_equal() -> None:
    assert check_equal([(1, 2), (3, 4)], [(1, 2)], "boxes") == 1
    with pytest.raises(PatchionerError, match=r"boxes: caption 1 differs.* at token 1 \(\(4,\)"):
        check_equal([(1, 2), (3, 4)], [(1, 2), (3, 5)], "boxes")
    with pytest.raises(PatchionerError, match="at token 2"):
        check_equal([(1, 2)], [(1, 2, 3)], "boxes")


def test_what_is_not_run_is_scaled(
    work: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 boxes are four chunks; of two that are run, each second counts twice, the image's once."""
    ticks = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    side = Published(TINY, work, most_chunks=2)
    boxes = random_boxes(13, photo.size, seed=0)
    assert (side.run(13), side.scaled(13), side.run(5), side.scaled(5)) == (8, True, 5, False)
    found = side.by_part(photo, boxes)
    assert found == {"backbone": 1.0, "pooling": 4.0, "projection": 4.0, "decoding": 4.0}
    assert side.by_part(photo, boxes[:5])["decoding"] == 2.0
    assert len(side.token_ids(photo, boxes)) == 8
    assert decode_in_chunks(side, torch.randn(9, TINY.dim))() == 1.5


def test_both_sides_write_the_same(work: Path, photo: Image.Image) -> None:
    boxes = random_boxes(9, photo.size, seed=0)
    ours = Ours(TINY, work)
    other = Published(TINY, work, most_chunks=3)
    assert check_equal(ours.token_ids(photo, boxes), other.token_ids(photo, boxes), "boxes") == 9
    assert len(ours.caption(photo, boxes)) == 9
    assert set(ours.by_part(photo, boxes)) == set(PARTS)


def test_another_decoder_shares_the_bank(work: Path, photo: Image.Image) -> None:
    side = Published(TINY, work, most_chunks=1)
    ending = build_random_decoder(TINY, ends=True)
    other = side.with_decoder(ending)
    boxes = random_boxes(2, photo.size, seed=0)
    assert {ids[-1] for ids in other.token_ids(photo, boxes)} == {ending.tokenizer.end_id}
    assert ending.tokenizer.end_id not in side.token_ids(photo, boxes)[0]
