from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.detail.clients.budget import Budget, Prices, Usage


def test_the_call_over_the_limit_is_refused_and_not_counted() -> None:
    budget = Budget(max_calls=2)
    budget.reserve()
    budget.reserve()
    with pytest.raises(FutileError, match="2 calls is spent"):
        budget.reserve()
    assert budget.usage.calls == 2
    assert issubclass(FutileError, DetailError)


def test_nothing_may_be_spent_of_nothing() -> None:
    with pytest.raises(FutileError):
        Budget(max_calls=0).reserve()


def test_costs_are_counted_by_the_prices_and_end_at_the_limit() -> None:
    budget = Budget(max_cost=0.5, prices=Prices(1.0, 10.0))
    budget.reserve()
    budget.record(tokens_in=100_000, tokens_out=20_000)
    assert replace(budget.usage, cost=0.0) == Usage(1, 1, 100_000, 20_000)
    assert budget.usage.cost == pytest.approx(0.3)
    budget.reserve()
    budget.record(tokens_in=100_000, tokens_out=20_000, estimated=True)
    with pytest.raises(FutileError, match=r"0\.6000 of 0\.5000 after 2 calls"):
        budget.reserve()
    assert budget.usage.as_json()["estimated"] == 1


def test_threads_never_go_over() -> None:
    budget = Budget(max_calls=100)

    def take(_: int) -> bool:
        try:
            budget.reserve()
        except FutileError:
            return False
        budget.record(tokens_in=3, tokens_out=1)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(400))) == 100
    assert budget.usage == Usage(100, 100, 300, 100)


@pytest.mark.parametrize(
    ("max_calls", "max_cost", "prices", "names"),
    [
        (-1, None, None, "max_calls is -1"),
        (True, None, None, "max_calls"),
        (None, float("nan"), Prices(1, 1), "max_cost is nan"),
        (None, 1.0, None, "no price is known"),
        (None, 1.0, Prices(), "no price is known"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    max_calls: int | None, max_cost: float | None, prices: Prices | None, names: str
) -> None:
    with pytest.raises(OptionError, match=names):
        Budget(max_calls, max_cost, prices=prices)


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(OptionError, match="tokens_out"):
        Prices(1.0, -1.0)
