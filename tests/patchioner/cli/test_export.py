"""`patchioner export`: what is written, reported and refused."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from patchioner import Patchioner
from patchioner.backbones import TimmViT
from patchioner.base.errors import ImageError, OptionError
from patchioner.cli.models import add_export_arguments
from patchioner.geometry import Preprocessing
from tests.support.tiny import noise_photo, tiny_parts

Capture = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_export_arguments(parser)
    options = parser.parse_args(arguments)
    return int(options.run(options))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    backbone = TimmViT(
        "test_vit",
        Preprocessing("stretch", 32, 16),
        head={"type": "standardise"},
        overrides={"depth": 2},
    )
    parts = replace(tiny_parts(), backbone=backbone)
    Patchioner(parts, device="cpu").save_pretrained(tmp_path / "tiny", storage="fp32")
    return tmp_path / "tiny"


def test_an_export_is_tried_and_reported(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("openvino")
    noise_photo().save(tmp_path / "a.png")
    out, photo = tmp_path / "out", str(tmp_path / "a.png")
    assert run(str(checkpoint), str(out), "--format", "openvino", "--photos", photo) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: openvino fp32, ")
    assert "tried on 1 photos" in said and "captions that change: 0 of 6" in said
    assert "largest difference" in said and "cosine of tokens: mean 1.000000" in said
    assert Patchioner.from_pretrained(out, device="cpu").caption(noise_photo())[0].text


def test_what_is_in_the_way_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="exists already"):
        run(str(checkpoint), str(checkpoint), "--format", "onnx")
    with pytest.raises(ImageError, match="no photo at"):
        run(str(checkpoint), str(tmp_path / "out"), "--format", "onnx", "--photos", "absent.jpg")
    assert not (tmp_path / "out").exists()


def test_a_format_must_be_named(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        run("model", "out")
    assert "--format" in capsys.readouterr().err
