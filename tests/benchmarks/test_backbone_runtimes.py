"""The table of runtimes: every variant is measured, and captions are counted against the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.backbone_runtimes import RuntimeRow, main, make_variant, measure, table
from patchioner import Patchioner
from patchioner.backbones import TimmViT
from patchioner.geometry import Preprocessing
from tests.support.tiny import noise_photo, tiny_parts


def test_variants_are_compared_with_the_first(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    backbone = TimmViT("test_vit", Preprocessing("stretch", 32, 16), overrides={"depth": 2})
    model = Patchioner(replace(tiny_parts(), backbone=backbone), device="cpu")
    names = ("torch fp32", "torch bf16", "openvino fp32")
    made = {name: make_variant(backbone, name, tmp_path) for name in names}
    first, half, other = measure(made, [noise_photo, noise_photo], model)
    assert [first.changed, other.changed, first.captions] == [0, 0, 12]
    assert len(first.seconds) == 2 and all(value > 0 for value in first.seconds)
    assert first.difference == 0.0
    assert 0 < other.difference < 1e-4 < half.difference
    assert next(backbone.parameters()).dtype.is_floating_point


def test_the_table() -> None:
    rows = [
        RuntimeRow("torch fp32", (1.0, 3.0), 1.0, 0.0, 0, 12),
        RuntimeRow("onnx int8", (0.5, 1.0), 0.99, 0.5, 3, 12),
    ]
    last = table(rows).splitlines()[-1]
    assert last == "| onnx int8 | 0.750 s | 2.50 | 0.99000 | 0.5 | 3 of 12 (25.0%) |"


def test_a_wrong_folder_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["--data", str(tmp_path), "--variants", "torch fp32", "--architecture", "test_vit"])
    assert code == 1
    assert capsys.readouterr().err.startswith("error: ")
