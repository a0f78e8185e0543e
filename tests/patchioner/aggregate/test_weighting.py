"""The weighting value refuses what cannot be meant."""

from __future__ import annotations

import pytest

from patchioner.base.errors import OptionError
from patchioner.regions import Weighting


def test_the_default_is_uniform_exact_coverage() -> None:
    assert Weighting() == Weighting("uniform", variance=1.0, rounding="coverage")
    assert len({Weighting(), Weighting("uniform")}) == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"kind": "gausian"}, "'gausian'.*did you mean 'gaussian'"),
        ({"kind": None}, "None.*uniform"),
        ({"rounding": "exact"}, "rounding of the weighting is 'exact'.*coverage"),
        ({"variance": -1}, "-1"),
        ({"variance": float("nan")}, "nan"),
        ({"variance": float("inf")}, "inf"),
        ({"variance": "1"}, "'1'"),
        ({"variance": True}, "True"),
        ({"seed": 0.5}, "seed of the weighting is 0.5; give an integer"),
        ({"seed": None}, "None"),
        ({"seed": True}, "True"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Weighting(**values)  # type: ignore[arg-type]
