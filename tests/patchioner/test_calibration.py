from pathlib import Path

import numpy as np
import pytest

from patchioner.base.errors import CheckpointError, TextError
from patchioner.calibration import Logistic, fit_logistic, read_pairs


@pytest.mark.parametrize(
    "change",
    [{"bias": "x"}, {"weights": [1.0]}, {"deviation": [0.0, 1.0]}, {"bias": float("nan")},
     {"mean": None}, {"inputs": ["x"]}],
)  # fmt: skip
def test_a_logistic_survives_json_and_damage_is_refused(change: dict[str, object]) -> None:
    fitted = Logistic(("x", "y"), (0.1, 0.2), (1.0, 2.0), (0.5, -1 / 3), 0.25, 0.7)
    stored = fitted.to_json()
    again = Logistic.from_json(stored, "here")
    np.testing.assert_allclose(again([[1.0, 2.0]]), fitted([[1.0, 2.0]]), rtol=1e-5)
    with pytest.raises(CheckpointError, match="here"):
        Logistic.from_json({**stored, **change}, "here")


def test_the_fit_is_where_the_slope_of_the_penalised_loss_is_nought() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 3)) * [1.0, 5.0, 0.1] + 2
    answers = rows[:, 0] + 0.2 * rows[:, 1] + generator.normal(size=200) > 3
    fitted = fit_logistic(("a", "b", "c"), rows, answers, penalty=2.0)
    standard = (rows - rows.mean(0)) / rows.std(0)
    share = np.where(answers, 100 / answers.sum(), 100 / (~answers).sum())
    error = share * (fitted(rows) - answers)
    np.testing.assert_allclose(standard.T @ error + 2.0 * np.array(fitted.weights), 0, atol=1e-6)
    assert error.sum() == pytest.approx(0, abs=1e-6)
    assert fitted(rows)[answers].mean() > fitted(rows)[~answers].mean() + 0.2


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"file_name": "a"}]', '[{"file_name": "a", "captions": []}]']
)
def test_a_file_that_is_no_list_of_pairs_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(TextError, match=r"pairs\.json"):
        read_pairs(tmp_path / "pairs.json", tmp_path, limit=3)
