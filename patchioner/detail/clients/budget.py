"""How much may be asked, and what was: calls, tokens, price.

Knows: numbers. Does NOT know: servers, or what a call is for.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace

from patchioner.base.errors import FutileError, OptionError


@dataclass(frozen=True)
class Prices:
    """What a server takes, in any one currency.

    Attributes:
        tokens_in: per million tokens sent, pictures included as the server counts them.
        tokens_out: per million tokens that came back.

    Raises:
        OptionError: a price below 0, or not finite.

    Example:
        >>> Prices(0.15, 0.60).of(2_000_000, 1_000_000)
        0.9
    """

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tokens_in", "tokens_out"):
            _not_negative(f"price of {name}", getattr(self, name))

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """The price of that many tokens."""
        return (self.tokens_in * tokens_in + self.tokens_out * tokens_out) / 1e6


@dataclass(frozen=True)
class Usage:
    """What was used.

    Attributes:
        calls: requests sent, those that failed included.
        answered: of these, how many gave an answer.
        tokens_in, tokens_out: as the server counted them; estimated where it did not.
        estimated: answered calls whose tokens were estimated.
        cost: by the prices given.
    """

    calls: int = 0
    answered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    estimated: int = 0
    cost: float = 0.0

    def as_json(self) -> dict[str, object]:
        """Names and numbers."""
        return dict(vars(self))


class Budget:
    """Counts, and refuses the call that would go over. Threads may share one; answers from a cache are free.

    Calls are counted when they are sent, so `max_calls` is never exceeded. The price of a call is known when it is
    answered, so `max_cost` can be exceeded by the calls that were under way when it was reached.

    Args:
        max_calls: most requests, those that failed and were tried again included; None for any number.
        max_cost: most to spend, in the currency of `prices`.
        prices: needed with `max_cost`.

    Raises:
        OptionError: a limit below 0, or a cost without prices.

    Example:
        >>> budget = Budget(max_calls=1)
        >>> budget.reserve()
        >>> budget.record(tokens_in=800, tokens_out=120)
        >>> budget.usage.calls, budget.usage.tokens_out
        (1, 120)
    """

    def __init__(
        self,
        max_calls: int | None = None,
        max_cost: float | None = None,
        *,
        prices: Prices | None = None,
    ) -> None:
        if max_calls is not None:
            _not_negative("max_calls", max_calls)
        if max_cost is not None:
            _not_negative("max_cost", max_cost)
            if prices is None or not (prices.tokens_in or prices.tokens_out):
                raise OptionError(
                    f"max_cost is {max_cost!r}, but no price is known; give the price per million tokens"
                )
        self.max_calls, self.max_cost = max_calls, max_cost
        self.prices = prices or Prices()
        self._usage = Usage()
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """So far."""
        with self._lock:
            return self._usage

    def reserve(self) -> None:
        """Count a call that is about to be sent.

        Raises:
            FutileError: the budget is spent; nothing is counted then.
        """
        with self._lock:
            used = self._usage
            if self.max_calls is not None and used.calls >= self.max_calls:
                raise FutileError(
                    f"the budget of {self.max_calls} calls is spent; raise max_calls (--max-calls) to go on"
                )
            if self.max_cost is not None and used.cost >= self.max_cost:
                raise FutileError(
                    f"the budget is spent: {used.cost:.4f} of {self.max_cost:.4f} after {used.calls} calls; "
                    "raise max_cost (--max-cost) to go on"
                )
            self._usage = replace(used, calls=used.calls + 1)

    def record(self, *, tokens_in: int, tokens_out: int, estimated: bool = False) -> None:
        """Count what a call that was answered took."""
        with self._lock:
            used = self._usage
            self._usage = replace(
                used,
                answered=used.answered + 1,
                tokens_in=used.tokens_in + tokens_in,
                tokens_out=used.tokens_out + tokens_out,
                estimated=used.estimated + estimated,
                cost=used.cost + self.prices.of(tokens_in, tokens_out),
            )


def _not_negative(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:  # type: ignore[arg-type,operator]
        raise OptionError(f"{name} is {value!r}; it must be a number, 0 or more")
