from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchioner import Patchioner
from patchioner.detail.filter import DenseScorer
from patchioner.detail.filter.calibrate import main
from tests.support.tiny import TEXTS, noise_photo


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Arguments that name a small file of pairs and its photos."""
    rows = []
    for seed in range(6):
        noise_photo(seed=seed).save(tmp_path / f"{seed}.png")
        rows.append({"file_name": f"{seed}.png", "captions": [TEXTS[seed], TEXTS[seed + 6]]})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    return ["--pairs", str(tmp_path / "pairs.json"), "--photos", str(tmp_path)]


def test_a_calibrated_model_is_written_and_scores(
    data: list[str], tmp_path: Path, model: Patchioner, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    assert main([*data, "--out", str(out)], load_model=lambda name: model) == 0
    printed = json.loads(capsys.readouterr().out)
    again = Patchioner.from_pretrained(out, device="cpu")
    assert again.settings.calibration["detail"] == printed
    assert DenseScorer(again).threshold == printed["sentences"]["threshold"]
    assert "detail" not in model.settings.calibration


def test_write_changes_the_config_alone(
    data: list[str], tmp_path: Path, model: Patchioner, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    before = json.loads((folder / "config.json").read_text())
    assert main([*data, "--model", str(folder), "--write", "--seed", "1"]) == 0
    after = json.loads((folder / "config.json").read_text())
    assert after.pop("calibration")["detail"] == json.loads(capsys.readouterr().out)
    before.pop("calibration", None)
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write", "--model", "nowhere"], "--write needs the folder"),
        (["--limit", "1"], "--limit 1"),
        (["--false-accept", "2"], "false-accept rate of sentence"),
        (["--scorer", "blop:x"], "did you mean 'blip'"),
        (["--scorer", "blip:x", "--write"], "--out FILE.json"),
    ],
)
def test_mistakes_are_explained(
    data: list[str],
    arguments: list[str],
    message: str,
    model: Patchioner,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*data, *arguments], load_model=lambda name: model) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"file_name": "a"}]', '[{"file_name": "a", "captions": []}]']
)
def test_a_file_that_is_no_list_of_pairs_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.json").write_text(text)
    assert main(["--pairs", str(tmp_path / "pairs.json"), "--photos", str(tmp_path)]) == 1
    assert "pairs.json" in capsys.readouterr().err
