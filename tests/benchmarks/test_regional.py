import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import regional
from benchmarks.metrics import cider
from tests.benchmarks.conftest import World, cases
from tests.support import Capture

BOXES = cases("boxes")


def values(answers: dict[str, list[Any]]) -> dict[str, float]:
    rows = regional.measure(answers)
    return {row.key: row.value(np.ones(len(row.photos), dtype=np.int64)) for row in rows}


def test_boxes_are_measured_as_by_hand() -> None:
    found = values({"boxes": BOXES})
    assert found["naming over 2 %"] == pytest.approx(200 / 3)
    assert found["says over 2 %"] == pytest.approx(100 / 3)
    assert found["says 0.2 to 2 %"] == 100
    assert found["same"] == pytest.approx(25)  # of (cup, dog), (cup, cat), (dog, cat), (bus, car)
    # Right: 0.9, 0.8, 0.5; wrong: 0.4, 0.6.
    assert found["confidence"] == pytest.approx(100 * 5 / 6)
    gaps = [0.1, 0.4, 0.2, 0.6, 0.5]
    assert found["calibration"] == pytest.approx(100 * sum(gaps) / 5)  # each a bin of its own


def test_sets_are_measured_by_cider_and_against_the_photos_others() -> None:
    said = ["a man on a horse", "a red boat", "a red boat", "a dog in the snow"]
    texts = "a man rides a horse", "a red boat on a lake", "a small dog", "a dog runs in snow"
    due = [[text] for text in texts]
    rows = [
        {"photo": photo, "references": own, "share": 0.2, "caption": text, "sure": -1.0}
        for photo, text, own in zip("aabb", said, due, strict=True)
    ]
    found = values({"sets": rows})
    assert found["sets CIDEr"] == pytest.approx(float(np.mean(cider(said, due)[1])))
    assert 50 < found["sets wins"] < 100


def test_two_models_are_paired() -> None:
    better = [dict(one, caption=f"a {one['references'][0]}") for one in BOXES]
    found = regional.scores(regional.measure({"boxes": better}), regional.measure({"boxes": BOXES}))
    gains = {entry["key"]: entry["gain"]["value"] for entry in found}
    assert gains["says over 2 %"] == pytest.approx(200 / 3)
    assert gains["same"] == pytest.approx(-25)
    assert "+66.7" in regional.table(found)


def test_the_command(world: World, loads: list[str], tmp_path: Path, capsys: Capture) -> None:
    words, out = ["--data", str(world.root), "--limit", "3"], tmp_path / "plain.json"
    # A second set of boxes, in the photos that the first one does not have.
    world.change("objects", lambda rows: rows.__delitem__(slice(8, None)))
    first = {row["file_name"] for row in json.loads(world.file("objects").read_text())}
    names = [path.name for path in sorted((world.root / "photos").iterdir())]
    photos = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    boxes = [{"image_id": n, "category_id": 2, "bbox": [0, 0, 20, 20]} for n in range(len(names))]
    more = {"images": photos, "annotations": boxes, "categories": [{"id": 2, "name": "bicycle"}]}
    (world.root / "annotations/instances_dev.json").write_text(json.dumps(more))
    assert regional.main([*words, "--plain", "--out", str(out)]) == 0
    stored = json.loads(out.read_text())["answers"]
    assert {"boxes", "images", "sets"} <= set(stored)
    assert [one["photo"] for one in stored["boxes_more"]] == sorted(set(names) - first)[:3]
    assert all(one["caption"] for part in stored.values() for one in part)
    assert regional.main([*words, "--against", str(out)]) == 0
    assert "image CIDEr" in capsys.readouterr().out and loads == ["patchioner-mini"] * 2
