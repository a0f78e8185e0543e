"""`patchioner export`: what is written, reported and refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from patchioner import Box, Patchioner
from patchioner.base.errors import ImageError, OptionError
from patchioner.cli.models import add_export_arguments
from tests.support.tiny import noise_photo

Capture = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_export_arguments(parser)
    options = parser.parse_args(arguments)
    return int(options.run(options))


def test_an_export_is_tried_and_reported(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("openvino")
    noise_photo().save(tmp_path / "a.png")
    out, photo = tmp_path / "out", str(tmp_path / "a.png")
    words = ["--format", "openvino", "--photos", photo, "--size", "48", "--fit", "pad"]
    assert run(str(checkpoint), str(out), *words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: openvino fp32, ")
    assert "tried on 1 photos" in said and " of 6 (size or fit differ, too)" in said
    assert "largest difference" in said and "cosine of tokens: mean 1.000000" in said
    loaded = Patchioner.from_pretrained(out, device="cpu")
    geometry = loaded.encode(noise_photo()).geometry
    assert (geometry.grid, geometry.fit) == ((3, 3), "pad")
    assert loaded.caption(noise_photo(), [Box(10, 10, 60, 40)])[0].text


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
