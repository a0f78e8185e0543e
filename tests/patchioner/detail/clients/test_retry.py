from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.detail.clients.failures import Failure
from patchioner.detail.clients.retry import RetryPolicy, call_with_retry


class Script:
    """Fails as told, then succeeds; notes how long was waited in between."""

    def __init__(self, *failures: Failure) -> None:
        self.failures, self.calls = list(failures), 0
        self.waits: list[float] = []

    def act(self) -> str | Failure:
        self.calls += 1
        return self.failures.pop(0) if self.failures else "done"

    def run(self, policy: RetryPolicy) -> str:
        return call_with_retry(self.act, policy, what="here", who="me", sleep=self.waits.append)


BUSY = Failure("busy", retry=True)


def test_it_tries_again_until_it_succeeds() -> None:
    script = Script(BUSY, BUSY)
    assert script.run(RetryPolicy()) == "done"
    assert script.calls == 3 and len(script.waits) == 2


def test_it_gives_up_after_so_many_attempts() -> None:
    script = Script(*[BUSY] * 10)
    with pytest.raises(DetailError, match="here: busy, 3 times") as caught:
        script.run(RetryPolicy(attempts=3))
    assert script.calls == 3 and len(script.waits) == 2
    assert not isinstance(caught.value, FutileError)


@pytest.mark.parametrize("futile", [True, False])
def test_a_final_failure_is_not_tried_again(futile: bool) -> None:
    script = Script(Failure("refused", futile=futile))
    with pytest.raises(DetailError, match="here: refused") as caught:
        script.run(RetryPolicy())
    assert script.calls == 1 and script.waits == []
    assert isinstance(caught.value, FutileError) == futile


def test_the_time_that_the_server_asks_for_is_waited_and_no_less() -> None:
    script = Script(Failure("busy", retry=True, wait=7.0))
    script.run(RetryPolicy(base=2.0))
    assert 7.0 <= script.waits[0] <= 9.0


def test_a_time_that_is_too_long_is_not_waited_for() -> None:
    script = Script(Failure("busy", retry=True, wait=3600.0))
    with pytest.raises(DetailError, match="wait 3600 s, longer than the 60 s"):
        script.run(RetryPolicy())
    assert script.waits == []


@given(st.integers(1, 12), st.integers(0, 5), st.text(max_size=5))
def test_waits_are_a_share_of_what_doubles_up_to_the_longest(
    attempt: int, seed: int, who: str
) -> None:
    policy = RetryPolicy(base=0.5, longest=8.0, seed=seed)
    wait = policy.wait(attempt, None, who=who)
    assert 0 <= wait <= min(8.0, 0.5 * 2 ** (attempt - 1))
    assert wait == policy.wait(attempt, None, who=who)


def test_waits_differ_between_calls_attempts_and_seeds() -> None:
    policy = RetryPolicy(base=1.0, longest=1.0)
    waits = {policy.wait(1, None, who=str(one)) for one in range(20)}
    waits |= {
        policy.wait(2, None, who="0"),
        RetryPolicy(1, 1.0, 1.0, seed=9).wait(1, None, who="0"),
    }
    assert len(waits) == 22
    assert max(waits) - min(waits) > 0.5  # full jitter: they fill the span


@pytest.mark.parametrize(
    "settings", [{"attempts": 0}, {"attempts": True}, {"base": -1}, {"base": 90.0}]
)
def test_policies_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        RetryPolicy(**settings)  # type: ignore[arg-type]
