"""Cosine scores: by hand, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from benchmarks.metrics import best_reference_cosine, clip_s, pac_s, with_references
from benchmarks.metrics.text_cosine import unit_rows
from patchioner.base.errors import OptionError

SPACE = {"up": [0.0, 2.0], "right": [5.0, 0.0], "between": [3.0, 4.0], "down": [0.0, -1.0]}


def embed(texts: Sequence[str]) -> list[list[float]]:
    return [SPACE[text.removeprefix("A photo depicts ")] for text in texts]


def test_image_scores_by_hand() -> None:
    """cos 0.6, and an opposite that counts zero."""
    images, captions = [[1.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [-1.0, 0.0]]
    assert clip_s(images, captions)[1] == pytest.approx([150.0, 0.0])
    assert pac_s(images, captions)[1] == pytest.approx([120.0, 0.0])
    assert clip_s(images, captions)[0] == pytest.approx(75.0)


def test_tensors_are_taken() -> None:
    images = torch.tensor([[2.0, 0.0]], requires_grad=True)
    assert clip_s(images, torch.tensor([[1.0, 0.0]], dtype=torch.float16))[0] == pytest.approx(250)


def test_column_p_is_the_best_cosine() -> None:
    mean, scores = best_reference_cosine(
        ["up", "up", "up"], [["right", "between"], ["down"], ["up"]], embed
    )
    assert scores == pytest.approx([80.0, -100.0, 100.0])
    assert mean == pytest.approx(80 / 3)


def test_each_text_is_embedded_once_with_the_prompt() -> None:
    asked: list[str] = []

    def watch(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return embed(texts)

    best_reference_cosine(["up", "up"], [["up", "right"], ["right"]], watch)
    assert asked == ["A photo depicts up", "A photo depicts right"]
    asked.clear()
    best_reference_cosine(["up"], [["right"]], watch, prompt="")
    assert asked == ["up", "right"]


def test_harmonic_mean_by_hand() -> None:
    """2 * 150 * 50 / 200 = 75; zero or below on either side: zero."""
    mean, scores = with_references([150.0, 0.0, 80.0, 0.0], [50.0, 50.0, -10.0, 0.0])
    assert scores.tolist() == [75.0, 0.0, 0.0, 0.0]
    assert mean == 18.75


def test_column_p_is_not_refpac_s() -> None:
    """What the published table calls RefPAC-S leaves the image out."""
    images, captions = np.array([[1.0, 0.0]]), np.array(embed(["between"]))
    column, cosines = best_reference_cosine(["between"], [["up"]], embed)
    true_score, _ = with_references(pac_s(images, captions)[1], cosines)
    assert column == pytest.approx(80.0)
    assert true_score == pytest.approx(2 * 120 * 80 / 200)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1.0], "shape"),
        (np.zeros((0, 3)), "shape"),
        ([[1.0], [0.0]], "vector 1"),
        ([[math.nan]], "vector 0"),
    ],
)
def test_rows_without_direction(rows: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        unit_rows(rows, "vector")


def test_shapes_that_do_not_pair() -> None:
    with pytest.raises(OptionError, match="of one width"):
        clip_s([[1.0, 0.0]], [[1.0]])
    with pytest.raises(OptionError, match="one of each per sample"):
        with_references([1.0], [1.0, 2.0])
    with pytest.raises(OptionError, match="not finite"):
        with_references([math.nan], [1.0])
    with pytest.raises(OptionError, match="1 rows for 2 texts"):
        best_reference_cosine(["a"], [["b"]], lambda texts: [[1.0]])
