"""Bad input end to end: the real command and a real (tiny) checkpoint say it in a line and fail.

What each reader refuses is tested beside the reader; here, that nothing on the way turns it into a traceback, a NaN or
a caption.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner.cli.main import main
from patchioner.model import Patchioner
from tests.support.tiny import noise_photo, tiny_parts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    Patchioner(tiny_parts(), device="cpu").save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one good photo of 96 x 64 pixels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    noise_photo().save("good.png")
    return tmp_path


def save_truncated(path: Path) -> None:
    noise_photo(200, 200).save(path)
    path.write_bytes(path.read_bytes()[:900])


BAD_PHOTOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.jpg": (lambda path: None, "no photo at 'missing.jpg'"),
    "empty.jpg": (lambda path: path.touch(), "0 bytes"),
    "cut.jpg": (save_truncated, "truncated"),
    "text.png": (lambda path: path.write_text("hello"), "not a picture"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_a_bad_photo_fails_and_the_good_one_is_still_captioned(
    place: Path, checkpoint: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = BAD_PHOTOS[name]
    make(place / name)
    status = main(["caption", name, "good.png", "--model", str(checkpoint)])
    out, error = capsys.readouterr()
    assert status == 1
    assert "good.png" in out
    assert message in error
    assert "Traceback" not in error


BAD_REGIONS = {
    "box off the photo": (
        ["--box", "200,200,300,300"],
        "lies outside what the model sees of the 96x64 image",
    ),
    "empty box": (["--box", "10,10,10,40"], "is empty or inverted"),
    "inverted box": (["--box", "40,40,10,10"], "is empty or inverted"),
    "box of NaN": (["--box", "nan,0,10,10"], "x1 of the box is nan"),
    "point off the photo": (["--point", "500,500"], "lies outside what the model sees"),
    "polygon of two points": (["--polygon", "0,0 10,10"], "at least 3 different points"),
    "trace outside": (["--trace", "500,500 600,600"], "no point inside the 96x64 image"),
    "empty mask": (["--mask", "empty.png"], "'empty.png' is empty"),
    "mask of another size": (["--mask", "small.png"], "the mask is 8x8 but the image is 96x64"),
}


@pytest.mark.parametrize("name", BAD_REGIONS)
def test_a_bad_region_fails_in_a_line(
    place: Path, checkpoint: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((64, 96), np.uint8)).save("empty.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save("small.png")
    flags, message = BAD_REGIONS[name]
    status = main(["caption", "good.png", *flags, "--model", str(checkpoint)])
    out, error = capsys.readouterr()
    assert status in (1, 2)
    assert "Traceback" not in error
    assert message in error
    assert "nan" not in out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("patchioner-minni", "unknown model 'patchioner-minni'"),
        ("./nowhere", "no checkpoint folder at './nowhere'"),
        ("owner/model", "use the model inside the package: 'patchioner-mini'"),
        (".", "config.json: no such file"),
    ],
)
def test_a_model_that_is_not_there_fails_in_a_line(
    place: Path, model: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", "good.png", "--model", model]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


ODD_PHOTOS: dict[str, Callable[[Path], object]] = {
    "moving.gif": lambda path: noise_photo().save(
        path, save_all=True, append_images=[noise_photo(seed=1)]
    ),
    "print.jpg": lambda path: noise_photo().convert("CMYK").save(path),
    "deep.png": lambda path: Image.fromarray(np.full((9, 9), 30000, np.uint16)).save(path),
    "palette.png": lambda path: noise_photo().quantize(16).save(path),
    "layered.png": lambda path: noise_photo().convert("RGBA").save(path),
    "line.png": lambda path: noise_photo(400, 1).save(path),
    "dot.png": lambda path: noise_photo(1, 1).save(path),
}


@pytest.mark.parametrize("name", ODD_PHOTOS)
def test_odd_photos_are_captioned(
    place: Path, checkpoint: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ODD_PHOTOS[name](place / name)
    assert main(["caption", name, "--model", str(checkpoint)]) == 0
    assert name in capsys.readouterr().out
