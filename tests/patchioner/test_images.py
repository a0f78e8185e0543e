"""Pictures of every kind come out upright and RGB; what is no picture is refused by name."""

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from patchioner.backbones import preprocess
from patchioner.base.errors import ImageError
from patchioner.geometry import Preprocessing
from patchioner.images import Quiet, ReducedPhoto, cut_out, load_image, load_reduced, to_upright, why_blank, why_doubted
from tests.support import MonkeyPatch
from tests.support.tiny import noise_photo, oriented

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def pixels(source: object) -> np.ndarray:
    image = load_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_a_path_a_stream_bytes_a_pillow_image_and_an_array_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path)
    data = path.read_bytes()
    with Image.open(path) as opened, path.open("rb") as stream:
        for source in (
            *(path, str(path), opened, stream, Image.fromarray(PIXELS), PIXELS),
            *(data, bytearray(data), memoryview(data), io.BytesIO(data)),
        ):
            np.testing.assert_array_equal(pixels(source), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    # By the definition of the tag.
    turned = PIXELS.transpose(1, 0, 2)
    mirrored = PIXELS[:, ::-1], PIXELS[::-1, ::-1], PIXELS[::-1]
    upright = [PIXELS, *mirrored, turned, turned[:, ::-1], turned[::-1, ::-1], turned[::-1]]
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(PIXELS).save(path, exif=oriented(orientation))
    np.testing.assert_array_equal(pixels(path), upright[orientation - 1])
    with Image.open(path) as opened:
        np.testing.assert_array_equal(pixels(opened), upright[orientation - 1])
    places = np.argwhere(np.ones(PIXELS.shape[:2])) + 0.5
    seen = to_upright(places[:, ::-1], PIXELS.shape[1::-1], orientation).astype(int)
    found = upright[orientation - 1][seen[:, 1], seen[:, 0]]
    np.testing.assert_array_equal(found, PIXELS.reshape(-1, 3))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    alpha, path = np.array([[0, 128, 255]], np.uint8), tmp_path / "layered.png"
    layered = np.dstack([np.full((1, 3, 3), 100, np.uint8), alpha])
    grey = Image.merge("LA", [Image.fromarray(layered[..., 0]), Image.fromarray(alpha)])
    for source in (layered, Image.fromarray(layered), grey):
        assert np.abs(pixels(source)[..., 0].astype(int) - [255, 177, 100]).max() <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    for transparent, second in ((None, [200, 100, 50]), (1, [255, 255, 255])):
        palette.save(path, transparency=transparent)
        assert pixels(path).tolist() == [[[10, 20, 30], second]]


def test_deep_pixels_are_scaled(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    files = [tmp_path / "deep.png", tmp_path / "deep.tiff"]
    for path in files:
        Image.fromarray(deep).save(path)
    for source in (deep, Image.fromarray(deep), *files):
        assert pixels(source)[0, :, 0].tolist() == [0, 1, 128, 255]
    for levels in (np.array([[0, 0.5, 1]], np.float32), np.array([[0, 128, 255]], np.int32)):
        assert pixels(Image.fromarray(levels))[0, :, 0].tolist() == [0, 128, 255]
    assert pixels(Image.fromarray(np.array([[0, 65535]], np.int32)))[0, :, 0].tolist() == [0, 255]


def test_tensors_are_channels_first_and_arrays_channels_last() -> None:
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for source in (tensor, (tensor / 255.0).requires_grad_(), PIXELS / 255.0):
        np.testing.assert_array_equal(pixels(source), PIXELS)
    grey = np.repeat(PIXELS[..., :1], 3, axis=2)
    for one in (PIXELS[..., 0], PIXELS[..., :1], tensor[:1], tensor[0]):
        np.testing.assert_array_equal(pixels(one), grey)
    half = (tensor / 255.0).to(torch.bfloat16)
    assert np.abs(pixels(half).astype(int) - PIXELS).max() <= 1
    assert pixels(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(("source", "message"), [
    (np.full((4, 4, 3), np.nan), "NaN"), (torch.full((3, 4, 4), torch.inf), "infinite"),
    (np.full((4, 4, 3), 200.0), "divide by 255"), (np.full((4, 4, 3), -0.5), r"0\.\.1, found -0\.5"),
    (np.zeros((4, 4, 3), np.int64), "int64"), (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
    (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"), (torch.zeros(5, 4, 4), r"a tensor \(3, H, W\)"),
    (Image.fromarray(np.array([[0, np.nan]], np.float32)), "NaN"), ("x" * 5000, "no photo at"), (None, "NoneType"),
    (b"bytes of a file", "not a picture"), (io.StringIO("text"), "'rb'"), ([[1, 2], [3]], "list"),
])  # fmt: skip
def test_arrays_that_are_no_picture_are_refused(source: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(source)


def test_files_are_refused_by_name(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "letter.jpg").write_text("Dear Sir or Madam")
    Image.new("1", (40, 40)).save(tmp_path / "vast.png")
    with (tmp_path / "vast.png").open("r+b") as file:
        file.truncate(45)  # it says its size, and has no pixels that could be read
    monkeypatch.setattr("patchioner.images.MAX_PIXELS", 1000)
    for name, message in (
        ("nowhere.jpg", "no photo at .*nowhere"),
        ("", "no photo at"),
        ("empty.jpg", "empty.*0 bytes"),
        ("letter.jpg", "letter.*not a picture"),
        ("vast.png", "vast.*make it smaller"),
    ):
        with pytest.raises(ImageError, match=message):
            load_image(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses twice of it itself
    with pytest.raises(ImageError, match=r"vast\.png.*make it smaller"):
        load_image(tmp_path / "vast.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tiff", ".bmp"])
def test_truncated_files_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    static().save(path)
    data = path.read_bytes()
    for share in (0.9, 0.5, 0.02):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageError, match="cut"):
            load_image(path)


MEASURE = """
import resource, sys
from patchioner.images import load_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = load_image(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(*image.size, *image.getpixel((5000, 9999)), (after - before) // 1024)
"""


def test_a_hundred_megapixels_work_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "vast.png"
    image = Image.new("P", (10_000, 10_000), 0)
    image.putpalette([10, 20, 30])
    image.save(path, compress_level=1)
    command = [sys.executable, "-c", MEASURE, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    *seen, megabytes = map(int, out.split())
    assert seen == [10_000, 10_000, 10, 20, 30]
    assert megabytes < 700  # 300 for the result, and at most as much again on the way


def jpeg(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    """A photo without a symmetry that would hide a wrong rotation."""
    noise_photo(*size, seed=3).save(path, quality=95, exif=oriented(orientation))
    return path


def fixed(size: tuple[int, int]) -> tuple[int, int]:
    """Whatever the photo: 100 pixels across the longer side."""
    return (100, 75) if size[0] >= size[1] else (75, 100)


def test_the_scale_needed_and_the_same_limit(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    for size, reduced in (((1600, 1200), (200, 150)), ((900, 700), (225, 175))):
        photo = load_reduced(jpeg(tmp_path / "a.jpg", size), fixed)
        assert isinstance(photo, ReducedPhoto)
        assert (photo.image.size, photo.image.mode, photo.size) == (reduced, "RGB", size)
    monkeypatch.setattr("patchioner.images.MAX_PIXELS", 900 * 700 - 1)
    with pytest.raises(ImageError, match="900 x 700"):
        load_reduced(tmp_path / "a.jpg", fixed)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotations_and_odd_sizes_show_the_same(tmp_path: Path, orientation: int) -> None:
    size = (803, 605) if orientation % 2 else (1601, 1203)
    path = jpeg(tmp_path / "a.jpg", size, orientation)
    photo, whole = load_reduced(path, fixed), load_image(path)
    assert isinstance(photo, ReducedPhoto)
    assert photo.size == whole.size == (size if orientation < 5 else size[::-1])
    # The box matters: without it, the same photo is off by part of a pixel.
    unboxed = ReducedPhoto(photo.image, photo.size, (0.0, 0.0, *photo.image.size))
    settings = Preprocessing("aspect", 64, 16)
    full, mine, without = (preprocess(one, settings) for one in (whole, photo, unboxed))
    assert mine[1] == full[1]
    error = float((mine[0] - full[0]).abs().mean())
    assert error < 0.02 and error <= float((without[0] - full[0]).abs().mean()) + 1e-3


def test_whole_pixels_are_cut() -> None:
    whole = np.resize(PIXELS, (5, 6, 3))
    for bounds, (left, top, right, bottom) in (
        ((1.5, 2.0, 3.2, 4.0), (1, 2, 4, 4)),
        ((2.2, 2.2, 2.4, 2.4), (2, 2, 3, 3)),
        ((1.9999999999, 0.0, 4.0000000001, 5.0), (2, 0, 4, 5)),  # by way of the patch grid
        ((6.0, 5.0, 6.0, 5.0), (5, 4, 6, 5)),
    ):
        crop = np.asarray(cut_out(Image.fromarray(whole), bounds))
        np.testing.assert_array_equal(crop, whole[top:bottom, left:right])


def test_quiet_blocks_of_several_threads_may_overlap() -> None:
    before, quiet = list(warnings.filters), Quiet()
    for step in (quiet.__enter__, quiet.__enter__, quiet.__exit__):
        step()
    # The other thread is still inside, and keeps what it asked for.
    assert warnings.filters[0][0] == "ignore"
    quiet.__exit__()
    assert list(warnings.filters) == before


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_corrupt_exif_does_not_cost_the_photo(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    for exif in (b"Exif\0\0no header at all", b"Exif\0\0II*\0\xff\xff\xff\x00"):
        noise_photo().save(path, exif=exif)
        assert load_image(path).size == (96, 64)


def static(quality: int | None = None) -> Image.Image:
    """Noise, as it is or as a JPEG gives it back."""
    noise, written = np.random.default_rng(0).integers(0, 256, (448, 448, 3)), io.BytesIO()
    picture = Image.fromarray(noise.astype(np.uint8))
    if quality is None:
        return picture
    picture.save(written, "JPEG", quality=quality)
    return Image.open(written).convert("RGB")


def test_photos_that_show_nothing() -> None:
    for size in ((448, 448), (3, 5), (641, 7), (640, 2000), (1, 1), (1, 20000)):
        assert "one colour" in (why_blank(Image.new("RGB", size, (10, 200, 30))) or "")
    for quality in (None, 95, 30):
        assert "noise" in (why_blank(static(quality)) or "")
    bird = Image.new("RGB", (448, 1448), "white")
    bird.paste((0, 0, 0), (100, 100, 108, 108))
    for photo in (bird, noise_photo(), noise_photo(3, 3)):
        assert why_blank(photo) is None
    assert (why_doubted(static()) or bird) == (why_blank(static()), True)


def drawn(kind: str) -> Image.Image:
    """A page of text, a screenshot, a drawing."""
    picture = Image.new("RGB", (640, 480), (240, 240, 243) if kind == "screen" else "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for row in range(12):
        if kind == "drawing":
            pen.ellipse((40 * row, 30 * row, 40 * row + 150, 30 * row + 90), "red", "black", 3)
            continue
        if kind == "screen":
            pen.rounded_rectangle((180, 40 * row, 600, 40 * row + 34), 8, "white", (200, 200, 210))
        pen.text((200, 40 * row + 8), "the quick brown fox jumps over a lazy dog", "black", font)
    return picture


@pytest.mark.parametrize("kind", ["page", "screen", "drawing"])
def test_what_is_no_photo_is_told(kind: str) -> None:
    picture, written = drawn(kind), io.BytesIO()
    assert why_blank(picture) is None
    for seen in (picture, picture.resize((320, 240))):
        found = why_doubted(seen)
        assert found is not None and not found.blank and "no photo" in found.reason
    if kind == "page":
        picture.save(written, "JPEG", quality=90)
        assert why_doubted(Image.open(written).convert("RGB"))
    photos = pytest.importorskip("skimage.data")
    for name in ("coffee", "chelsea", "astronaut", "rocket"):
        assert why_doubted(Image.fromarray(getattr(photos, name)())) is None
