"""Products by oneDNN against torch's own, and where they are left to torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from patchioner.base import products
from patchioner.base.products import has_onednn, is_plain, linear


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (100, 768, 2048), (2, 384, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_equals_torch(shape: tuple[int, int, int], turned: bool) -> None:
    n, k, m = shape
    inputs = rows(n, k, 0)
    weight = rows(k, m, 1).T if turned else rows(m, k, 1)
    found = linear(inputs, weight)
    wanted = (inputs.double() @ weight.T.double()).float()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * k**0.5)
    assert found.shape == (n, m)


def test_stretches_of_a_larger_matrix() -> None:
    bank, out = rows(50, 16, 0), rows(2, 9, 1)
    for part in (slice(0, 9), slice(40, 50), slice(3, 50, 4)):
        torch.testing.assert_close(linear(bank[:3], bank[part]), bank[:3] @ bank[part].T)
    torch.testing.assert_close(linear(out, bank[:9].T), out @ bank[:9])


def test_no_rows_and_no_columns() -> None:
    assert linear(torch.empty(0, 4), torch.ones(3, 4)).shape == (0, 3)
    assert linear(torch.empty(2, 0), torch.empty(3, 0)).tolist() == [[0.0] * 3] * 2


def test_what_is_not_a_number_stays() -> None:
    inputs = rows(2, 64, 0)
    inputs[1, 3] = torch.nan
    found = linear(inputs, rows(70, 64, 1))
    assert found[0].isfinite().all() and found[1].isnan().all()


def test_gradients_and_other_types_are_torchs() -> None:
    inputs, weight = rows(2, 4, 0).requires_grad_(), rows(3, 4, 1)
    assert not is_plain(inputs) and not is_plain(inputs.double())
    linear(inputs, weight).sum().backward()
    torch.testing.assert_close(inputs.grad, weight.sum(dim=0).expand(2, 4))
    doubled = linear(inputs.detach().double(), weight.double())
    assert doubled.dtype == torch.float64


def test_without_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not has_onednn()
    monkeypatch.setattr(products, "onednn_linear", None)  # it is not called
    inputs, weight = rows(2, 4, 0), rows(3, 4, 1)
    assert torch.equal(linear(inputs, weight), functional.linear(inputs, weight))
