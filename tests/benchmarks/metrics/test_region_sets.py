"""Several references together, or one at a time."""

from __future__ import annotations

import pytest

from benchmarks.metrics import one_reference_each
from patchioner.base.errors import OptionError


def test_taking_apart() -> None:
    rows = one_reference_each(["p", "q"], [["a", "b"], ["c"]])
    assert rows.predictions == ("p", "p", "q")
    assert rows.references == (("a",), ("b",), ("c",))
    assert rows.back([1.0, 3.0, 5.0]).tolist() == [2.0, 5.0]
    with pytest.raises(OptionError, match="for 3 rows"):
        rows.back([1.0])
