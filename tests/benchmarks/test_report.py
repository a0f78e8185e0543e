"""The report as a reader meets it: what stands in it, that it needs nothing else, that it is always the same."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.command import CIDER_WARNING
from benchmarks.data import TASK_NAMES
from benchmarks.report import LONG_SIDE, REPORT_FILE, Gallery, main, write_report
from benchmarks.run import write_reports
from tests.benchmarks.conftest import World

EVIL = '<script>alert("1")</script> & \x00</article>'


class Page(HTMLParser):
    """Every element as (tag, attributes, tags above it), every text by the tag around it; tags must nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs), list(self._open)))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.text.setdefault(self._open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def words(self) -> str:
        return " ".join(text for texts in self.text.values() for text in texts)


@pytest.fixture
def run(world: World, tmp_path: Path) -> Any:
    """Runs one task with a baseline and writes its report."""

    def start(task: str, name: str = "out", **changes: Any) -> Path:
        baselines = ("oracle",) if task == "image" else ("whole",)
        folder = tmp_path / "runs" / name
        write_reports([world.run(folder, task=task, baselines=baselines, **changes)])
        return folder

    return start


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_task_has_a_sound_page(task: str, run: Any) -> None:
    """Tags nest, ids are unique, tables have captions, pictures have words, nothing points outside."""
    text = (run(task) / REPORT_FILE).read_text()
    found = Page(text)
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(found.all("caption")) == len(found.all("table")) >= 3
    for tag, attributes, above in found.elements:
        for name in ("href", "src"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, value)
        if tag == "svg" and "svg" not in above:
            assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
    targets = {a["href"] for t, a, _ in found.elements if t in ("use", "a")}
    assert {f"#{key}" for key in ids} >= targets
    assert not re.search(r"https?://|@import|url\((?!#)", text) and not found.all("script")
    assert (CIDER_WARNING in text) is (task != "objects")


def test_it_says_what_was_measured(run: Any, world: World) -> None:
    world.change("region_set", lambda content: content["photo_00"].update({"no boxes here": []}))
    folder = run("region_set")
    results = json.loads((folder / "results.json").read_text())
    found = Page((folder / REPORT_FILE).read_text())
    words = found.words()
    assert results["data"]["sha256"]["data"] in words
    assert results["model"]["decoder_sha256"] in words and results["versions"]["torch"] in words
    assert results["metrics"]["cider"]["made"] in words
    assert "1 rows left out" in words and "the list of boxes is empty" in words
    value = results["metrics"]["stem_f"]
    low, high = value["interval"]["low"], value["interval"]["high"]
    assert f"{value['value']:.1f} ({low:.1f} to {high:.1f})" in words
    assert "not measured here" in words and "111.6" in words
    assert "tiny against baseline: whole" in words
    assert "how often two regions of one photo get the same caption" in words
    said = {
        json.loads(line)["caption"]
        for line in (folder / "predictions.jsonl").read_text().splitlines()[:3]
    }
    assert {"this run", "baseline: whole"} <= set(found.text["dt"]) and said
    photos = [a for a in found.all("image") if str(a.get("id")).startswith("photo-")]
    assert len(photos) <= 27, "each region once, however many samples show it"
    assert any("2 regions" in text for text in found.text["title"] if "marked" in text)


def test_every_text_is_escaped(run: Any) -> None:
    folder = run("image")
    for path in (folder / "predictions.jsonl", folder / "results.json"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        values = [json.loads(line) for line in lines]
        for value in values:
            if "caption" in value:
                value |= {"caption": EVIL, "references": [EVIL]}
            else:
                value["label"] = value["settings"]["model"] = EVIL
        path.write_text("\n".join(map(json.dumps, values)))
    out = folder / "evil.html"
    write_report([folder], out)
    text = out.read_text()
    assert "<script" not in text and "\x00" not in text
    assert EVIL.replace("\x00", "\ufffd") in " ".join(Page(text).text["dd"])


def test_photos_missing_broken_or_elsewhere(
    run: Any, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run("dense"), tmp_path / "again.html"
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
    pictures = [
        gallery.picture(str(tmp_path), "a.jpg", region, words)
        for region, words in ((whole, "one"), (whole, "two"), (box, "three"))
    ]
    size = LONG_SIDE // 2, LONG_SIDE
    assert (
        f'viewBox="0 0 {size[0]} {size[1]}"' in pictures[0] and "<title>two</title>" in pictures[1]
    )
    stored = [str(found["href"]) for found in Page(gallery.definitions()).all("image")]
    assert len(stored) == 2, "each photo once with each region"
    for href, red in zip(stored, (False, True), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(href.partition(",")[2]))) as image:
            assert image.format == "JPEG" and image.size == size
            pixel = image.getpixel((50, 1))
            assert isinstance(pixel, tuple) and (pixel[0] > 150) is red
