"""A data folder of four photos of noise, in the documented layout, and a tiny model with a calibration of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from patchioner import Patchioner
from patchioner.detail.calibrate import calibrate_model
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

NAMES = tuple(f"{key:012d}.jpg" for key in (1, 2, 3, 4))
SIZE = (96, 64)


@pytest.fixture(scope="session")
def tiny_detail_model() -> Patchioner:
    model = Patchioner(tiny_parts(), device="cpu")
    pairs: Any = [(noise_photo(seed=seed), (TEXTS[seed], TEXTS[seed + 6])) for seed in range(8)]
    calibration = calibrate_model(model, pairs, sentence_rate=0.5, object_rate=0.2)
    settings = replace(model.settings, calibration={"detail": calibration.to_json()})
    return Patchioner(replace(model.parts, settings=settings), device="cpu")


@pytest.fixture(scope="session")
def detail_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for folder in ("annotations", "photos", "did/photos"):
        (root / folder).mkdir(parents=True)
    for place, name in enumerate(NAMES):
        for folder in ("photos", "did/photos"):
            noise_photo(*SIZE, seed=place).save(root / folder / name)
    files = {
        "annotations/image_captions_dev.json": _captions(),
        "annotations/class_boxes_dev.json": _boxes(),
        "did/describe_run.json": [_described(place, name) for place, name in enumerate(NAMES)],
        "did/references_dev.json": {name: [_story(place)] for place, name in enumerate(NAMES)},
    }
    for path, content in files.items():
        (root / path).write_text(json.dumps(content), encoding="utf-8")
    return root


def _captions() -> dict[str, Any]:
    images = [{"id": place, "file_name": name} for place, name in enumerate(NAMES)]
    annotations = [
        {"image_id": place, "caption": TEXTS[place + shift]}
        for place in range(len(NAMES))
        for shift in (0, 6)
    ]
    return {"images": images, "annotations": annotations}


def _boxes() -> list[dict[str, Any]]:
    things = ("cat", "dog", "bus", "boat")
    return [
        {
            "file_name": name,
            "image_id": place,
            "boxes": [
                {"xyxy": [4, 4, 60, 60], "name": things[place]},
                {"xyxy": [0, 0, 9, 9], "name": "person"},
            ],
        }
        for place, name in enumerate(NAMES)
    ]


def _story(place: int) -> str:
    return f"There is {TEXTS[place]}. A man holds a {('spoon', 'fork', 'cup', 'knife')[place]} near a red kite."


def _described(place: int, name: str) -> dict[str, Any]:
    boxes = [[0, 0, 48, 32], [48, 0, 96, 32], [0, 32, 48, 64], [48, 32, 96, 64], [10, 10, 60, 60]]
    kinds = ["quadrant"] * 4 + ["semantic"]
    return {
        "file_name": name,
        "width": SIZE[0],
        "height": SIZE[1],
        "global_description": _story(place),
        "regions": [
            {
                "kind": kind,
                "xyxy": box,
                "descriptions": [
                    f"{TEXTS[(place + 5 * part + 7 * sample) % 30].capitalize()} stands here."
                    for sample in range(3)
                ],
            }
            for part, (kind, box) in enumerate(zip(kinds, boxes, strict=True))
        ],
    }
