import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner.base.errors import DetailError, ImageError
from patchioner.detail import Claim, dumps, from_json, open_photo, to_json
from patchioner.regions import encode_rle
from tests.patchioner.detail.conftest import CASES
from tests.support.tiny import noise_photo

MASK = np.random.default_rng(0).random((6, 8)) > 0.5
WHERE = {"region": "a", "sample": 1, "place": 2, "log_prob": -0.5, "agreement": 2, "regions": ["a"]}
EXAMPLE: dict[str, Any] = {
    "format": "patchioner-detail", "version": 1, "photo": "bus.jpg", "sha256": "ab", "size": [8, 6],
    "text": "A red bus. Ünïcode.", "reason": None,
    "sentences": [
        {"text": "A red bus.", "claims": ["c1", "c3"], "regions": ["global", "a"], "agreement": 2, "support": 0.75},
        {"text": "Ünïcode.", "claims": ["c2"], "regions": ["a"], "agreement": 1, "support": None},
    ],
    "regions": [
        {"id": "global", "kind": "global", "box": [0, 0, 8, 6], "mask": None, "name": None},
        {"id": "a", "kind": "user", "box": [1.5, 0.0, 8.0, 6.0], "mask": encode_rle(MASK),
         "name": "bus"},
    ],
    "kept": [
        {"id": "c1", "text": "A red bus", **WHERE, "reason": None, "note": "", "merged": ["c3"],
         "support": {"score": 0.75, "objects": [["bus", 0.9]], "unverifiable": ["place: on the left"]}},
        {"id": "c2", "text": "Ünïcode", **WHERE, "support": None, "reason": None, "note": "", "merged": []},
    ],
    "dropped": [{"id": "c4", "text": "Perhaps.", **WHERE, "support": None, "reason": "hedge", "note": "no fact",
                 "merged": []}],
    "settings": {"seed": 3, "scales": [0.5, 1.0], "nested": {"x": None}},
}  # fmt: skip


def test_there_and_back_through_a_file() -> None:
    name, caption = from_json(json.loads(dumps(EXAMPLE)))
    assert caption.kept[0].claim == Claim("c1", "A red bus", "a", 1, 2, -0.5)
    assert [one.kept for one in (*caption.kept, *caption.dropped)] == [True, True, False]
    assert caption.image_size == (8, 6) and caption.sentences[0].claim_ids == ("c1", "c3")
    np.testing.assert_array_equal(caption.regions[1].mask, MASK)
    assert to_json(caption, name, sha256="ab") == EXAMPLE
    for value in (float("nan"), object()):
        caption.settings["a"] = value
        with pytest.raises(DetailError, match=r"bus\.jpg"):
            to_json(caption, name)


@pytest.mark.parametrize(("change", "message"), CASES["damage"])
def test_damage_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DetailError, match=message):
        from_json({**EXAMPLE, **change})
    others: tuple[Any, ...] = (None, [], "x", {}, {**EXAMPLE, "format": "other"})
    for other in others:
        with pytest.raises(DetailError, match="patchioner-detail"):
            from_json(other)


def test_the_same_pixels_have_the_same_digest_from_any_file(tmp_path: Path) -> None:
    image = noise_photo()
    files = [tmp_path / "a.png", tmp_path / "b.bmp"]
    for file in files:
        image.save(file)
    photos = [open_photo(files[0]), open_photo(str(files[1])), open_photo(image)]
    assert len({photo.sha256 for photo in photos}) == 1
    turned = Image.frombytes("RGB", image.size[::-1], image.tobytes())  # the same bytes
    assert open_photo(turned).sha256 != photos[0].sha256
    assert [photo.name for photo in photos] == [*map(str, files), "photo"]
    with pytest.raises(ImageError, match=r"none\.jpg"):
        open_photo(tmp_path / "none.jpg")
