"""`patchioner detail` from the command line: texts, JSON, files, pages, regions, and wrong usage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.calibration import Logistic
from patchioner.cli.main import main
from patchioner.detail.describe import PatchionerDescriber
from patchioner.detail.score import SENTENCE_INPUTS, Calibration, Evidence
from patchioner.detail.values import DetailRegion, Photo, Statement, from_json
from tests.support import Capture, MonkeyPatch
from tests.support.tiny import noise_photo, tiny_parts

Run = Callable[..., int]


def constant(inputs: tuple[str, ...]) -> Logistic:
    """Finds everything supported."""
    zeros, ones = (0.0,) * len(inputs), (1.0,) * len(inputs)
    return Logistic(inputs, zeros, ones, zeros, 2.0, 0.5)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = tiny_parts()
    objects = Evidence(Patchioner(parts)).object_inputs
    calibration = Calibration(constant(SENTENCE_INPUTS), constant(objects))
    settings = replace(parts.settings, calibration={"detail": calibration.to_json()})
    folder = tmp_path_factory.mktemp("models") / "tiny"
    Patchioner(replace(parts, settings=settings)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def sensible_words(monkeypatch: MonkeyPatch) -> None:
    """A random decoder writes no sentences; everything else is real."""

    def describe(
        self: PatchionerDescriber, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        things = ("bus", "dog", "table", "kite", "boat", "horse", "cup", "bench")
        return [
            Statement(region.id, sample, f"A {colour} {things[place % len(things)]} stands there.")
            for place, region in enumerate(regions)
            for sample, colour in enumerate(("red", "green"))
        ]

    monkeypatch.setattr(PatchionerDescriber, "describe", describe)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        noise_photo(seed=number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(checkpoint: Path) -> Run:
    def call(*words: object) -> int:
        return main(["detail", *map(str, words), "--model", str(checkpoint), "--samples", "2"])

    return call


def test_the_paragraph_comes_out(run: Run, photos: Path, capsys: Capture) -> None:
    assert run(photos / "0.png", "--max-words", 30) == 0
    assert 0 < len(capsys.readouterr().out.split()) <= 30
    assert run(photos) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert blocks[0].startswith(f"{photos / '0.png'}:\n")
    assert len([block for block in blocks if block.strip()]) == 3


def test_json_has_the_provenance(run: Run, photos: Path, capsys: Capture) -> None:
    box = "10,5,60,50"
    assert run(photos / "0.png", photos / "1.png", "--json", "--box", box, "--grid", "1x2") == 0
    _, line = capsys.readouterr().out.splitlines()
    name, caption = from_json(json.loads(line))
    assert name == str(photos / "1.png")
    assert [one.kind for one in caption.regions] == ["global", "user", "grid", "grid"]
    assert caption.regions[1].box == (10, 5, 60, 50)
    known = {verdict.claim.id for verdict in caption.kept}
    assert {claim for sentence in caption.sentences for claim in sentence.claim_ids} <= known
    assert all(verdict.reason for verdict in caption.dropped)


def test_a_file_and_a_page(run: Run, photos: Path, capsys: Capture) -> None:
    out, page = photos.parent / "out.jsonl", photos.parent / "out.html"
    assert run(photos, "--out", out, "--report", page) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 described, 0 had their line already, of 3 photos" in captured.err
    before, text = out.read_bytes(), page.read_text()
    assert [json.loads(line)["photo"] for line in before.splitlines()] == [
        str(photos / f"{number}.png") for number in range(3)
    ]
    assert text.count("<section") == 3
    assert text.count("data:image/png") > 0, "no heat map"
    assert not (photos.parent / "out.jsonl.cache").exists()
    assert run(photos, "--out", out, "--report", page) == 0
    assert "0 described, 3 had" in capsys.readouterr().err
    assert (out.read_bytes(), page.read_text()) == (before, text)


def test_unsupported_sentences_leave_nothing(run: Run, photos: Path, capsys: Capture) -> None:
    page, photo = photos.parent / "x.html", photos / "0.png"
    words = (photo, "--min-support", 1, "--report", page)
    assert run(*words) == 0
    captured = capsys.readouterr()
    assert captured.out == "\n"
    assert "nothing is said: none of" in captured.err
    assert run(*words, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["text"], values["sentences"], values["kept"]) == ("", [], [])
    assert "unsupported" in values["reason"]
    assert {"unsupported"} <= {verdict["reason"] for verdict in values["dropped"]}
    written = page.read_text()
    assert "Nothing is said of this photo: none of" in written and "<s>" in written


def test_a_list_with_regions_of_its_own(run: Run, photos: Path, capsys: Capture) -> None:
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[20:40, 30:70] = 255
    Image.fromarray(mask).save(photos / "mask.png")
    listed = photos / "list.json"
    entry = {"mask": "mask.png", "label": "thing"}
    listed.write_text(json.dumps(["0.png", {"photo": "1.png", "regions": [entry]}]))
    assert run(listed, "--json", "--box", "0,0,50,50") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    given = [region for region in first["regions"] if region["kind"] == "user"]
    assert [region["box"] for region in given] == [[0, 0, 50, 50]]
    (own,) = [region for region in second["regions"] if region["kind"] == "user"]
    assert (own["name"], own["box"]) == ("thing", [30, 20, 70, 40])
    assert sum(own["mask"]["counts"][1::2]) == 20 * 40


def test_one_bad_photo_costs_itself_alone(run: Run, photos: Path, capsys: Capture) -> None:
    (photos / "1.png").write_bytes(b"?")
    assert run(photos, "--json", "--scorer", "none") == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err.count("error") == 1 and "1.png" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.txt"], "does not end in .jsonl"),
        (["--report", "x"], "does not end in .html"),
        (["--json", "--out", "x.jsonl"], "leave --json out"),
        (["--max-cost", "1"], "--price-in"),
        (["--grid", "0x3"], "ROWSxCOLUMNS"),
        (["--min-support", "2"], "0 to 1"),
        (["--min-support", "0.5", "--scorer", "none"], "needs a scorer"),
        (["--calibration", "x"], "belongs to"),
        (["--preset", "best"], "invalid choice"),
        (["--describer", "opnai:qwen:7b"], "patchioner, hf:MODEL, openai:MODEL"),
        (["--describer", "patchioner:x"], "patchioner:x"),
        (["--fuser", "hf:"], "hf:MODEL"),
        (["--scorer", "blap:x"], "blip:MODEL"),
        (["--scorer", "clip"], "clip:NAME"),
        (["--scorer", "clip:ViT-B-32"], "give --calibration FILE"),
    ],
)
def test_wrong_usage(run: Run, words: list[str], message: str, capsys: Capture) -> None:
    assert run("photo.png", *words) == 2
    assert message in capsys.readouterr().err


def test_options_of_servers_without_a_server(run: Run, photos: Path, capsys: Capture) -> None:
    assert run(photos / "0.png", "--base-url", "http://x/v1", "--key-env", "X") == 0
    err = capsys.readouterr().err
    assert "--base-url does nothing" in err and "--key-env does nothing" in err
    assert main(["detail", "a.png", "--model", "none"]) == 2
    assert "name another --describer" in capsys.readouterr().err
