"""Trying again: when, how often, and after how long.

Knows: failures as values, and time. Does NOT know: protocols, or what is tried.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.clients.failures import Failure

T = TypeVar("T")
Sleeper = Callable[[float], object]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with full jitter: before attempt n + 1, a random share of `base * 2 ** (n - 1)` seconds.

    Random waits keep many clients from coming back all at once
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Attributes:
        attempts: most attempts, the first included.
        base: seconds; the most to wait before the second attempt.
        longest: seconds; the most to wait ever. A server that asks for more is not waited for.
        seed: of the waits.

    Raises:
        OptionError: less than one attempt, or a negative time.

    Example:
        >>> 0 <= RetryPolicy(base=1.0).wait(1, None, who="x") <= 1.0
        True
    """

    attempts: int = 6
    base: float = 1.0
    longest: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            isinstance(self.attempts, bool)
            or not isinstance(self.attempts, int)
            or self.attempts < 1
        ):
            raise OptionError(
                f"attempts is {self.attempts!r}; it must be a whole number, at least 1"
            )
        if not 0 <= self.base <= self.longest:
            raise OptionError(
                f"base is {self.base!r} and longest {self.longest!r}; give 0 <= base <= longest, in seconds"
            )

    def wait(self, attempt: int, asked: float | None, *, who: str) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: which failed, from 1.
            asked: seconds that the server asked for; never less than that is waited.
            who: tells calls apart: each has its own random numbers.
        """
        name = hashlib.sha256(f"{self.seed}/{attempt}/{who}".encode()).digest()
        jitter = random.Random(name).random()
        backoff = jitter * min(self.longest, self.base * 2.0 ** (attempt - 1))
        # On top of what was asked, a little: else all who were told the same time come back together.
        return backoff if asked is None else max(0.0, asked) + jitter * self.base


def call_with_retry(
    action: Callable[[], T | Failure],
    policy: RetryPolicy,
    *,
    what: str,
    who: str = "",
    sleep: Sleeper = time.sleep,
) -> T:
    """Act until it succeeds, or a failure is final.

    Args:
        action: one attempt; gives its result, or a `Failure`. Exceptions pass through untouched.
        policy: how often and how long.
        what: names the call in messages, e.g. "gpt at http://localhost:8000/v1".
        who: tells this call's random waits from those of others.
        sleep: waits that many seconds.

    Raises:
        DetailError: of the last failure; `FutileError` where no other call would fare better.
    """
    for attempt in range(1, policy.attempts + 1):
        result = action()
        if not isinstance(result, Failure):
            return result
        if not result.retry:
            raise result.error(f"{what}: ")
        if result.wait is not None and result.wait > policy.longest:
            raise DetailError(
                f"{what}: {result.reason}; it asks to wait {result.wait:.0f} s, longer than the "
                f"{policy.longest:.0f} s that are allowed: try again later"
            )
        if attempt < policy.attempts:
            seconds = policy.wait(attempt, result.wait, who=who)
            _LOG.info("%s: %s; attempt %d in %.1f s", what, result.reason, attempt + 1, seconds)
            sleep(seconds)
        last = result
    raise DetailError(
        f"{what}: {last.reason}, {policy.attempts} times; is the server up, and its limits kept?"
    )
