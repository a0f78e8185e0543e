"""Registries: filing, finding, and the two mistakes one can make."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from patchioner_base import OptionError, Registry, UnknownNameError


def make_registry() -> Registry[Callable[[], int]]:
    registry: Registry[Callable[[], int]] = Registry("number")

    @registry.register("two")
    def two() -> int:
        return 2

    @registry.register("one")
    def one() -> int:
        return 1

    return registry


def test_get_returns_what_was_filed() -> None:
    registry = make_registry()
    assert registry.get("one")() == 1
    assert registry.get("two")() == 2
    assert "one" in registry
    assert "three" not in registry


def test_names_are_sorted() -> None:
    assert make_registry().names() == ("one", "two")


def test_unknown_name_offers_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown number 'tow': did you mean 'two'"):
        make_registry().get("tow")


def test_a_name_is_filed_once_only() -> None:
    registry = make_registry()
    with pytest.raises(OptionError, match="'one' is registered twice"):
        registry.register("one")(lambda: 11)
    assert registry.get("one")() == 1


def test_registries_do_not_share_names() -> None:
    make_registry()
    assert Registry[int]("other").names() == ()
