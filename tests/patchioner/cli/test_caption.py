"""`patchioner caption` from arguments to output: it says what the library says, and one failure costs itself alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memory_bank import MemoryBank
from patchioner import Box, DecodeOptions, Patch, Patchioner, Weighting
from patchioner.regions import RegionFile
from tests.patchioner.cli.conftest import Command
from tests.support import MonkeyPatch

CAPTION = "caption --model tiny photo.png"
Told = Callable[[str], Any]


@pytest.fixture
def model(checkpoint: Path) -> Patchioner:
    return Patchioner.from_pretrained(checkpoint, device="cpu")


@pytest.fixture
def told(command: Command) -> Told:
    """What is said of the photo with `--json`."""
    return lambda words: json.loads(command(f"{CAPTION} --json {words}").out)["captions"]


def width(path: str) -> int:
    with Image.open(path) as picture:
        return picture.size[0]


def test_none_means_whole_images(command: Command, model: Patchioner) -> None:
    (caption,) = model.caption("photo.png")
    expected = f"photo.png (80 x 60)\n  1. whole image: {caption.text}  ({caption.score:.2f})\n"
    assert command(CAPTION) == (0, expected, "")


def test_regions_keep_the_order_of_the_command_line(told: Told) -> None:
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save("m.png")
    found = told(
        "--point 5,5.5 --box -5,0,9,9 --mask m.png --whole --trace '1,1 9,9' "
        "--polygon '0,0 9,0 0,9; 20,20 29,20 20,29' --region-set '0,0,9,9;10,10,19,19' --point 6,6"
    )
    polygon = [[[0, 0], [9, 0], [0, 9]], [[20, 20], [29, 20], [20, 29]]]
    assert [caption["region"] for caption in found] == [
        {"point": [5, 5.5]}, {"box": [-5, 0, 9, 9]}, {"mask": {"size": [60, 80], "counts": [0, 4800]}}, {"whole": True},
        {"trace": [[1, 1], [9, 9]], "normalized": False}, {"polygon": polygon},
        {"set": [{"box": [0, 0, 9, 9]}, {"box": [10, 10, 19, 19]}]}, {"point": [6, 6]},
    ]  # fmt: skip


def test_a_file_of_regions_is_parsed_once_and_a_bad_entry_costs_itself_alone(
    command: Command, monkeypatch: MonkeyPatch
) -> None:
    opened, read = list[object](), RegionFile.__init__

    def counted(self: RegionFile, path: Any, *rest: Any) -> None:
        opened.append(path)
        read(self, path, *rest)

    monkeypatch.setattr(RegionFile, "__init__", counted)
    entries = [{"box": [0, 0, 9, 9], "label": "corner"}, {"box": [5, 5]}, {"point": [700, 5]}]
    Path("regions.json").write_text(json.dumps({"regions": entries}))
    done = command(f"{CAPTION} photo.png --regions regions.json --point 5,5 --json")
    for line in map(json.loads, done.out.splitlines()):
        assert [caption["label"] for caption in line["captions"]] == [None, "corner"]
        assert len(line["errors"]) == 2
    assert (done.status, opened) == (1, ["regions.json"])
    assert done.err.count("[5, 5]") == 2 and done.err.count("700") == 2


def test_a_region_file_that_fits_several_photos_is_none_of_theirs(command: Command) -> None:
    for name in ("other", "own"):
        Path(name).mkdir()
    Path("other/photo.png").write_bytes(Path("photo.png").read_bytes())
    Path("own/photo.json").write_text('[{"box": [0, 0, 9, 9]}]')
    done = command(f"{CAPTION} other/photo.png --regions own")
    assert done.status == 1 and done.err.count("several photos") == 2


def test_a_bad_photo_costs_itself(command: Command) -> None:
    Path("bad.jpg").write_bytes(b"")
    Image.new("RGB", (20, 20)).save("small.png")
    done = command(f"{CAPTION} bad.jpg missing.png small.png photo.png --box 30,30,60,60")
    assert done.status == 1 and done.out.count("box 30,30,60,60") == 2
    errors = done.err.splitlines()
    assert len(errors) == 3 and all(line.startswith("patchioner: error: ") for line in errors)
    names = ("missing.png", "bad.jpg", "small.png")
    assert all(name in line for name, line in zip(names, errors, strict=True))
    before = Path("photo.png").read_bytes()
    assert command(f"{CAPTION} --out photo.png").status == 1  # a picture over the photo
    assert Path("photo.png").read_bytes() == before


SETTINGS: dict[str, dict[str, Any]] = {
    "--weighting cls": {"weighting": Weighting("cls")},
    "--weighting gaussian,variance=0.5 --rounding reference": {"weighting": Weighting("gaussian", 0.5, "reference")},
    "--style phrase": {"style": "phrase"},
    "--crop": {"crop": True},
    "--beam 3 --max-tokens 7": {"options": DecodeOptions("beam", max_tokens=7, beam_width=3)},
    "--beam 1": {"options": DecodeOptions()},
    "--temperature 0.7 --seed 5": {"options": DecodeOptions("sample", temperature=0.7, seed=5)},
}


@pytest.mark.parametrize("words", SETTINGS)
def test_settings_reach_the_model(told: Told, model: Patchioner, words: str) -> None:
    (found,) = told(f"--box 5,5,40,50 {words}")
    (caption,) = model.caption("photo.png", [Box(5, 5, 40, 50)], **SETTINGS[words])
    assert found["text"] == caption.text
    assert found["score"] == pytest.approx(caption.score, abs=1e-5)


def test_another_bank_is_used_and_one_of_another_model_refused(
    command: Command, told: Callable[[str], Any], model: Patchioner
) -> None:
    bank = MemoryBank(model.embed_text(["a bus", "a kite"]), ["a bus", "a kite"])
    bank.save("bank", dtype="float32")
    other = Patchioner(model.parts.with_bank(bank), device="cpu")
    assert told("--bank bank")[0]["text"] == other.caption("photo.png")[0].text
    MemoryBank(-bank.embeddings(), bank.texts).save("foreign")
    for line in (CAPTION, "convert tiny copy"):
        done = command(f"{line} --bank foreign")
        assert done.status == 1 and "built with another model's text tower" in done.err


def test_pictures_are_drawn_whole_or_not_at_all(command: Command, monkeypatch: MonkeyPatch) -> None:
    assert command(f"{CAPTION} photo.png --box 1,1,30,30 --out many").status == 0
    names = ["photo-2.overlay.png", "photo.overlay.png"]
    assert sorted(path.name for path in Path("many").iterdir()) == names
    kept = Path("many", names[0])
    assert width(str(kept)) > 720
    before = kept.read_bytes()

    def full(self: Image.Image, path: Path, **how: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert command(f"{CAPTION} --out {kept}").status == 1
    assert sorted(path.name for path in Path("many").iterdir()) == names
    assert kept.read_bytes() == before


def test_patches_caption_grid_and_draw_map(command: Command, told: Told, model: Patchioner) -> None:
    rows, columns = model.encode("photo.png").geometry.grid
    assert f"{rows} x {columns} patches" in command(f"{CAPTION} --patches --out map.png").out
    assert width("map.png") > 720
    found, due = told("--patches"), model.caption("photo.png", Patch.all)
    assert [one["text"] for one in found] == [one.text for one in due]
    assert found[5]["region"] == {"patch": list(divmod(5, columns))}


def test_labels_are_chosen_among_texts(command: Command, told: Told, model: Patchioner) -> None:
    texts, words = ["a red cat", "a blue bus", "a kite"], "--labels 'a red cat;a blue bus;a kite'"
    (label,) = model.label("photo.png", [Box(0, 0, 9, 9)], texts)
    last = command(f"{CAPTION} --box 0,0,9,9 {words}").out.splitlines()[-1]
    assert last == f"  1. box 0,0,9,9: {label.text}  ({100 * label.probability:.0f} %)"
    (caption,) = told(f"--box 0,0,9,9 {words}")
    assert caption["text"] == label.text
    for name in ("cosines", "probabilities"):
        due = dict(zip(texts, getattr(label, name), strict=True))
        assert caption[name] == pytest.approx(due, abs=1e-5)
    done = command(f"{CAPTION} {words} --min-confidence 1 --patches --out map.png")
    assert "none of these" in done.out and Path("map.png").is_file()
