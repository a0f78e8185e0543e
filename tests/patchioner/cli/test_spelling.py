"""How regions, texts, numbers and photos are spelled, what is refused, and which do not go together."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import ImageError, OptionError, UnknownNameError
from patchioner.cli import spelling
from patchioner.cli.spelling import SAMPLES, PhotoSource, find_photos, picture_name, plan_pictures
from patchioner.regions import Mask, Trace
from tests.support import Capture

Run = Callable[..., int]


def test_masks_traces_and_texts_come_from_files(tmp_path: Path) -> None:
    assert spelling.parse_texts("a cat; a dog ;;a cat") == ("a cat", "a dog")
    array = np.eye(7, dtype=bool)
    Image.fromarray(array.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert spelling.parse_mask(str(tmp_path / "mask.png")) == Mask(array)
    (tmp_path / "trace.json").write_text(json.dumps([[1, 2], [3, 4]]))
    assert spelling.parse_trace(str(tmp_path / "trace.json")) == Trace([(1, 2), (3, 4)])
    (tmp_path / "classes.txt").write_text("a cat\n\na dog; or two\n")
    assert spelling.parse_texts(str(tmp_path / "classes.txt")) == ("a cat", "a dog; or two")
    (tmp_path / "classes.json").write_text('["a cat", "a dog"]')
    assert spelling.parse_texts(str(tmp_path / "classes.json")) == ("a cat", "a dog")


@pytest.mark.parametrize(("parse", "text"), [
    (spelling.parse_texts, ""), (spelling.parse_texts, "only one"), (spelling.parse_texts, "nowhere.txt"),
    (spelling.positive_int, "0"), (spelling.positive_int, "1.5"), (spelling.positive, "0"),
    (spelling.positive, "inf"), (spelling.not_negative, "-1"), (spelling.not_negative, "nan"),
    (spelling.number(0, 1), "1.5"),
])  # fmt: skip
def test_what_is_not_of_the_form_is_named(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=repr(text)):
        parse(text)


@pytest.mark.parametrize(("words", "says"), [
    ("--box 1,2,3", "X1,Y1,X2,Y2"), ("--box a,b,c,d", "a,b,c,d"), ("--box 30,0,10,10", "inverted"),
    ("--point 7", "X,Y"), ("--trace=", "trace"), ("--trace nowhere.json", "nowhere.json"),
    ("--mask nowhere.png", "nowhere.png"), ("--region-set 0,0,9", "0,0,9"), ("--beam 0", "'0'"),
    ("--variance 1", "--weighting gaussian"), ("--temperature 1 --beam 3", "--beam"),
    ("--patches --point 1,1", "--patches"), ("--weighting gausian", "gaussian"), ("--labels c.txt", "c.txt"),
    ("--labels a;b --beam 3", "--beam"), ("--labels a;b --plain", "--plain"), ("--normalized", "--regions"),
])  # fmt: skip
def test_wrong_usage(run: Run, photo: Path, capsys: Capture, words: str, says: str) -> None:
    assert run(photo, *words.split()) == 2
    written = capsys.readouterr()
    assert says in written.err
    assert written.err.count("\n") == 1 and written.out == ""


def test_samples_come_with_scikit_image() -> None:
    pytest.importorskip("skimage")
    for name in SAMPLES:
        (source,) = find_photos([f"scikit-image:{name}"])
        assert min(source.load().size) >= 300 and source.file_name == f"{name}.png"
    with pytest.raises(UnknownNameError, match="coffee"):
        PhotoSource("scikit-image:cofee").check()


def test_pictures_of_photos_never_overwrite_each_other(tmp_path: Path) -> None:
    one, two, twin = (PhotoSource(name) for name in ("a/x.jpg", "x-2.png", "b/x.png"))
    assert plan_pictures(None, [one, two]) == [None, None]
    assert plan_pictures(Path("out.png"), [one]) == [Path("out.png")]
    assert plan_pictures(Path("out"), [one]) == [Path("out/x.overlay.png")]
    (tmp_path / "v1.5").mkdir()
    assert plan_pictures(tmp_path / "v1.5", [one]) == [tmp_path / "v1.5" / "x.overlay.png"]
    assert len(set(plan_pictures(Path("out"), [one, twin, two]))) == 3
    with pytest.raises(OptionError, match=r"out\.png"):
        plan_pictures(Path("out.png"), [one, two])
    assert picture_name("a.JPG") == Path("a.JPG")
    for name in ("a.txt", "b/a.pdf"):
        with pytest.raises(OptionError, match=name):
            picture_name(name)


def test_a_folder_is_its_photos(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "below").mkdir()
    photo = Image.new("RGB", (8, 6))
    for name in ("a.jpg", "below/b.jp2", "below/C.TGA", "d.jfif"):
        photo.save(tmp_path / name, format="JPEG" if name.endswith("jfif") else None)
    for name in ("._a.jpg", "e.cr2", "notes.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = [str(Path(one.name).relative_to(tmp_path)) for one in find_photos([str(tmp_path)])]
    assert found == ["a.jpg", "below/C.TGA", "below/b.jp2", "d.jfif", "gone.png"]
    said = capsys.readouterr().err
    assert "1 .cr2, 1 .txt" in said and "._a" not in said
    several = find_photos([str(tmp_path / "below"), str(tmp_path / "gone.png")])
    assert [Path(one.name).name for one in several] == ["C.TGA", "b.jp2", "gone.png"]
    with pytest.raises(ImageError, match=r"gone\.png"):
        several[-1].load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty"):
        find_photos([str(tmp_path / "empty")])
