from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchioner.base.errors import DetailError, ImageError
from patchioner.detail.values import (
    Claim,
    DetailedCaption,
    DetailRegion,
    FusedSentence,
    Support,
    Verdict,
    dumps,
    from_json,
    open_photo,
    to_json,
)
from tests.support.tiny import noise_photo

MASK = np.random.default_rng(0).random((6, 8)) > 0.5
SUPPORT = Support(0.75, (("bus", 0.9),), ("place: on the left",))
CAPTION = DetailedCaption(
    text="A red bus. Ünïcode.",
    sentences=(
        FusedSentence("A red bus.", ("c1", "c3"), ("global", "a"), 2, 0.75),
        FusedSentence("Ünïcode.", ("c2",), ("a",)),
    ),
    dropped=(Verdict(Claim("c4", "Perhaps.", "a", 1, 2), False, reason="hedge", note="no fact"),),
    kept=(
        Verdict(
            Claim("c1", "A red bus", "global", 0, 0, -0.5), True, 2, ("global", "a"), SUPPORT,
            merged=("c3",),
        ),
        Verdict(Claim("c2", "Ünïcode", "a", 0, 1), True),
    ),
    regions=(
        DetailRegion("global", "global", (0, 0, 8, 6)),
        DetailRegion("a", "user", (1.5, 0, 8, 6), MASK, ("global",), "bus"),
    ),
    image_size=(8, 6),
    settings={"seed": 3, "scales": (0.5, 1.0), "nested": {"x": None}},
)  # fmt: skip


def test_there_and_back_through_a_file() -> None:
    values = to_json(CAPTION, "bus.jpg", sha256="ab")
    name, back = from_json(json.loads(dumps(values)))
    assert name == "bus.jpg"
    for field in ("text", "sentences", "dropped", "kept", "image_size", "reason"):
        assert getattr(back, field) == getattr(CAPTION, field), field
    assert back.settings == {"seed": 3, "scales": [0.5, 1.0], "nested": {"x": None}}
    for region, original in zip(back.regions, CAPTION.regions, strict=True):
        assert (region.id, region.kind, region.box) == (original.id, original.kind, original.box)
        assert (region.parents, region.name) == (original.parents, original.name)
    assert back.regions[0].mask is None
    np.testing.assert_array_equal(back.regions[1].mask, MASK)
    assert to_json(back, name, sha256="ab") == values


def test_the_names_of_the_file_stay() -> None:
    values = to_json(CAPTION, "x")
    assert set(values) == {
        "format", "version", "photo", "sha256", "size", "text", "reason", "sentences", "regions",
        "kept", "dropped", "settings",
    }  # fmt: skip
    assert set(values["sentences"][0]) == {"text", "claims", "regions", "agreement", "support"}
    assert set(values["regions"][1]) == {"id", "kind", "box", "mask", "parents", "name"}
    assert set(values["kept"][0]) == {
        "id", "text", "region", "sample", "place", "log_prob", "agreement", "regions", "support",
        "reason", "note", "merged",
    }  # fmt: skip
    assert set(values["kept"][0]["support"]) == {"score", "objects", "unverifiable"}


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_json_cannot_express_is_refused_by_name(value: object) -> None:
    with pytest.raises(DetailError, match=r"bus\.jpg"):
        to_json(replace(CAPTION, settings={"a": value}), "bus.jpg")


@pytest.mark.parametrize("values", [None, [], "x", {}, {"format": "other"}])
def test_other_formats_are_refused(values: Any) -> None:
    with pytest.raises(DetailError, match="patchioner-detail"):
        from_json(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"sentences": 3}, "3 stands"),
        ({"size": [1]}, "zip"),
        ({"text": None}, "None stands"),
        ({"settings": []}, "dict"),
        ({"regions": [{"id": "a"}]}, "no 'kind'"),
        ({"regions": [{"id": "a", "kind": "odd", "box": [0, 0, 1, 1]}]}, "'odd' stands"),
        ({"dropped": [{"id": 7}]}, "7 stands"),
        ({"kept": 5}, "not iterable"),
    ],
)
def test_damage_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DetailError, match=message):
        from_json({**to_json(CAPTION, "x"), **change})


def test_the_same_pixels_have_the_same_digest_from_any_file(tmp_path: Path) -> None:
    image = noise_photo()
    files = [tmp_path / "a.png", tmp_path / "b.bmp"]
    for file in files:
        image.save(file)
    photos = [open_photo(files[0]), open_photo(str(files[1])), open_photo(image)]
    assert len({photo.sha256 for photo in photos}) == 1
    assert [photo.name for photo in photos] == [*map(str, files), "photo"]
    with pytest.raises(ImageError, match=r"none\.jpg"):
        open_photo(tmp_path / "none.jpg")
