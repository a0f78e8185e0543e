"""What all tests share: the shipped model, loaded once, and examples that are the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from patchioner import Patchioner

# No deadline: a busy machine is no fault. The same examples each time: a run fails for what was changed.
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session")
def shipped() -> Patchioner:
    """The model inside the package, on the CPU."""
    from patchioner import Patchioner

    return Patchioner.from_pretrained(device="cpu")
