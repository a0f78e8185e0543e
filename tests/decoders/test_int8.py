"""Rounding to 8 bits is symmetric, bounded and row by row; products are exact."""

from __future__ import annotations

import pytest
import torch

from decoders.head import LARGEST, int8_product, quantize_rows


def test_rounding_is_bounded_and_minds_one_row_at_a_time() -> None:
    rows = (
        torch.randn(20, 33, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-6, 6, 20)[:, None]
    )
    rows[3] = 0
    values, scales = quantize_rows(rows)
    assert values.dtype == torch.int8
    assert int(values.abs().max()) == LARGEST
    assert bool(((values * scales[:, None] - rows).abs() <= scales[:, None] * 0.5001).all())
    alone = quantize_rows(rows[7:8])
    assert torch.equal(alone[0][0], values[7])
    assert not values[3].any()


@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (1, 300, 64), (7, 33, 768), (40, 5, 3)])
def test_products_are_exact(n: int, m: int, k: int) -> None:
    generator = torch.Generator().manual_seed(n)
    left = torch.randint(-127, 128, (n, k), generator=generator, dtype=torch.int8)
    right = torch.randint(-127, 128, (m, k), generator=generator, dtype=torch.int8)
    right[0] = left[0] = 127
    assert torch.equal(int8_product(left, right), left.int() @ right.int().T)


def test_products_are_exact_without_the_processors_own(monkeypatch: pytest.MonkeyPatch) -> None:
    left = torch.full((3, 768), 127, dtype=torch.int8)
    monkeypatch.delattr(torch, "_int_mm")
    assert int8_product(left, left).unique().tolist() == [127 * 127 * 768]
