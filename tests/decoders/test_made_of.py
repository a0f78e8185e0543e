"""What is made of a matrix: once, anew after a change, and never kept by a copy."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from decoders.head import MadeOf


def counting() -> tuple[MadeOf[float], list[Tensor]]:
    seen: list[Tensor] = []

    def total(matrix: Tensor) -> float:
        seen.append(matrix)
        return float(matrix.sum())

    return MadeOf(total), seen


def test_it_is_made_once_and_anew_when_the_matrix_changes() -> None:
    made, seen = counting()
    matrix = torch.ones(2, 3)
    assert [made.of(matrix), made.of(matrix.detach())] == [6.0, 6.0]
    assert len(seen) == 1
    matrix.add_(1)
    assert made.of(matrix) == 12.0
    assert made.of(torch.zeros(2, 3)) == 0.0
    assert len(seen) == 3


def test_what_gains_nothing_is_asked_once() -> None:
    seen: list[int] = []
    made: MadeOf[int] = MadeOf(lambda matrix: seen.append(len(matrix)))
    matrix = torch.ones(2, 3)
    assert made.of(matrix) is None and made.of(matrix) is None
    assert seen == [2]


def test_of_weights_whose_changes_are_not_counted_nothing_is_made() -> None:
    made, seen = counting()
    made.of(torch.ones(1, 1))
    with torch.inference_mode():
        assert made.of(torch.ones(1, 1)) is None
    assert len(seen) == 1


def test_a_copy_starts_empty() -> None:
    made, seen = counting()
    matrix = torch.ones(1, 1)
    made.of(matrix)
    copy.deepcopy(made).of(matrix)
    assert len(seen) == 2
