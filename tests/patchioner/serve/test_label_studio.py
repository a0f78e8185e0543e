"""Requests as Label Studio's server sends them to a machine learning backend (label-studio-ml 1 and 2)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from patchioner import Box, Mask, Patchioner, Polygon, WholeImage
from tests.patchioner.regions.test_label_studio import brush
from tests.support.server import running
from tests.support.tiny import noise_photo

CONFIG = """<View><Image name="photo" value="$picture" zoom="true"/>
  <RectangleLabels name="box" toName="photo"><Label value="Thing"/></RectangleLabels>
  <TextArea name="words" toName="photo" perRegion="true"/></View>"""
INSIDE = np.zeros((64, 96), dtype=bool)
INSIDE[5:20, 7:50] = True


def drawn(kind: str, value: dict[str, Any], region: str) -> dict[str, Any]:
    size = {"original_width": 96, "original_height": 64, "image_rotation": 0}
    names = {"from_name": "box", "to_name": "photo", "id": region, "origin": "manual"}
    return {"type": kind, "value": {**value, kind: ["Thing"]}, **size, **names}


DRAWN = [
    drawn("rectanglelabels", {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0}, "r1"),
    drawn("polygonlabels", {"points": [[0, 0], [100, 0], [50, 100]]}, "p1"),
    drawn("brushlabels", {"format": "rle", "rle": brush(INSIDE)}, "b1"),
]
REGIONS = [Box(24, 16, 72, 48), Polygon([(0, 0), (96, 0), (48, 64)]), Mask(INSIDE)]


def request(task: dict[str, Any], context: Any = None) -> dict[str, Any]:
    params = {"login": None, "password": None, "context": context}
    return {"tasks": [task], "project": "1.1690000000", "label_config": CONFIG, "params": params}


@pytest.mark.parametrize("way", ["context", "annotations", "drafts"])
def test_drawn_regions_get_texts(
    client: httpx.Client, photo: bytes, model: Patchioner, way: str
) -> None:
    link = "data:image/png;base64," + base64.b64encode(photo).decode()
    task: dict[str, Any] = {"id": 5, "data": {"picture": link}}
    body = request(task, {"result": DRAWN})
    if way != "context":
        body = request(task | {way: [{"id": 1, "result": DRAWN}]})
    (found,) = client.post("/predict", json=body).json()["results"]
    expected = [one.text for one in model.caption(noise_photo(), REGIONS)]
    texts = [one for one in found["result"] if one["type"] == "textarea"]
    assert [one["value"]["text"] for one in texts] == [[text] for text in expected]
    assert [one["id"] for one in texts] == ["r1", "p1", "b1"]
    assert {(one["from_name"], one["to_name"]) for one in texts} == {("words", "photo")}
    assert found["result"][:3] == DRAWN and found["model_version"] == "tiny"
    assert texts[0]["value"]["width"] == 50 and "rectanglelabels" not in texts[0]["value"]


def test_photos_come_from_the_root(tmp_path: Path, photo: bytes, model: Patchioner) -> None:
    folder = tmp_path / "upload" / "1"
    folder.mkdir(parents=True)
    (folder / "a b.png").write_bytes(photo)
    expected = model.caption(noise_photo(), [WholeImage()])[0].text
    with running(model, root=tmp_path) as url:
        for name in ("/data/upload/1/a%20b.png", "/data/local-files/?d=upload/1/a%20b.png"):
            body = request({"id": 1, "data": {"picture": name}})
            (found,) = httpx.post(f"{url}/predict", json=body).json()["results"]
            assert [one["value"]["text"] for one in found["result"]] == [[expected]]
        for name in ("/data/../../etc/passwd", "http://a.b/c.png", "s3://a/b.png", "", 5):
            body = request({"id": 1, "data": {"picture": name}})
            (found,) = httpx.post(f"{url}/predict", json=body).json()["results"]
            assert found["result"] == [] and found["error"]["message"]


def test_damaged_tasks_cost_themselves_alone(client: httpx.Client, photo: bytes) -> None:
    link = "data:image/png;base64," + base64.b64encode(photo).decode()
    bad = drawn("brushlabels", {"format": "rle", "rle": [1, 2, 3]}, "b")
    tasks = [
        {"data": {"picture": link}, "annotations": [{"result": [bad]}]},
        {"data": None},
        {"data": {"picture": link}},
    ]
    body = request({}) | {"tasks": tasks}
    found = client.post("/predict", json=body).json()["results"]
    assert ["error" in one for one in found] == [True, True, False]


def test_setup_and_health(client: httpx.Client) -> None:
    body = {"project": "1.2", "schema": CONFIG, "hostname": "http://localhost:8080"}
    assert client.post("/setup", json=body).json() == {"model_version": "tiny"}
    assert client.get("/health").json()["status"] == "UP"
    assert client.post("/predict", json=request({}) | {"label_config": "<a"}).status_code == 400
