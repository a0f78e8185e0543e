"""Warnings come back once the last thread has left."""

from __future__ import annotations

import threading
import warnings

import pytest

from patchioner.images import Quiet


def test_blocks_of_threads_may_overlap() -> None:
    before = list(warnings.filters)
    quiet, inside, leave = Quiet(), threading.Event(), threading.Event()

    def stay() -> None:
        with quiet:
            inside.set()
            leave.wait(5)

    with quiet:
        other = threading.Thread(target=stay)
        other.start()
        assert inside.wait(5)
    # The other thread is still inside, and keeps what it asked for.
    assert warnings.filters[0][0] == "ignore"
    leave.set()
    other.join()
    assert list(warnings.filters) == before


def test_an_error_passes_and_leaves_no_trace() -> None:
    before = list(warnings.filters)
    with pytest.raises(ValueError, match="broken"), Quiet():
        raise ValueError("broken")
    assert list(warnings.filters) == before
