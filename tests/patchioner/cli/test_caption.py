"""`patchioner caption` from arguments to output, with a small model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner.aggregate import Weighting

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def _lines(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_no_region_means_the_whole_image(run: Run, photo: Path, capsys: Capture) -> None:
    assert run("caption", photo) == 0
    written = capsys.readouterr()
    assert written.out == f"{photo} (80 x 60)\n  1. whole image: a wholeimage  (-0.50)\n"
    assert written.err == ""


def test_regions_keep_the_order_of_the_command_line(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save(tmp_path / "m.png")
    words = [
        "--point",
        "5,5",
        "--box",
        "-5,0,9,9",
        "--mask",
        tmp_path / "m.png",
        "--trace",
        "1,1 9,9",
    ]
    words += ["--polygon", "0,0 9,0 0,9", "--region-set", "0,0,9,9;10,10,19,19", "--point", "6,6"]
    assert run("caption", photo, *words, "--json") == 0
    (line,) = _lines(capsys)
    kinds = [next(iter(caption["region"])) for caption in line["captions"]]
    assert kinds == ["point", "box", "mask", "trace", "polygon", "set", "point"]


def test_regions_from_a_file_follow_those_given(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "regions.json"
    file.write_text(json.dumps({"regions": [{"box": [0, 0, 9, 9], "label": "corner"}]}))
    assert run("caption", photo, "--regions", file, "--point", "5,5", "--json") == 0
    (line,) = _lines(capsys)
    assert [caption["label"] for caption in line["captions"]] == [None, "corner"]


def test_one_bad_photo_does_not_stop_the_rest(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    assert run("caption", bad, photo, tmp_path / "missing.png", photo) == 1
    written = capsys.readouterr()
    assert written.out.count("wholeimage") == 2
    errors = written.err.splitlines()
    assert len(errors) == 2
    assert "bad.jpg" in errors[0] and "missing.png" in errors[1]


def test_a_region_off_one_photo_loses_only_that_photo(
    run: Run, model: Any, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    assert (
        run("caption", photo, tmp_path / "small.png", photo, "--box", "30,30,60,60", "--json") == 1
    )
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 2
    assert "small.png" in written.err and "Traceback" not in written.err
    assert model.encoded == 3, "a photo is encoded once, also when its batch fails"


@pytest.mark.parametrize(
    "words", [["--box", "100,100,120,120"], ["--point", "500,5"], ["--trace", "100,100 200,200"],
              ["--polygon", "90,90 99,90 90,99"]],
)  # fmt: skip
def test_regions_off_the_photo_exit_1(
    run: Run, photo: Path, capsys: Capture, words: list[str]
) -> None:
    assert run("caption", photo, *words) == 1
    written = capsys.readouterr()
    assert written.err.startswith("patchioner: error:") and written.err.count("\n") == 1
    assert written.out == ""


def test_a_mask_of_another_size_exits_1(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    Image.new("L", (81, 60), 255).save(tmp_path / "m.png")
    assert run("caption", photo, "--mask", tmp_path / "m.png") == 1
    assert "81" in capsys.readouterr().err


def test_an_unknown_model_offers_the_close_one(run: Run, photo: Path, capsys: Capture) -> None:
    assert run("caption", photo, "--model", "patchioner-minni") == 1
    assert "did you mean 'patchioner-mini'" in capsys.readouterr().err


def test_photos_share_batches(run: Run, model: Any, photo: Path) -> None:
    assert run("caption", *[photo] * 10) == 0
    assert [call["photos"] for call in model.calls] == [8, 2]
    model.calls.clear()
    assert run("caption", *[photo] * 4, *["--point", "5,5"] * 200) == 0
    assert [call["photos"] for call in model.calls] == [2, 2]


def test_settings_reach_the_model_and_default_to_its_own(run: Run, model: Any, photo: Path) -> None:
    run("caption", photo)
    assert (model.calls[-1]["weighting"], model.calls[-1]["options"]) == (None, None)
    run("caption", photo, "--weighting", "gaussian", "--variance", "0.5", "--rounding", "reference")
    assert model.calls[-1]["weighting"] == Weighting("gaussian", 0.5, "reference")


def test_decoding_settings_reach_the_model(run: Run, model: Any, photo: Path) -> None:
    pytest.importorskip("torch")
    run("caption", photo, "--beam", "3", "--max-tokens", "7")
    options = model.calls[-1]["options"]
    assert (options.strategy, options.beam_width, options.max_tokens) == ("beam", 3, 7)
    run("caption", photo, "--beam", "1")
    assert model.calls[-1]["options"].strategy == "greedy"
    run("caption", photo, "--temperature", "0.7", "--seed", "5")
    options = model.calls[-1]["options"]
    assert (options.strategy, options.temperature, options.seed) == ("sample", 0.7, 5)


def test_pictures_of_one_photo_and_of_several(run: Run, photo: Path, tmp_path: Path) -> None:
    assert run("caption", photo, "--box", "1,1,30,30", "--out", tmp_path / "o.png") == 0
    assert _size(tmp_path / "o.png")[0] > 720
    assert run("caption", photo, photo, "--out", tmp_path / "many") == 0
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == ["photo-2.overlay.png", "photo.overlay.png"]


def test_several_photos_and_one_picture_exit_1(run: Run, photo: Path, capsys: Capture) -> None:
    assert run("caption", photo, photo, "--out", "o.png") == 1
    assert "give a folder" in capsys.readouterr().err


def test_patches_caption_the_grid_and_draw_the_map(
    run: Run, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run("caption", photo, "--patches", "--out", tmp_path / "map.png") == 0
    out = capsys.readouterr().out
    assert "4 x 4 patches" in out and "50.0 %  left" in out and "50.0 %  right" in out
    assert _size(tmp_path / "map.png")[0] > 720
    assert run("caption", photo, "--patches", "--json") == 0
    (line,) = _lines(capsys)
    assert len(line["captions"]) == 16
    assert line["captions"][5]["region"] == {"patch": [1, 1]}


def test_another_bank_and_crops_reach_the_model(run: Run, model: Any, photo: Path) -> None:
    run("caption", photo)
    assert model.loaded == ("patchioner-mini", None, None)
    assert (model.kept, model.calls[-1]["crop"]) == (None, None)  # the model's own settings
    run("caption", photo, "--bank", "folder", "--device", "cpu", "--crop", "--weighting", "cls")
    assert model.loaded == ("patchioner-mini", "cpu", "folder")
    assert (model.kept, model.calls[-1]["crop"]) == (True, True)
    assert model.calls[-1]["weighting"] == Weighting("cls")


def test_labels_are_chosen_among_texts(run: Run, model: Any, photo: Path, capsys: Capture) -> None:
    words = ["--labels", "a cat;a dog;a bus", "--box", "0,0,9,9", "--weighting", "uniform"]
    assert run("caption", photo, *words) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  1. box 0,0,9,9: a bus  (75 %)"
    assert model.calls[-1]["texts"] == ("a cat", "a dog", "a bus")
    assert model.calls[-1]["weighting"] == Weighting()
    assert run("caption", photo, *words, "--json") == 0
    (caption,) = _lines(capsys)[0]["captions"]
    assert caption == {
        "region": {"box": [0, 0, 9, 9]},
        "label": None,
        "text": "a bus",
        "probability": 0.75,
        "probabilities": {"a cat": 0.25, "a dog": 0.0, "a bus": 0.75},
    }


def test_labels_of_patches_and_in_pictures(
    run: Run, model: Any, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "classes.txt").write_text("a cat\na dog\n")
    words = ["--labels", tmp_path / "classes.txt"]
    assert run("caption", photo, "--patches", *words, "--out", tmp_path / "map.png") == 0
    assert "100.0 %  a dog" in capsys.readouterr().out
    assert run("caption", photo, photo, *words, "--box", "1,1,30,30", "--out", tmp_path / "o") == 0
    assert len(list((tmp_path / "o").iterdir())) == 2
    assert [call["photos"] for call in model.calls] == [1, 2]
