"""Sampling draws from the nucleus, with the right frequencies."""

from __future__ import annotations

import numpy as np
import torch

from decoders.search import close_ranks, draw, row_uniforms

LOGITS = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()


def frequencies(top_p: float, count: int = 4000) -> list[float]:
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(LOGITS.expand(count, 4), uniforms, top_p)
    return (torch.bincount(tokens, minlength=4) / count).tolist()


def test_whole_distribution() -> None:
    np.testing.assert_allclose(frequencies(1.0), [0.1, 0.5, 0.15, 0.25], atol=1e-3)


def test_nucleus_keeps_the_smallest_set_and_renormalises() -> None:
    np.testing.assert_allclose(frequencies(0.7), [0, 2 / 3, 0, 1 / 3], atol=1e-3)
    np.testing.assert_allclose(frequencies(0.4), [0, 1, 0, 0])


def test_extreme_uniforms_stay_inside() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, -torch.inf, 0.0]])
    uniforms = torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    assert set(draw(logits, uniforms, 1.0).tolist()) <= {0, 2}


def test_uniforms_belong_to_the_row_and_grow_without_changing() -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    few, many = row_uniforms(rows, 4, seed=1), row_uniforms(rows.flip(0), 9, seed=1)
    np.testing.assert_array_equal(few, many[::-1, :4])
    assert len(np.unique(few)) == 12


def test_ranks_close_with_as_few_moves_as_there_are_gaps() -> None:
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        going = torch.rand(40, generator=generator) < share
        kept = close_ranks(going)
        assert sorted(kept.tolist()) == going.nonzero().flatten().tolist()
        moved = int((kept != torch.arange(len(kept))).sum())
        assert moved == int((~going[: len(kept)]).sum())
