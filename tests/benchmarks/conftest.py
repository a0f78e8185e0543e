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
from tests.support.tiny import noise_photo

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "annotations"
CASES = Path(__file__).with_name("cases")


@pytest.fixture(scope="session")
def development() -> Path:
    if not (DATA / "image_captions_dev.json").is_file():
        pytest.skip("the development data is not beside this checkout")
    return DATA


@pytest.fixture(scope="session")
def dev_captions(development: Path) -> list[list[str]]:
    content = json.loads((development / "image_captions_dev.json").read_text(encoding="utf-8"))
    groups: dict[int, list[str]] = {}
    for row in content["annotations"]:
        groups.setdefault(row["image_id"], []).append(row["caption"])
    return list(groups.values())


@pytest.fixture(scope="session")
def meteor() -> Iterator[Meteor]:
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


@pytest.fixture
def encoded(monkeypatch: MonkeyPatch) -> list[str]:
    names, encode = list[str](), Patchioner.encode

    def counted(self: Patchioner, images: Any, **options: Any) -> Any:
        names.append(Path(images).stem)
        return encode(self, images, **options)

    monkeypatch.setattr(Patchioner, "encode", counted)
    return names


@dataclass
class World:
    root: Path
    model: Patchioner

    def file(self, task: str) -> Path:
        return task_named(task).files(self.root)[0]

    def change(self, task: str, edit: Callable[[Any], object]) -> None:
        content = json.loads(self.file(task).read_text())
        edit(content)
        self.file(task).write_text(json.dumps(content))

    def run(self, folder: Path, task: str = "region_set", *, resume: bool = False, load: Any = None,
            **changes: Any) -> Outcome:  # fmt: skip
        given: dict[str, Any] = {"data": str(self.file(task)), "images": str(self.root / "photos")}
        given |= {"java": "no", "rounds": 20, "batch": 3, **changes}
        run = Run("tiny", RunSettings(task, **given), folder)
        return execute([run], resume=resume, load=load or (lambda *_: self.model))[0]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model: Patchioner) -> World:
    """Eleven photos of 40 x 20 pixels, 27 region sets; the files name them in another order than the alphabet's."""
    root = tmp_path_factory.mktemp("made") / "world"
    shutil.copytree(CASES / "world", root)
    (root / "photos").mkdir()
    for index in range(11):
        photo = noise_photo(40, 20, seed=index)
        photo.save(root / "photos" / f"photo_{7 * index % 11:02d}.jpg")
    return World(root, model)


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
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


def cases(name: str) -> Any:
    return json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the one that holds times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }
