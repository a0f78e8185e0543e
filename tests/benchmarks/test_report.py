"""The report as a reader meets it: what stands in it, that it needs nothing else, that it is always the same."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.command import CIDER_WARNING
from benchmarks.data import TASK_NAMES
from benchmarks.report import LONG_SIDE, REPORT_FILE, Gallery, main, write_report
from benchmarks.run import write_reports
from tests.benchmarks.conftest import Finished, World
from tests.support import Capture
from tests.support.pages import Page, embedded

EVIL = '<script>alert("1")</script> & \x00</article>'


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_task_has_a_sound_page(task: str, finished: Finished) -> None:
    """Tags nest, ids are unique, tables have captions, pictures have words, nothing points outside."""
    text = (finished(task) / REPORT_FILE).read_text()
    found = Page(text)
    found.check_alone()
    assert len(found.all("caption")) == len(found.all("table")) >= 3
    for attributes in found.all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert (CIDER_WARNING in text) is (task != "objects")


def test_it_says_what_was_measured(world: World, tmp_path: Path) -> None:
    world.change("region_set", lambda content: content["photo_00"].update({"no boxes here": []}))
    folder = tmp_path / "out"
    write_reports([world.run(folder, baselines=("whole",))])
    results = json.loads((folder / "results.json").read_text())
    found = Page((folder / REPORT_FILE).read_text())
    interval = results["metrics"]["stem_f"]["interval"]
    for words in (
        results["data"]["sha256"]["data"], results["model"]["decoder_sha256"], results["versions"]["torch"],
        results["metrics"]["cider"]["made"], "1 rows left out", "the list of boxes is empty", "not measured here",
        f"{interval['value']:.1f} ({interval['low']:.1f} to {interval['high']:.1f})", "111.6",
        "tiny against baseline: whole", "how often two regions of one photo get the same caption",
    ):  # fmt: skip
        assert words in found.words
    assert {"this run", "baseline: whole"} <= set(found.text["dt"])
    photos = [a for a in found.all("image") if str(a.get("id")).startswith("photo-")]
    assert len(photos) <= 27, "each region once, however many samples show it"
    assert any("2 regions" in text for text in found.text["title"] if "marked" in text)


def test_every_text_is_escaped(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished("image"), tmp_path / "image"))
    predictions, path = folder / "predictions.jsonl", folder / "results.json"
    said = [json.loads(line) for line in predictions.read_text().splitlines()]
    evil = [json.dumps(one | {"caption": EVIL, "references": [EVIL]}) for one in said]
    predictions.write_text("\n".join(evil))
    results = json.loads(path.read_text())
    results["label"] = results["settings"]["model"] = EVIL
    path.write_text(json.dumps(results))
    write_report([folder], folder / "evil.html")
    text = (folder / "evil.html").read_text()
    assert "<script" not in text and "\x00" not in text
    assert EVIL.replace("\x00", "\ufffd") in " ".join(Page(text).text["dd"])


def test_photos_missing_broken_or_elsewhere(world: World, tmp_path: Path, capsys: Capture) -> None:
    folder, out = tmp_path / "dense", tmp_path / "again.html"
    write_reports([world.run(folder, task="dense")])
    (folder / "run.json").write_text("{}")
    write_report([folder], out)
    assert out.read_bytes() == (folder / REPORT_FILE).read_bytes(), "of equal inputs, equal bytes"
    photos = world.root / "photos"
    photos.rename(tmp_path / "moved")
    words = [str(folder), "--out", str(out)]
    assert main([*words, "--images", str(tmp_path / "moved")]) == 0
    assert "photo not shown" not in out.read_text()
    (tmp_path / "moved").rename(photos)
    (photos / "photo_01.jpg").unlink()
    (photos / "photo_02.jpg").write_bytes(b"no photo")
    assert main(words) == 0
    assert "photo photo_01.jpg is not in the report: no such file" in capsys.readouterr().err
    assert "photo_02.jpg: photo not shown, it cannot be opened" in out.read_text()
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_photos_are_small_upright_and_stored_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying
    Image.new("RGB", (1200, 600), "blue").save(tmp_path / "a.jpg", exif=exif)
    gallery, whole, box = Gallery(), {"whole": True}, {"box": [0, 0, 300, 300]}
    show = partial(gallery.picture, str(tmp_path), "a.jpg")
    pictures = [show(whole, "one"), show(whole, "two"), show(box, "three")]
    size = LONG_SIDE // 2, LONG_SIDE
    assert f'viewBox="0 0 {size[0]} {size[1]}"' in pictures[0]
    assert "<title>two</title>" in pictures[1]
    stored = [str(found["href"]) for found in Page(gallery.definitions()).all("image")]
    assert len(stored) == 2, "each photo once with each region"
    for href, red in zip(stored, (False, True), strict=True):
        image = embedded(href)
        assert image.format == "JPEG" and image.size == size
        pixel = image.getpixel((50, 1))
        assert isinstance(pixel, tuple) and (pixel[0] > 150) is red
