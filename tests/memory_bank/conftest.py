"""What several tests of the bank share."""

from __future__ import annotations

import pytest

from memory_bank import projection


@pytest.fixture(params=[(1, 1), (5, 2), (19, 3), (57, 512), None], ids=str)
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many rows and queries are worked on at once; None: as ever."""
    if request.param is not None:
        rows, queries = request.param
        monkeypatch.setattr(projection, "_block_rows", lambda device, dim: rows)
        monkeypatch.setattr(projection, "_QUERIES", queries)
