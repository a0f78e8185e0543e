"""Registries: filing, finding, and the two mistakes one can make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from patchioner.base import CheckpointError, OptionError, Registry, UnknownNameError


def make_registry() -> Registry[Callable[[], int]]:
    registry: Registry[Callable[[], int]] = Registry("number")

    @registry.register("two")
    def two() -> int:
        return 2

    @registry.register("one")
    def one() -> int:
        return 1

    return registry


def test_unknown_name_offers_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown number 'tow': did you mean 'two'"):
        make_registry().get("tow")


def test_a_name_is_filed_once_only() -> None:
    registry = make_registry()
    with pytest.raises(OptionError, match="'one' is registered twice"):
        registry.register("one")(lambda: 11)
    assert registry.get("one")() == 1


FAR: Registry[str] = Registry("part", homes={"far": "far_home", "empty": "empty_home"})


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules that register parts, or forget to, on the import path."""
    code = f"from {__name__} import FAR\nFAR.register('far')('found')\n"
    (tmp_path / "far_home.py").write_text(code)
    (tmp_path / "empty_home.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_home_is_imported_when_its_part_is_asked_for(homes: Path) -> None:
    assert "far_home" not in sys.modules
    assert "far" in FAR and FAR.names() == ("empty", "far")
    assert "far_home" not in sys.modules, "asking for the names imports nothing"
    assert FAR.get("far") == "found"
    assert "far_home" in sys.modules
    assert FAR.get("far") == "found"


def test_a_home_that_registers_nothing(homes: Path) -> None:
    with pytest.raises(UnknownNameError, match="empty"):
        FAR.get("empty")


@pytest.mark.parametrize("config", [None, [], {}, {"type": 3}, {"type": "three"}])
def test_a_config_names_its_type(config: object) -> None:
    with pytest.raises(CheckpointError, match="there.json must name its \"type\", one of 'one'"):
        make_registry().of_config(config, "there.json")
    assert make_registry().of_config({"type": "one"}, "there.json")() == 1
