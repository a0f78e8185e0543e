import json
from pathlib import Path
from typing import Any

import pytest

from patchioner import Patchioner
from patchioner.cli import main
from patchioner.detail.score import Calibration, DenseScorer, calibrate_model
from tests.support import Capture
from tests.support.tiny import TEXTS, noise_photo


def test_a_seed_gives_the_same(model: Patchioner, pairs: list[Any], calibration: Calibration) -> None:
    assert calibrate_model(model, pairs) == calibration != calibrate_model(model, pairs, seed=1)


@pytest.fixture
def data(tmp_path: Path, model: Patchioner) -> list[str]:
    """Arguments that name a small file of pairs, its photos, and a model's folder."""
    rows = []
    for seed in range(6):
        noise_photo(seed=seed).save(tmp_path / f"{seed}.png")
        rows.append({"file_name": f"{seed}.png", "captions": [TEXTS[seed], TEXTS[seed + 6]]})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    model.save_pretrained(tmp_path / "model")
    given = {"pairs": tmp_path / "pairs.json", "photos": tmp_path, "model": tmp_path / "model"}
    return ["calibrate", "--detail"] + [word for name, path in given.items() for word in (f"--{name}", str(path))]


def test_a_calibrated_model_is_written_and_scores(data: list[str], tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "model" / "config.json"
    before = json.loads(config.read_text())
    assert main(data) == 0 and json.loads(config.read_text()) == before
    printed = json.loads(capsys.readouterr().out)
    assert main([*data, "--write"]) == 0
    calibration = {**before.get("calibration", {}), "detail": printed}
    assert json.loads(config.read_text()) == {**before, "calibration": calibration}
    again = Patchioner.from_pretrained(tmp_path / "model", device="cpu")
    assert DenseScorer(again).threshold == printed["sentences"]["threshold"]


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["--write", "--model", "nowhere"], 1, "--write needs"), (["--limit", "1"], 1, "1 photos"),
    (["--boxes", "b.json"], 2, "--boxes"),
])  # fmt: skip
def test_mistakes_are_explained(
    data: list[str], arguments: list[str], status: int, message: str, capsys: Capture
) -> None:
    assert main([*data, *arguments]) == status
    assert message in capsys.readouterr().err
