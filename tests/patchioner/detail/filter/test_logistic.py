from __future__ import annotations

import json

import numpy as np
import pytest

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.detail.filter.logistic import Logistic, fit_logistic


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


def test_separable_samples_end_too() -> None:
    fitted = fit_logistic(("x",), [[0.0], [1.0], [2.0], [3.0]], [False, False, True, True])
    assert np.isfinite(fitted.weights).all()


def test_it_survives_json() -> None:
    fitted = Logistic(("x", "y"), (0.1, 0.2), (1.0, 2.0), (0.5, -1 / 3), 0.25, 0.7)
    again = Logistic.from_json(json.loads(json.dumps(fitted.to_json())), "here")
    np.testing.assert_allclose(again([[1.0, 2.0]]), fitted([[1.0, 2.0]]), rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"bias": "x"},
        {"weights": [1.0]},
        {"deviation": [0.0, 1.0]},
        {"bias": float("nan")},
        {"mean": None},
    ],
)
def test_damage_is_refused(change: dict[str, object]) -> None:
    stored = Logistic(("x", "y"), (0.1, 0.2), (1.0, 2.0), (0.5, 1.0), 0.25).to_json()
    with pytest.raises(CheckpointError, match="here"):
        Logistic.from_json({**stored, **change}, "here")


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(OptionError, match="1 true and 2 false"):
        fit_logistic(("x",), [[0.0], [1.0], [2.0]], [True, False, False])
