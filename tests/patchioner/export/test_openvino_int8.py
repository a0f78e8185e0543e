"""int8 weights: levels and scales against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from patchioner.export import int8_levels


@pytest.mark.parametrize("axis", [0, 1])
def test_levels_are_within_half_a_step_of_the_values(axis: int) -> None:
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    levels, scale = int8_levels(values, axis=axis)
    assert levels.dtype == np.int8
    assert scale.shape == ((1, 7) if axis == 0 else (5, 1))
    for row, column in np.ndindex(values.shape):
        slice_ = values[:, column] if axis == 0 else values[row]
        step = float(np.abs(slice_).max()) / 127
        assert abs(float(levels[row, column]) * step - float(values[row, column])) <= step * 0.501


def test_a_row_of_zeros_stays_zero() -> None:
    levels, scale = int8_levels(np.zeros((2, 3), dtype=np.float32), axis=1)
    assert not levels.any()
    assert np.isfinite(scale).all()
