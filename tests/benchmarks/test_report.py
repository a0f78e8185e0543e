import json
import shutil
from pathlib import Path

from PIL import Image

from benchmarks.report import LONG_SIDE, REPORT_FILE, Gallery, main, write_report
from benchmarks.run import write_reports
from tests.benchmarks.conftest import Finished, World
from tests.support import Capture
from tests.support.pages import Page, embedded

EVIL = '<script>alert("1")</script> & \x00</article>'


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
    moved = (world.root / "photos").rename(tmp_path / "moved")
    words = [str(folder), "--out", str(out), "--images", str(moved)]
    assert main(words) == 0
    assert "photo not shown" not in out.read_text()
    (moved / "photo_01.jpg").unlink()
    (moved / "photo_02.jpg").write_bytes(b"no photo")
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
    for region in (whole, whole, box):
        shown = gallery.picture(str(tmp_path), "a.jpg", region, "said")
    size = LONG_SIDE // 2, LONG_SIDE
    assert f'viewBox="0 0 {size[0]} {size[1]}"' in shown and "<title>said</title>" in shown
    stored = [embedded(found["href"]) for found in Page(gallery.definitions()).all("image")]
    assert [image.size for image in stored] == [size, size], "once with each region"
    reds = [image.getpixel((50, 1))[0] > 150 for image in stored]  # type: ignore[index]
    assert reds == [False, True]
