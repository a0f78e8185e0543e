"""Corruption that makes text embeddings look like region embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner.adaptation.gap import GapNoise
from patchioner.base.errors import OptionError


@pytest.fixture
def rows() -> Tensor:
    return F.normalize(torch.randn(400, 16, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture
def bank() -> MemoryBank:
    return MemoryBank(torch.randn(30, 16, generator=torch.Generator().manual_seed(1)))


def corrupt(rows: Tensor, noise: GapNoise, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return noise(rows)


def test_rows_stay_unit_and_the_seed_decides(rows: Tensor, bank: MemoryBank) -> None:
    before = rows.clone()
    for noise in (GapNoise(None), GapNoise(bank), GapNoise(bank, share=0.5)):
        out = corrupt(rows, noise)
        torch.testing.assert_close(out.norm(dim=1), torch.ones(len(rows)))
        assert torch.equal(out, corrupt(rows, noise))
        assert not torch.equal(out, corrupt(rows, noise, seed=1))
    assert torch.equal(rows, before)


def test_no_noise_leaves_rows_and_the_projection_is_the_banks(
    rows: Tensor, bank: MemoryBank
) -> None:
    torch.testing.assert_close(corrupt(rows, GapNoise(None, 0.0, 0.0)), rows)
    projected = corrupt(rows, GapNoise(bank, 0.0, 0.0, temperature=0.05))
    torch.testing.assert_close(projected, bank.project(rows, temperature=0.05))


def test_strength_is_drawn_per_row_within_its_range(rows: Tensor) -> None:
    def angles(weakest: float, strongest: float) -> Tensor:
        return F.cosine_similarity(corrupt(rows, GapNoise(None, weakest, strongest)), rows)

    # Noise of sigma per coordinate has length about sigma * 4 in 16 dimensions: cosine 1 / sqrt(1 + 16 sigma^2).
    assert angles(0.1, 0.1).mean() == pytest.approx(1 / (1 + 16 * 0.01) ** 0.5, abs=0.01)
    assert angles(0.0, 0.5).std() > 3 * angles(0.1, 0.1).std()


def test_the_share_of_rows_is_projected(rows: Tensor, bank: MemoryBank) -> None:
    out = corrupt(rows, GapNoise(bank, 0.0, 0.0, share=0.3))
    kept = (out - rows).norm(dim=1) < 1e-5
    assert 0.6 < kept.float().mean() < 0.8
    torch.testing.assert_close(out[~kept], bank.project(rows)[~kept])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weakest": -0.1}, "-0.1"),
        ({"weakest": 0.2, "strongest": 0.1}, r"0\.2 to 0\.1"),
        ({"strongest": float("nan")}, "nan"),
        ({"share": 1.5}, r"1\.5"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GapNoise(None, **values)  # type: ignore[arg-type]
