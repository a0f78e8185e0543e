"""Results: finite, and telling how they were made."""

from __future__ import annotations

import math

import pytest

from benchmarks.metrics import MetricResult, Provenance
from patchioner.base.errors import OptionError


def test_mean_and_array() -> None:
    result = MetricResult("x", 3.0, (1.0, 3.0), Provenance("patchioner"))
    assert result.mean == 2.0
    assert result.array.tolist() == [1.0, 3.0]


def test_provenance_reads_well() -> None:
    made = Provenance(
        "pycocoevalcap", (("pycocoevalcap", "1.2"), ("java", "17")), "Stanford", "a note"
    )
    assert str(made) == "pycocoevalcap; pycocoevalcap 1.2, java 17; tokenizer: Stanford; a note"
    assert made.java
    assert not Provenance("patchioner").java


@pytest.mark.parametrize(("corpus", "samples"), [(math.nan, (1.0,)), (1.0, (1.0, math.inf))])
def test_not_finite(corpus: float, samples: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="not finite"):
        MetricResult("x", corpus, samples, Provenance("patchioner"))
