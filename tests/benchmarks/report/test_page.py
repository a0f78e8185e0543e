"""The report as a reader meets it: what stands in it, that it needs nothing else, that it is always the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import REPORT_FILE, write_report
from benchmarks.report.__main__ import main

EVIL = '<script>alert("1")</script> & \x00</article>'


def test_the_command_writes_it_beside_the_results(run: Callable[..., Path]) -> None:
    folder = run("region_set", "--baseline=whole")
    assert (folder / REPORT_FILE).read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("task", ["trace", "dense", "region_set", "image", "objects"])
def test_every_task_has_a_sound_page(task: str, run: Callable[..., Path], page: Any) -> None:
    """Tags nest, ids are unique, tables have captions, pictures have words, nothing points outside."""
    folder = run(task, "--baseline=whole" if task != "image" else "--baseline=oracle")
    text = (folder / REPORT_FILE).read_text()
    found = page(text)
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(found.all("caption")) == len(found.all("table")) > 3
    for tag, attributes, above in found.elements:
        for name in ("href", "src", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, value)
        if tag == "svg" and "svg" not in above:
            assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
        if tag == "th":
            assert attributes.get("scope") in ("row", "col", "rowgroup")
    targets = {a["href"] for t, a, _ in found.elements if t in ("use", "a")}
    assert {f"#{key}" for key in ids} >= targets
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert [a["lang"] for a in found.all("html")] == ["en"]
    levels = [int(tag[1]) for tag, _, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_it_says_what_was_measured(run: Callable[..., Path], data: Path, page: Any) -> None:
    path = data / "annotations" / "region_sets_dev.json"
    content = json.loads(path.read_text())
    content["1"]["no boxes here"] = []
    path.write_text(json.dumps(content))
    folder = run("region_set", "--baseline=whole")
    results = json.loads((folder / "results.json").read_text())
    words = page((folder / REPORT_FILE).read_text()).words()
    assert results["data"]["sha256"]["data"] in words
    assert "ColourModel" in words and results["versions"]["torch"] in words
    assert results["metrics"]["cider"]["made"] in words
    assert "1 rows left out" in words and "the list of boxes is empty" in words
    value = results["metrics"]["cider"]
    low, high = value["interval"]["low"], value["interval"]["high"]
    assert f"{value['value']:.1f} ({low:.1f} to {high:.1f})" in words
    assert "not measured here" in words and "111.6" in words
    assert "patchioner-mini against baseline: whole" in words
    assert "Repeated pairs" in words and "Grounding margin" in words


def test_samples_show_caption_references_and_baselines(run: Callable[..., Path], page: Any) -> None:
    folder = run("region_set", "--baseline=whole")
    found = page((folder / REPORT_FILE).read_text())
    said = {
        json.loads(line)["caption"]
        for name in ("predictions.jsonl", "baselines/whole/predictions.jsonl")
        for line in (folder / name).read_text().splitlines()
    }
    assert said <= set(found.text["dd"])
    assert {"this run", "baseline: whole"} <= set(found.text["dt"])
    assert "some red thing" in found.text["li"]
    photos = [a for a in found.all("image") if str(a.get("id")).startswith("photo-")]
    assert len(photos) == 3, "each photo once, however many samples show it"
    titles = [text for text in found.text["title"] if "marked" in text]
    assert any("a box, " in text for text in titles) and any("2 regions" in t for t in titles)


def test_every_text_is_escaped(run: Callable[..., Path], page: Any) -> None:
    folder = run("image", "--baseline=oracle")
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
    assert "<script>alert" not in text and "\x00" not in text
    found = page(text)
    assert len(found.all("script")) == 1
    assert EVIL.replace("\x00", "\ufffd") in " ".join(found.text["dd"])


def test_the_same_inputs_give_the_same_bytes(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run("region_set", "--baseline=whole")
    written = (folder / REPORT_FILE).read_bytes()
    run_json = folder / "run.json"
    run_json.write_text(run_json.read_text().replace("20", "19"))
    write_report([folder], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == written


def test_missing_and_broken_photos_are_noted(
    run: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("dense", "--baseline=whole")
    (data / "photos" / "000000000001.jpg").unlink()
    (data / "photos" / "000000000002.jpg").write_bytes(b"no photo")
    out = folder / "again.html"
    assert main([str(folder), "--out", str(out)]) == 0
    errors = capsys.readouterr().err
    assert "photo 000000000001.jpg is not in the report: no such file" in errors
    text = out.read_text()
    assert "000000000001.jpg: photo not shown, no such file" in text
    assert "000000000002.jpg: photo not shown, it cannot be opened" in text
    assert str(data) not in re.sub(r'class="value">[^<]*', "", text), "no path but in the settings"


def test_photos_can_lie_elsewhere(run: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    folder = run("dense", "--baseline=whole")
    (data / "photos").rename(tmp_path / "moved")
    out = tmp_path / "moved.html"
    words = [str(folder), "--out", str(out), "--images", str(tmp_path / "moved"), "--samples=1"]
    assert main(words) == 0
    assert "photo not shown" not in out.read_text()
    assert out.read_text().count("<article") == 2 * 3, "best and worst by each of three metrics"


def test_several_runs_on_one_page(run: Callable[..., Path], tmp_path: Path, page: Any) -> None:
    run("region_set", "--baseline=whole", name="sets")
    run("region_set", "--weighting=gaussian", "--variance=0.5", name="gaussian")
    run("trace", name="traces")
    out = tmp_path / "all.html"
    write_report([tmp_path / "runs"], out)
    found = page(out.read_text())
    words = found.words()
    assert "patchioner-mini (weighting gaussian, variance 0.5)" in words
    assert [a["data-task"] for a in found.all("section") if "data-task" in a] == ["trace", "region_set"]  # fmt: skip


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert "holds no results.json" in error and error.count("\n") == 1
