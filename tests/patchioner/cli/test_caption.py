"""`patchioner caption` from arguments to output: it says what the library says, and one failure costs itself alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Box, DecodeOptions, Patch, Patchioner, Weighting
from patchioner.regions import RegionFile
from tests.support import Capture, MonkeyPatch

Run = Callable[..., int]
Told = Callable[..., dict[str, Any]]


@pytest.fixture
def told(run: Run, photo: Path, capsys: Capture) -> Told:
    """What is said of the photo with `--json`."""

    def call(*words: object) -> dict[str, Any]:
        assert run(photo, *words, "--json") == 0
        (line,) = capsys.readouterr().out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    return call


def width(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.size[0]


def test_none_means_whole_images(run: Run, photo: Path, model: Patchioner, capsys: Capture) -> None:
    assert run(photo) == 0
    written, (caption,) = capsys.readouterr(), model.caption(photo)
    expected = f"{photo} (80 x 60)\n  1. whole image: {caption.text}  ({caption.score:.2f})\n"
    assert (written.out, written.err) == (expected, "")


def test_regions_keep_the_order_of_the_command_line(told: Told, tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save(tmp_path / "m.png")
    words = ["--point", "5,5.5", "--box", "-5,0,9,9", "--mask", tmp_path / "m.png", "--whole"]
    words += ["--trace", "1,1 9,9", "--polygon", "0,0 9,0 0,9; 20,20 29,20 20,29"]
    words += ["--region-set", "0,0,9,9;10,10,19,19", "--point", "6,6"]
    regions = [caption["region"] for caption in told(*words)["captions"]]
    polygon = [[[0, 0], [9, 0], [0, 9]], [[20, 20], [29, 20], [20, 29]]]
    assert regions == [
        {"point": [5, 5.5]}, {"box": [-5, 0, 9, 9]}, {"mask": {"size": [60, 80], "counts": [0, 4800]}}, {"whole": True},
        {"trace": [[1, 1], [9, 9]], "normalized": False}, {"polygon": polygon},
        {"set": [{"box": [0, 0, 9, 9]}, {"box": [10, 10, 19, 19]}]}, {"point": [6, 6]},
    ]  # fmt: skip


def test_a_file_of_regions_is_parsed_once_and_a_bad_entry_costs_itself_alone(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture, monkeypatch: MonkeyPatch
) -> None:
    opened, read = list[Path](), RegionFile.__init__

    def counted(self: RegionFile, path: Any, *rest: Any) -> None:
        opened.append(path)
        read(self, path, *rest)

    monkeypatch.setattr(RegionFile, "__init__", counted)
    file = tmp_path / "regions.json"
    entries = [{"box": [0, 0, 9, 9], "label": "corner"}, {"box": [5, 5]}, {"point": [700, 5]}]
    file.write_text(json.dumps({"regions": entries}))
    assert run(photo, photo, "--regions", file, "--point", "5,5", "--json") == 1
    written = capsys.readouterr()
    for line in map(json.loads, written.out.splitlines()):
        assert [caption["label"] for caption in line["captions"]] == [None, "corner"]
        assert len(line["errors"]) == 2
    assert len(opened) == 1
    assert written.err.count("[5, 5]") == 2 and written.err.count("700") == 2


def test_a_region_file_that_fits_several_photos_is_none_of_theirs(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("other", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "photo.png").write_bytes(photo.read_bytes())
    (tmp_path / "own" / "photo.json").write_text('[{"box": [0, 0, 9, 9]}]')
    assert run(photo, tmp_path / "other" / "photo.png", "--regions", tmp_path / "own") == 1
    assert capsys.readouterr().err.count("several photos") == 2


def test_a_bad_photo_costs_itself(run: Run, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    names = [tmp_path / name for name in ("bad.jpg", "missing.png", "small.png")]
    assert run(photo, *names, photo, "--box", "30,30,60,60") == 1
    written = capsys.readouterr()
    assert written.out.count("box 30,30,60,60") == 2
    errors = written.err.splitlines()
    assert [any(name.name in line for line in errors) for name in names] == [True] * 3
    assert len(errors) == 3 and all(line.startswith("patchioner: error: ") for line in errors)
    before = photo.read_bytes()
    assert run(photo, "--out", photo) == 1  # a picture over the photo
    assert photo.read_bytes() == before


SETTINGS: dict[str, dict[str, Any]] = {
    "--weighting cls": {"weighting": Weighting("cls")},
    "--weighting gaussian --variance 0.5 --rounding reference": {
        "weighting": Weighting("gaussian", 0.5, "reference")
    },
    "--crop": {"crop": True},
    "--beam 3 --max-tokens 7": {"options": DecodeOptions("beam", max_tokens=7, beam_width=3)},
    "--beam 1": {"options": DecodeOptions()},
    "--temperature 0.7 --seed 5": {"options": DecodeOptions("sample", temperature=0.7, seed=5)},
}


@pytest.mark.parametrize("words", SETTINGS)
def test_settings_reach_the_model(told: Told, photo: Path, model: Patchioner, words: str) -> None:
    (found,) = told("--box", "5,5,40,50", *words.split())["captions"]
    (caption,) = model.caption(photo, [Box(5, 5, 40, 50)], **SETTINGS[words])
    assert found["text"] == caption.text
    assert found["score"] == pytest.approx(caption.score, abs=1e-5)


def test_pictures_are_drawn_whole_or_not_at_all(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    assert run(photo, photo, "--box", "1,1,30,30", "--out", tmp_path / "many") == 0
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == ["photo-2.overlay.png", "photo.overlay.png"]
    kept = tmp_path / "many" / names[0]
    assert width(kept) > 720
    before = kept.read_bytes()

    def full(self: Image.Image, path: Path, **how: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert run(photo, "--out", kept) == 1
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == names
    assert kept.read_bytes() == before


def test_patches_caption_the_grid_and_draw_the_map(
    run: Run, told: Told, photo: Path, model: Patchioner, tmp_path: Path, capsys: Capture
) -> None:
    assert run(photo, "--patches", "--out", tmp_path / "map.png") == 0
    rows, columns = model.encode(photo).geometry.grid
    assert f"{rows} x {columns} patches" in capsys.readouterr().out
    assert width(tmp_path / "map.png") > 720
    found = told("--patches")["captions"]
    assert [one["text"] for one in found] == [o.text for o in model.caption(photo, Patch.all)]
    assert found[5]["region"] == {"patch": list(divmod(5, columns))}


def test_labels_are_chosen_among_texts(
    run: Run, told: Told, photo: Path, model: Patchioner, tmp_path: Path, capsys: Capture
) -> None:
    texts = ["a red cat", "a blue bus", "a kite"]
    (label,) = model.label(photo, [Box(0, 0, 9, 9)], texts)
    words = ["--labels", ";".join(texts), "--box", "0,0,9,9"]
    assert run(photo, *words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"  1. box 0,0,9,9: {label.text}  ({100 * label.probability:.0f} %)"
    (caption,) = told(*words)["captions"]
    assert caption["text"] == label.text
    for name in ("cosines", "probabilities"):
        due = dict(zip(texts, getattr(label, name), strict=True))
        assert caption[name] == pytest.approx(due, abs=1e-5)
    out = tmp_path / "map.png"
    assert run(photo, *words[:2], "--min-confidence", 1, "--patches", "--out", out) == 0
    assert "none of these" in capsys.readouterr().out and out.is_file()


def test_what_can_be_checked_is_checked_before_the_model_is_loaded(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture, monkeypatch: MonkeyPatch
) -> None:
    def never(*names: Any, **options: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Patchioner, "from_pretrained", never)
    missing = tmp_path / "missing"
    for words, status, says in (
        ([missing], 1, str(missing)), (["scikit-image:cofee"], 1, "coffee"),
        ([photo, "--regions", missing], 1, str(missing)), ([photo, "--bank", missing], 1, str(missing)),
        ([photo, "--temperature", "1", "--seed", str(2**128)], 2, "seed"),
        ([photo, "--out", "picture.xyz"], 2, "picture.xyz"), ([photo, photo, "--out", "one.png"], 1, "one.png"),
    ):  # fmt: skip
        assert run(*words) == status, words
        error = capsys.readouterr().err
        assert says in error and error.count("\n") <= 2 and "Traceback" not in error
