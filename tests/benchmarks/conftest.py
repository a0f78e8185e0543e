"""A data folder of small noise photos in the documented layout, a tiny real model that every command loads, METEOR."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data import task_named
from benchmarks.metrics import Meteor, java_available
from benchmarks.run import Outcome, Run, execute, write_reports
from benchmarks.settings import RunSettings
from patchioner import Patchioner
from tests.support import MonkeyPatch
from tests.support.tiny import TEXTS, noise_photo

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "annotations"
PHOTOS = 11


@pytest.fixture(scope="session")
def development() -> Path:
    """The folder of the development annotations."""
    if not (DATA / "image_captions_dev.json").is_file():
        pytest.skip("the development data is not beside this checkout")
    return DATA


@pytest.fixture(scope="session")
def dev_captions(development: Path) -> list[list[str]]:
    """The reference captions of the development photos, one list per photo."""
    content = json.loads((development / "image_captions_dev.json").read_text(encoding="utf-8"))
    groups: dict[int, list[str]] = {}
    for row in content["annotations"]:
        groups.setdefault(row["image_id"], []).append(row["caption"])
    return list(groups.values())


@pytest.fixture(scope="session")
def meteor() -> Iterator[Meteor]:
    """One official METEOR for the whole session."""
    pytest.importorskip("pycocoevalcap")
    if not java_available():
        pytest.skip("METEOR needs Java")
    with Meteor() as running:
        yield running


@pytest.fixture
def loads(model: Patchioner, monkeypatch: MonkeyPatch) -> list[str]:
    """Every command gets the tiny model; the names asked for."""
    asked: list[str] = []

    def load(name: str, device: str) -> Patchioner:
        asked.append(name)
        return model

    for module in ("run", "quality", "regional"):
        monkeypatch.setattr(f"benchmarks.{module}.load_pretrained", load)
    return asked


class Encoded(list[str]):
    """Names of the photos that went through a backbone; `fail_after` so many it is interrupted."""

    fail_after: int | None = None


@pytest.fixture
def encoded(monkeypatch: MonkeyPatch) -> Encoded:
    names, encode = Encoded(), Patchioner.encode

    def counted(self: Patchioner, images: Any, **options: Any) -> Any:
        if names.fail_after is not None and len(names) >= names.fail_after:
            raise KeyboardInterrupt
        found = encode(self, images, **options)
        names.append(Path(images).stem)
        return found

    monkeypatch.setattr(Patchioner, "encode", counted)
    return names


@dataclass
class World:
    """A data folder, and a way to run on it with the tiny model."""

    root: Path
    model: Patchioner

    def file(self, task: str) -> Path:
        return task_named(task).files(self.root)[0]

    def change(self, task: str, edit: Callable[[Any], object]) -> None:
        """Edit the JSON of a task in place."""
        content = json.loads(self.file(task).read_text())
        edit(content)
        self.file(task).write_text(json.dumps(content))

    def run(self, folder: Path, task: str = "region_set", *, resume: bool = False, load: Any = None,
            **changes: Any) -> Outcome:  # fmt: skip
        """Run one task into a folder."""
        given: dict[str, Any] = {"data": str(self.file(task)), "images": str(self.root / "photos")}
        given |= {"java": "no", "rounds": 20, "batch": 3, **changes}
        run = Run("tiny", RunSettings(task, **given), folder)
        return execute([run], resume=resume, load=load or (lambda *_: self.model))[0]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model: Patchioner) -> World:
    """Eleven photos of 40 x 20 pixels, 27 region sets; the files name them in another order than the alphabet's."""
    root = tmp_path_factory.mktemp("made") / "world"
    world = World(root, model)
    for folder in ("photos", "annotations"):
        (root / folder).mkdir(parents=True)
    sets, traces, dense, images, captions, objects = {}, {}, [], [], [], []
    for index, name in enumerate(f"photo_{(7 * index) % PHOTOS:02d}" for index in range(PHOTOS)):
        noise_photo(40, 20, seed=index).save(root / "photos" / f"{name}.jpg")
        boxes = [[1, 2, 10, 12], [20, 2, 30, 12], [5, 5, 35, 15]][: 2 + index % 2]
        words = [TEXTS[(5 * index + 3 * i) % len(TEXTS)] for i in range(3)]
        sets[name] = {
            f"{words[i]}\nthing {i} of {name}": [box, [0, 0, 9, 9]] for i, box in enumerate(boxes)
        }
        lines = [[{"x": 0.1 + 0.3 * i, "y": 0.2}, {"x": 0.3 + 0.3 * i, "y": 0.7}] for i in range(2)]
        traces[name] = {"captions": words[:2], "traces": lines}
        images.append({"id": index, "file_name": f"{name}.jpg"})
        dense += [{"image_id": index, "bbox": b, "caption": words[i]} for i, b in enumerate(boxes)]
        captions += [{"image_id": index, "caption": text} for text in words[:2]]
        kinds = ["dog", "cat", "person"]
        named = [{"xyxy": box, "name": kind} for box, kind in zip(boxes, kinds, strict=False)]
        objects.append({"file_name": f"{name}.jpg", "image_id": index, "boxes": named})
    contents = {
        "region_set": sets, "trace": traces, "dense": {"images": images, "annotations": dense},
        "image": {"images": images, "annotations": captions}, "objects": objects,
    }  # fmt: skip
    for task, content in contents.items():
        world.file(task).write_text(json.dumps(content))
    return world


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """One's own."""
    return World(Path(shutil.copytree(made.root, tmp_path / "world")), made.model)


Finished = Callable[[str], Path]


@pytest.fixture(scope="session")
def finished(made: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Task -> the folder of its run, with a baseline and its report; not to be changed."""

    @cache
    def run(task: str) -> Path:
        folder = tmp_path_factory.mktemp("finished") / task
        baselines = ("oracle",) if task == "image" else ("whole",)
        write_reports([made.run(folder, task=task, baselines=baselines)])
        return folder

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the one that holds times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }
