"""How regions, texts, numbers and photos are spelled, what is refused, and which do not go together."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import ImageError, OptionError, UnknownNameError
from patchioner.cli import spelling
from patchioner.cli.spelling import SAMPLES, PhotoSource, find_photos, picture_name, plan_pictures
from patchioner.regions import Mask, Trace
from tests.support import Capture


def test_masks_traces_and_texts_come_from_files() -> None:
    array = np.eye(7, dtype=bool)
    Image.fromarray(array.astype(np.uint8) * 255).save("mask.png")
    assert spelling.parse_mask("mask.png") == Mask(array)
    Path("trace.json").write_text(json.dumps([[1, 2], [3, 4]]))
    assert spelling.parse_trace("trace.json") == Trace([(1, 2), (3, 4)])
    assert spelling.parse_texts("a cat; a dog ;;a cat") == ("a cat", "a dog")
    Path("classes.txt").write_text("a cat\n\na dog; or two\n")
    assert spelling.parse_texts("classes.txt") == ("a cat", "a dog; or two")
    Path("classes.json").write_text('["a cat", "a dog"]')
    assert spelling.parse_texts("classes.json") == ("a cat", "a dog")


def test_pictures_of_photos_never_overwrite_each_other() -> None:
    one, two, twin = (PhotoSource(name) for name in ("a/x.jpg", "x-2.png", "b/x.png"))
    assert plan_pictures(None, [one, two]) == [None, None]
    assert plan_pictures(Path("out.png"), [one]) == [Path("out.png")]
    Path("v1.5").mkdir()
    for folder in ("out", "v1.5"):
        assert plan_pictures(Path(folder), [one]) == [Path(folder, "x.overlay.png")]
    assert len(set(plan_pictures(Path("out"), [one, twin, two]))) == 3
    with pytest.raises(OptionError, match=r"out\.png"):
        plan_pictures(Path("out.png"), [one, two])
    assert picture_name("a.JPG") == Path("a.JPG")
    with pytest.raises(OptionError, match=r"b/a\.pdf"):
        picture_name("b/a.pdf")


def test_a_folder_is_its_photos(capsys: Capture) -> None:
    Path("all/below").mkdir(parents=True)
    for name in ("a.jpg", "below/b.jp2", "below/C.TGA", "d.jfif"):
        form = "JPEG" if name.endswith("jfif") else None
        Image.new("RGB", (8, 6)).save(Path("all", name), format=form)
    for name in ("._a.jpg", "e.cr2", "notes.txt", ".DS_Store"):
        Path("all", name).write_bytes(b"no picture")
    Path("all/gone.png").symlink_to("nowhere.png")
    found = [one.name.removeprefix("all/") for one in find_photos(["all"])]
    assert found == ["a.jpg", "below/C.TGA", "below/b.jp2", "d.jfif", "gone.png"]
    said = capsys.readouterr().err
    assert "1 .cr2, 1 .txt" in said and "._a" not in said
    several = find_photos(["all/below", "all/gone.png"])
    assert [Path(one.name).name for one in several] == ["C.TGA", "b.jp2", "gone.png"]
    with pytest.raises(ImageError, match=r"gone\.png"):
        several[-1].load()
    Path("empty").mkdir()
    with pytest.raises(ImageError, match="empty"):
        find_photos(["empty"])


def test_samples_come_with_scikit_image() -> None:
    pytest.importorskip("skimage")
    for name in SAMPLES:
        (source,) = find_photos([f"scikit-image:{name}"])
        assert min(source.load().size) >= 300 and source.file_name == f"{name}.png"
    with pytest.raises(UnknownNameError, match="coffee"):
        PhotoSource("scikit-image:cofee").check()
