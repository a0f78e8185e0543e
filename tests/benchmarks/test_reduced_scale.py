"""Mosaics and the table of reduced decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.reduced_scale import compare, main, make_mosaics
from patchioner import Patchioner
from tests.support.tiny import noise_photo, tiny_parts


def test_a_mosaic_is_captioned_whole_and_reduced(tmp_path: Path) -> None:
    for seed in range(3):
        noise_photo(80, 60, seed=seed).save(tmp_path / f"{seed}.jpg")
    (tmp_path / "out").mkdir()
    first, second = make_mosaics(tmp_path, tmp_path / "out", count=2, tiles=2)
    with Image.open(first) as mosaic:
        assert mosaic.size == (1280, 960)
    row = compare(Patchioner(tiny_parts(), device="cpu"), [first, second], 2.0)
    assert row.scale == 1 / 8
    assert row.captions == 34
    assert 0.99 < row.cosine < 1.0


def test_an_empty_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no .jpg" in capsys.readouterr().err
