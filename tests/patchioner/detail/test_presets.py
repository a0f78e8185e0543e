"""Presets: the published constants, changes by name, JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.detail.presets import PRESETS, DetailSettings, preset


def test_published_constants() -> None:
    settings = preset("published")
    divide = settings.divide
    assert (divide.spatial, divide.grow, divide.growing_area) == ("quadrants", 0.3, 1.0)
    assert (divide.least_score, divide.fallback, divide.merge_iou) == (0.3, 2, 0.3)
    assert (divide.objects, divide.union_coverage) == ("union", 0.4)
    assert (settings.describe.samples, settings.describe.temperature) == (3, 0.7)
    assert settings.fuse.overlap_iou == 0.4
    assert (settings.filter.rules, settings.filter.trusted_agreement) == (False, 2)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_ready_for_json(name: str) -> None:
    values = json.loads(json.dumps(preset(name).to_json()))
    assert set(values) == {"divide", "describe", "filter", "fuse"}


def test_default_is_what_settings_are_without_a_word() -> None:
    assert preset("default") == DetailSettings()
    assert preset("default") != preset("published")


def test_changes_by_name_leave_the_rest() -> None:
    old = preset("published")
    new = preset("published", {"fuse.max_words": 60, "divide.discovery.limit": 3})
    assert (new.fuse.max_words, new.divide.discovery.limit) == (60, 3)
    assert old.changed({"fuse.max_words": 60}).divide == old.divide
    assert new.describe == old.describe


@pytest.mark.parametrize("wrong", ["fuse.max_word", "fuses.max_words", "fuse.max_words.x"])
def test_unknown_settings_offer_the_close_ones(wrong: str) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean '?.*fuse\.max_words"):
        preset("default", {wrong: 1})


def test_groups_and_senseless_values_are_refused() -> None:
    with pytest.raises(OptionError, match="group of settings"):
        preset("default", {"fuse": 3})
    with pytest.raises(OptionError, match="max_words"):
        preset("default", {"fuse.max_words": 0})
    with pytest.raises(UnknownNameError, match="preset 'publishd'"):
        preset("publishd")


def test_the_package_is_light_until_it_is_used() -> None:
    code = "import sys, patchioner.detail; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
