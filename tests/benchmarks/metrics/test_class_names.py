"""Class names in captions: synonyms, plurals, compounds; every COCO name of the data is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.metrics.class_names import SYNONYMS, named_classes, names_class, plural
from patchioner.base.errors import UnknownNameError


def test_eighty_classes_each_naming_itself() -> None:
    assert len(SYNONYMS) == 80
    for name in SYNONYMS:
        for phrase in (name, plural(name)):
            assert name in named_classes(f"there is a {phrase} here"), phrase


def test_every_synonym_names_its_class() -> None:
    for name, phrases in SYNONYMS.items():
        for phrase in phrases:
            assert name in named_classes(f"two {plural(phrase)}"), phrase
            assert name in named_classes(f"the {phrase}"), phrase


def test_the_names_are_those_of_the_data(annotations: Path) -> None:
    content = json.loads((annotations / "instances_dev.json").read_text(encoding="utf-8"))
    assert {category["name"] for category in content["categories"]} <= set(SYNONYMS)


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("A hot dog on a plate.", {"hot dog"}),
        ("two dogs and hot dogs", {"dog", "hot dog"}),
        ("a child's teddy bear", {"person", "teddy bear"}),
        ("men riding motorcycles", {"person", "motorcycle"}),
        ("an orange shirt", set()),
        ("an orange and an apple", {"orange", "apple"}),
        ("an orange near a cup", {"orange", "cup"}),
        ("oranges", {"orange"}),
        ("a glass", {"cup", "wine glass"}),
        ("a glass of wine", {"wine glass"}),
        ("a train station", set()),
        ("a fire truck at a stop sign", {"truck", "stop sign"}),
        ("Geese, mice, knives!", {"bird", "mouse", "knife"}),
        ("a baseball player with a bat", {"baseball bat"}),
        ("the catcher's mitt", {"baseball glove"}),
        ("a caterpillar on a doggedly carved cattail", set()),
        ("", set()),
    ],
)
def test_captions(caption: str, classes: set[str]) -> None:
    assert named_classes(caption) == classes


def test_unknown_class() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bicycle'"):
        names_class("a", "bycicle")
