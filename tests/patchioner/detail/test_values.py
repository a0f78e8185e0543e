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


CAPTION = DetailedCaption(
    text="A red bus. Ünïcode.",
    sentences=(
        FusedSentence("A red bus.", ("c1", "c3"), ("global", "a"), 2, 0.75),
        FusedSentence("Ünïcode.", ("c2",), ("a",)),
    ),
    dropped=(Verdict(Claim("c4", "Perhaps.", "a", 1, 2), False, reason="hedge", note="no fact"),),
    kept=(
        Verdict(
            Claim("c1", "A red bus", "global", 0, 0, -0.5),
            True,
            2,
            ("global", "a"),
            Support(0.75, (("bus", 0.9),), ("place: on the left",)),
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
)


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


def test_every_field_of_the_values_is_written() -> None:
    """A field added to a value must not be forgotten here."""
    verdict = to_json(CAPTION, "x")["kept"][0]
    claim = set(vars(CAPTION.kept[0].claim)) - {"region_id"} | {"region"}
    assert set(verdict) == (set(vars(CAPTION.kept[0])) - {"claim", "kept"}) | claim
    assert set(verdict["support"]) == set(vars(CAPTION.kept[0].support))
    assert set(to_json(CAPTION, "x")["regions"][0]) == set(vars(CAPTION.regions[0]))
    renamed = {"claim_ids": "claims", "region_ids": "regions"}
    fields = {renamed.get(name, name) for name in vars(CAPTION.sentences[0])}
    assert set(to_json(CAPTION, "x")["sentences"][0]) == fields


def test_what_json_cannot_express_is_refused_by_name() -> None:
    with pytest.raises(DetailError, match=r"bus\.jpg"):
        to_json(replace(CAPTION, settings={"a": float("nan")}), "bus.jpg")
    with pytest.raises(DetailError, match=r"bus\.jpg"):
        to_json(replace(CAPTION, settings={"a": object()}), "bus.jpg")


@pytest.mark.parametrize("values", [None, [], "x", {}, {"format": "other"}])
def test_other_formats_are_refused(values: Any) -> None:
    with pytest.raises(DetailError, match="no detailed caption"):
        from_json(values)


def test_another_version_is_refused() -> None:
    with pytest.raises(DetailError, match="version 2"):
        from_json({**to_json(CAPTION, "x"), "version": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": 3}, "not iterable"),
        ({"size": [1]}, "unpack"),
        ({"text": None}, "text should"),
        ({"settings": []}, "settings"),
        ({"regions": [{"id": "a"}]}, "kind"),
        ({"dropped": [{"id": 7}]}, "7"),
    ],
)
def test_damage_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DetailError, match=message):
        from_json({**to_json(CAPTION, "x"), **change})


def test_a_missing_field_is_named() -> None:
    values = to_json(CAPTION, "x")
    del values["kept"]
    with pytest.raises(DetailError, match="no 'kept'"):
        from_json(values)


def test_the_same_pixels_have_the_same_digest_from_any_file(tmp_path: Path) -> None:
    image = noise_photo()
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    photos = [
        open_photo(tmp_path / "a.png"),
        open_photo(str(tmp_path / "b.bmp")),
        open_photo(image),
    ]
    assert len({photo.sha256 for photo in photos}) == 1
    assert [photo.name for photo in photos] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "b.bmp"),
        "photo",
    ]


def test_what_is_no_photo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no photo"):
        open_photo(tmp_path / "none.jpg")
