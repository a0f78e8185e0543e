import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow
import pytest
import torch
from filelock import FileLock
from pyarrow import parquet

from patchioner import Box, Mask, Patchioner
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.optional import share
from patchioner.batch import Captioner, Reading, Report, Task, read_rows, run
from patchioner.cli import main
from patchioner.regions import NamedRegion
from tests.patchioner.batch.conftest import BOX, lines
from tests.support import Capture, MonkeyPatch
from tests.support.tiny import noise_photo

Batch = Callable[..., Report]


@pytest.fixture
def batch(photos: Path, model: Patchioner, given: dict[str, Any]) -> Batch:
    def work(out: str = "out.jsonl", **more: Any) -> Report:
        return run(photos, photos.parent / out, **(given | {"model": model} | more))

    return work


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet", "out"])
def test_a_row_per_region(out: str, batch: Batch, photos: Path, model: Patchioner) -> None:
    assert (batch(out).rows, batch(out).photos) == (15, 0)
    rows, names = list(read_rows(photos.parent / out)), ("a.png", "sub/a.png")
    assert out.endswith("l") or parquet.read_table(photos.parent / out).num_rows == 15
    boxes = [Box(5 * n, 4, 5 * n + 40, 34) for n in range(3)]
    by_hand = [one.text for name in names for one in model.caption(photos / name, boxes)]
    assert [row.text for name in names for row in rows if row.photo == name] == by_hand
    one = next(row for row in rows if row.key == ("b.png", 2))
    assert (one.annotation_id, one.category, one.kind) == ("12", "cat", "box")
    assert one.bbox == (10.0, 4.0, 50.0, 34.0)
    assert json.loads(one.source or "")["rater"] == "née"


def test_a_photo_given_twice_is_encoded_once(
    batch: Batch, model: Patchioner, monkeypatch: MonkeyPatch, tmp_path: Path
) -> None:
    backbone = model._placed.backbone
    watch = Mock(wraps=backbone.encode)
    monkeypatch.setattr(backbone, "encode", watch)
    batch()  # b.png is sub/d.png, which would lie in another shard
    assert sum(len(call.args[0]) for call in watch.call_args_list) == 4
    rows = {row.key: row.text for row in read_rows(tmp_path / "out.jsonl")}
    assert [rows["b.png", n] for n in range(3)] == [rows["sub/d.png", n] for n in range(3)]


def test_failures_are_rows_and_are_tried_again(batch: Batch, photos: Path, tmp_path: Path) -> None:
    good = (photos / "c.png").read_bytes()
    (photos / "c.png").write_bytes(good[:100])
    assert (batch().status, batch().failed) == (3, {"ImageError": 3})
    failed = [row for row in read_rows(tmp_path / "out.jsonl") if row.error]
    assert [row.annotation_id for row in failed] == ["20", "21", "22"]
    (photos / "c.png").write_bytes(good)
    (photos / "b.png").unlink()  # what has succeeded is not tried again
    assert batch().status == 3
    assert batch(retry=True).status == 0
    assert [row.key[0] for row in read_rows(tmp_path / "out.jsonl")].count("b.png") == 3


def test_a_stored_success_beats_a_failure(batch: Batch, photos: Path, tmp_path: Path) -> None:
    annotations = (tmp_path / "coco.json").read_text()
    before, bad = '"image_id": 2, "category_id": 1, "bbox": [5', '"image_id": 2, "box": [5'
    (tmp_path / "coco.json").write_text(annotations.replace(before, bad))
    assert batch().failed == {"RegionFileError": 1}
    stored = list(read_rows(tmp_path / "out.jsonl"))
    (photos / "c.png").write_bytes(b"broken")  # the others of its regions had succeeded
    assert batch(retry=True).failed == {"ImageError": 1}
    after = list(read_rows(tmp_path / "out.jsonl"))
    assert [one for one in after if not one.error] == [one for one in stored if not one.error]


def test_the_input_may_grow(batch: Batch, photos: Path, tmp_path: Path) -> None:
    batch(reading=Reading())
    before = lines(tmp_path / "out.jsonl")
    noise_photo(seed=9).save(photos / os.fsdecode(b"a\xff.png"))  # no UTF-8
    assert (batch(reading=Reading()).photos, batch(reading=Reading()).photos) == (1, 0)
    assert set(before) < set(lines(tmp_path / "out.jsonl"))


def test_another_run_in_the_same_place_is_refused(batch: Batch, tmp_path: Path) -> None:
    batch()
    unsure, others = Task(how={"min_confidence": 0.5}), Reading()
    for named, changed in (
        ("task", {"task": Task("alt")}), (r"how\.min_confidence", {"task": unsure}),
        ("regions", {"reading": others}),
        ("normalized", {"reading": Reading(str(tmp_path / "coco.json"), normalized=True)}),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=named):
            batch(**changed)
    content = (tmp_path / "coco.json").read_text()
    (tmp_path / "coco.json").write_text(content.replace("cat", "dog"))
    with pytest.raises(OptionError, match="regions"):
        batch()
    (tmp_path / "coco.json").write_text(content)
    (tmp_path / "out.jsonl.run" / "000000.jsonl").write_text('{"photo": "a", "caption": "b"}')
    with pytest.raises(OptionError, match="no rows of version"):
        batch()


def test_a_tar_that_was_written_anew_is_done_over(model: Patchioner, tmp_path: Path) -> None:
    def write(name: str, seed: int) -> None:
        noise_photo(seed=seed).save(tmp_path / "a.png")
        with tarfile.open(tmp_path / "tars" / name, "w") as file:
            file.add(tmp_path / "a.png", "a.png")

    def work() -> tuple[int, list[str | None]]:
        photos = run(tmp_path / "tars", tmp_path / "out.jsonl", model=model).photos
        return photos, [row.text for row in read_rows(tmp_path / "out.jsonl")]

    (tmp_path / "tars").mkdir()
    write("0.tar", 0)
    write("1.tar", 1)
    asked, before = work()
    assert (asked, work()) == (2, (0, before))
    write("0.tar", 5)
    asked, texts = work()
    assert (asked, texts[1]) == (1, before[1]) and texts[0] != before[0]


def test_keys_of_rows_of_several_shards(photos: Path, model: Patchioner, tmp_path: Path) -> None:
    """A photo may stand in distant rows and files, and between its rows another."""
    boxes = [[float(n), 4.0, 40.0 + n, 30.0] for n in range(8)]
    for name, some in (("0", slice(0, 5)), ("1", slice(5, 8))):
        given: Any = {"path": ["a.png", "b.png"] * 4, "bbox": boxes, "id": list(range(8))}
        table = pyarrow.Table.from_pydict({key: values[some] for key, values in given.items()})
        parquet.write_table(table, photos / f"{name}.parquet", row_group_size=2)
    source, reading = str(photos / "*.parquet"), Reading(box_format="xyxy")
    out = photos / "captions.parquet"  # which is no source, though it lies among them
    found = run(source, out, model=model, reading=reading, shards=2)
    assert run(source, out, model=model, reading=reading).photos == 0
    with pytest.raises(PatchionerError, match="only tables of rows"):
        run(f"{out}.run", tmp_path / "again", model=model)
    rows = list(read_rows(out))
    assert found.rows == len({row.key for row in rows}) == 8 and found.status == 0
    for row in rows:
        number = int(row.annotation_id or "")
        assert (row.photo, row.bbox) == ("ab"[number % 2] + ".png", tuple(boxes[number]))
        (caption,) = model.caption(photos / row.photo, [Box(*boxes[number])])
        assert row.text == caption.text


@pytest.mark.parametrize("by", ["ours", "supervision", "ultralytics"])
def test_pairs_from_python(by: str, photos: Path, model: Patchioner, tmp_path: Path) -> None:
    """An empty mask costs its row; a finished run is not done again, and other pairs are another run."""
    masks, picture = torch.zeros(2, 64, 96), np.asarray(noise_photo(seed=5))
    masks[0] = 1
    said = {"class_name": "cat", "class_id": 3, "confidence": 0.5, "tracker_id": 7}
    regions: Any = [NamedRegion(Mask(masks[0]), "cat", 5, said)]
    if by != "ours":
        supervision = pytest.importorskip("supervision")
        rows: Any = {"xyxy": [[1, 2, 40, 30]] * 2, "conf": [0.5, 0.2], "cls": [3, 3], "id": [7, 8]}
        boxes = SimpleNamespace(**{name: torch.tensor(one) for name, one in rows.items()})
        regions = SimpleNamespace(names={3: "cat"}, masks=SimpleNamespace(data=masks), boxes=boxes)
        regions.orig_shape = (64, 96)
    if by == "supervision":
        regions = supervision.Detections.from_ultralytics(regions)
    pairs: list[Any] = [(photos / "a.png", regions), (picture, None), (photos / "none.png", [])]

    def work(pairs: Any) -> tuple[int, int]:
        report = run(iter(pairs), tmp_path / "out.jsonl", model=model)
        return report.photos, sum(report.failed.values())

    assert [work(pairs), work(pairs)] == [(3, by != "ours"), (0, by != "ours")]
    one, *empty, whole = read_rows(tmp_path / "out.jsonl")
    assert (one.photo, one.category, whole.photo) == (str(photos / "a.png"), "cat", "#1")
    assert json.loads(one.source or "") == said and (by == "ours") == (one.annotation_id == "5")
    assert one.text == model.caption(photos / "a.png", [Mask(masks[0])])[0].text
    assert whole.text == model.caption(picture)[0].text
    assert [row.error for row in empty] == ["RegionFileError"] * (by != "ours")
    changed = [(photos / "a.png", [Box(1, 2, 40, 31)]), *pairs[1:]]
    for other in (pairs[:2], [*pairs, pairs[0]], changed, ["a.png", 5]):
        with pytest.raises(OptionError, match="pair"):
            work(other)


def test_settings_that_make_no_sense_are_refused(batch: Batch) -> None:
    wrong = {"engine": "dask", "shards": 0, "max_failures": -1, "task": "alt", "reading": {}}
    for name, value in wrong.items():
        with pytest.raises(OptionError, match=name):
            batch(**{name: value})
    no_such: Any = (("captoin",), ("label",), ("alt", ("a cat",)), ("embed", (), {"how": 5}))
    for given in no_such:
        with pytest.raises(OptionError, match=given[0]):
            Task(*given)


def test_too_many_failures_stop_the_run(batch: Batch, photos: Path, tmp_path: Path) -> None:
    for name in ("b.png", "c.png"):
        (photos / name).write_bytes(b"broken")
    found = batch(max_failures=4)
    assert found.stopped and found.status
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("task", ["embed", "alt", "label", "detail"])
def test_other_tasks(task: str, batch: Batch, calibrated: Patchioner, tmp_path: Path) -> None:
    batch(task=Task(task, ("a cat", "a bus") if task == "label" else ()), model=calibrated)
    rows = list(read_rows(tmp_path / "out.jsonl"))
    if task == "embed":
        assert {len(row.embedding or ()) for row in rows} == {calibrated.parts.backbone.dim}
    elif task == "label":
        assert {row.text for row in rows} <= {"a cat", "a bus"}
    else:
        assert [(row.kind, row.error) for row in rows] == [("whole_image", None)] * 6
        assert all(row.text for row in rows)


KILLS = int(os.environ.get("PATCHIONER_KILLS", "1"))


def test_two_processes_share_the_work_though_one_is_killed(
    photos: Path, checkpoint: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    model, regions = str(checkpoint), str(tmp_path / "coco.json")
    run(photos, tmp_path / "sound.jsonl", model=model, **given)
    wanted, chance = lines(tmp_path / "sound.jsonl"), np.random.default_rng(0)
    words = ["batch", str(photos), "--regions", regions, "--shards", "3", "--model", model, "--out"]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    start: Any = partial(subprocess.Popen, env=here, stderr=subprocess.DEVNULL)
    met = 0
    for kill in range(KILLS):
        out = tmp_path / f"{kill}.jsonl"
        command = [sys.executable, "-m", "patchioner", *words, str(out)]
        with start(command) as one, start(command) as two:
            while one.poll() is None and not out.with_name(f"{out.name}.run").exists():
                time.sleep(0.02)
            time.sleep(chance.uniform(0.0, 1.0))  # of the second or so that the work takes
            met += two.poll() is None
            two.kill()
            assert one.wait(600) == 0
        assert lines(out) == wanted
        assert run(photos, out, model=model, **given).photos == 0
    print(f"{met} of {KILLS} kills met a process at work")


def test_it_says_what_failed(photos: Path, checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    out, model = str(tmp_path / "out.csv"), ["--model", str(checkpoint), "--device", "cpu"]
    words = ["batch", str(photos), *model, "--out"]
    assert main([*words, out, "--profile", "2.5"]) == 0
    told = capsys.readouterr().out
    assert "the backbone alone" in told and "at 2.5 an hour" in told
    labels = [str(tmp_path / "labels.jsonl"), "--task", "label", "--labels", "a cat;a bus"]
    assert main([*words, *labels, "--min-confidence", "1"]) == 0
    assert {row.text for row in read_rows(labels[0])} == {None}
    places = f"--gallery {out}", f"--export coco={out}"
    for wrong in ("--max-failures -1", "--engine ray:0", *places):
        assert main([*words, out, *wrong.split()]) == 2
    assert main([*words, ""]) == main(["batch", "", *model, "--out", out]) == 1
    (photos / "broken.png").write_bytes(b"")
    assert main([*words, out]) == 3
    assert "1  ImageError" in capsys.readouterr().out
    assert main([*words, out, "--task", "alt"]) == 1
    assert main(["batch", str(tmp_path / "nothing"), "--out", out]) == 1
    assert main(["alt", str(photos), "--out", str(tmp_path / "alt.csv"), *model]) == 3


HERE = {"PYTHONPATH": str(Path(__file__).parents[3])}
DRIVER = """
import sys
import ray
from patchioner.batch import Reading, run
photos, out, regions, model, address, here = sys.argv[1:]
ray.init(address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": here}})
run(photos, out, engine="ray:2", reading=Reading(regions), shards=6, model=model)
"""


def workers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it is gone
            if b"ray::MapWorker(Map(Worker))" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.usefixtures("cluster")
def test_begun_by_a_driver_that_is_killed_it_is_finished_though_a_worker_is_killed(
    photos: Path, given: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    """Begun locally, gone on with by the driver's workers, finished by ours: the rows are those of one local run."""
    out, more = tmp_path / "ray", given | {"shards": 6, "model": str(checkpoint)}
    run(photos, out, **more)
    wanted = lines(out)
    for number in (0, 4, 5):
        (out / f"{number:06d}.parquet").unlink()
    address = pytest.importorskip("ray").get_runtime_context().gcs_address
    words = (photos, out, tmp_path / "coco.json", checkpoint, address, HERE["PYTHONPATH"])
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", DRIVER, *map(str, words)]
    with FileLock(out / ".locks" / "000005"):  # so that the driver cannot end before it is killed
        with subprocess.Popen(command, env=os.environ | HERE, **quiet) as driver:
            end = time.monotonic() + 300
            while driver.poll() is None and time.monotonic() < end:
                if len(list(out.glob("*.parquet"))) > 3:
                    break
                time.sleep(0.1)
            driver.kill()
        assert driver.returncode == -signal.SIGKILL and len(list(out.glob("*.parquet"))) > 3
    killed, finished, theirs = list[int](), threading.Event(), set(workers())

    def kill() -> None:
        while not killed and not finished.wait(0.05):
            for pid in set(workers()) - theirs:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        report = run(photos, out, engine="ray:2", **more)
    finally:
        finished.set()
        killer.join()
    assert report.status == 0 and lines(out) == wanted
    assert killed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_workers_share_a_gpu_and_count_their_failures_together(
    photos: Path, given: dict[str, Any], checkpoint: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """Three of each photo; the shards of the other photos are held, so that only this ends the run."""
    dataset, takes = pytest.importorskip("ray.data").Dataset, dict[str, Any]()
    usual = dataset.map
    spy = lambda self, kind, **how: takes.update(how) or usual(self, kind, **how)  # noqa: E731
    monkeypatch.setattr(dataset, "map", spy)
    for name in ("a.png", "b.png", "c.png"):
        (photos / name).write_bytes(b"broken")
    out, more = tmp_path / "out", given | {"shards": 6, "model": str(checkpoint)}
    (out / ".locks").mkdir(parents=True)
    held = ExitStack()  # so that nothing waits for ever
    for n in (3, 4, 5):
        held.enter_context(FileLock(out / ".locks" / f"{n:06d}", thread_local=False))
    (timer := threading.Timer(300, held.close)).start()
    found = run(photos, out, engine="ray:2", max_failures=8, **more)
    timer.cancel()
    held.close()
    assert found.stopped and found.failed == {"ImageError": 9} and found.status == 1
    assert (takes["num_gpus"], takes["num_cpus"], takes["compute"].max_size) == (0.5, 2, 2)
    assert [share(4, n) for n in (2, 4, 6, 8)] == [1, 1, 0.5, 0.5] and share(9, 4, 2) == 2


READERS: dict[str, tuple[str, dict[str, Any]]] = {
    "read_parquet": ("parquet", {"boxes": "boxes"}), "read_binary_files": ("png", {"image": "bytes"}),
    "read_webdataset": ("tar", {"boxes": "boxes.json", "image": "png"}), "read_images": ("png", {}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("reader", READERS)
def test_captioners_between_rays_readers_and_writers(reader: str, checkpoint: Path, tmp_path: Path) -> None:
    """Photos of unlike shapes, one a file; tables of Arrow become one, though one has no caption, or no error."""
    ray, model = pytest.importorskip("ray.data"), Patchioner.from_pretrained(str(checkpoint))
    (end, how), more, wanted = READERS[reader], {"include_paths": True}, list[Any]()
    kind = pyarrow.list_(pyarrow.list_(pyarrow.float64()))
    boxes: Any = [[BOX, [9, 9, 60, 60]], [], [BOX]]
    for name in ("png", "tar", "parquet"):
        (tmp_path / name).mkdir()
    for number, size in enumerate(((64, 80), (96, 64), (96, 64))):
        path, told = tmp_path / "png" / f"{number}.png", tmp_path / "boxes.json"
        noise_photo(*size, seed=number).save(path)
        asked = [Box(*one) for one in boxes[number]] if "boxes" in how else None
        texts = [one.text for one in model.caption(path, asked)]
        if number == 2 and reader in ("read_parquet", "read_binary_files"):
            texts = [None] if path.write_bytes(b"broken") else []
        told.write_text(json.dumps(boxes[number]))
        with tarfile.open(tmp_path / "tar" / f"{number}.tar", "w") as tar:
            tar.add(path, f"{number}.png")
            tar.add(told, f"{number}.boxes.json")
        columns = {"image": [path.read_bytes()], "boxes": pyarrow.array([boxes[number]], kind)}
        parquet.write_table(pyarrow.table(columns), tmp_path / "parquet" / f"{number}.parquet")
        wanted.append(texts if "boxes" in how else texts[0])
    given: Any = {"fn_constructor_kwargs": {"model": str(checkpoint), **how}}
    given |= {"batch_format": "pyarrow"}
    more |= {"mode": "RGB"} if reader == "read_images" else {}  # type: ignore[dict-item]
    rows = getattr(ray, reader)(str(tmp_path / end), **more)
    rows = rows.map_batches(Captioner, compute=ray.ActorPoolStrategy(size=1), **given)
    rows.write_parquet(str(tmp_path / "out"))  # pictures of unlike shapes have types of their own
    found = parquet.read_table(tmp_path / "out", columns=["path", "caption", "error"])
    assert found.sort_by("path")["caption"].to_pylist() == wanted
    assert ("ImageError" in str(found["error"].to_pylist())) == ("None" in str(wanted))
