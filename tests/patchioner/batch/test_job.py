from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.batch import Reading, Row, Task, job, read_rows, run
from patchioner.cli.main import main
from patchioner.detail.calibrate import calibrate_model
from tests.support.tiny import TEXTS, noise_photo


def lines(out: Path) -> list[str]:
    return sorted(json.dumps(row.to_dict()) for row in read_rows(out))


def captions(rows: Sequence[Row]) -> dict[tuple[str, int], str | None]:
    return {row.key: row.text for row in rows}


@pytest.fixture
def batch(photos: Path, model: Patchioner, tmp_path: Path) -> Callable[..., job.Report]:
    """`batch(out, ...)` captions the regions of the photos, two photos a shard."""

    def work(out: str = "out.jsonl", **more: Any) -> job.Report:
        given = {"reading": Reading(str(tmp_path / "coco.json")), "shards": 3, "model": model}
        return run(photos, tmp_path / out, **(given | more))

    return work


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet", "out"])
def test_a_row_per_region_says_what_caption_says(
    out: str, batch: Callable[..., job.Report], photos: Path, model: Patchioner, tmp_path: Path
) -> None:
    assert (batch(out).rows, batch(out).photos) == (15, 0)
    rows = list(read_rows(tmp_path / out))
    by_hand = [
        one.text
        for name in ("a.png", "sub/a.png")
        for one in model.caption(photos / name, [row_box(n) for n in range(3)])
    ]
    assert [r.text for n in ("a.png", "sub/a.png") for r in rows if r.photo == n] == by_hand
    one = next(row for row in rows if row.key == ("b.png", 2))
    assert (one.annotation_id, one.category, one.kind) == ("12", "cat", "box")
    assert one.bbox == (10.0, 4.0, 50.0, 34.0)
    assert json.loads(one.source or "")["rater"] == "née"


def row_box(n: int) -> Any:
    from patchioner import Box

    return Box(5 * n, 4, 5 * n + 40, 34)


def test_a_photo_given_twice_is_encoded_once(
    batch: Callable[..., job.Report],
    model: Patchioner,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    seen: list[int] = []
    encode = model._placed.backbone.encode

    def counted(photos: Sequence[Any]) -> Any:
        seen.append(len(photos))
        return encode(photos)

    monkeypatch.setattr(model._placed.backbone, "encode", counted)
    batch(shards=1)
    assert sum(seen) == 4  # b.png is sub/d.png, and e.png has no regions
    rows = captions(list(read_rows(tmp_path / "out.jsonl")))
    assert [rows["b.png", n] for n in range(3)] == [rows["sub/d.png", n] for n in range(3)]


def test_failures_are_rows_and_are_tried_again_on_demand(
    batch: Callable[..., job.Report], photos: Path, tmp_path: Path
) -> None:
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


def test_the_input_may_grow(batch: Callable[..., job.Report], photos: Path, tmp_path: Path) -> None:
    batch(reading=Reading())
    before = lines(tmp_path / "out.jsonl")
    noise_photo(seed=9).save(photos / os.fsdecode(b"a\xff.png"))  # no UTF-8
    os.utime(tmp_path / "out.jsonl", (4e9, 4e9))  # a clock that was set back
    assert (batch(reading=Reading()).photos, batch(reading=Reading()).photos) == (1, 0)
    assert set(before) < set(lines(tmp_path / "out.jsonl"))


@pytest.mark.parametrize(("change", "named"), [
    ({"task": Task("alt")}, "task"),
    ({"task": Task(how={"min_confidence": 0.5})}, "how.min_confidence"),
    ({"reading": Reading()}, "regions"),
    ({}, "regions"),
])  # fmt: skip
def test_another_run_in_the_same_place_is_refused(
    change: dict[str, Any], named: str, batch: Callable[..., job.Report], tmp_path: Path
) -> None:
    batch()
    if not change:
        content = (tmp_path / "coco.json").read_text()
        (tmp_path / "coco.json").write_text(content.replace("cat", "dog"))
    with pytest.raises(OptionError, match=named):
        batch(**change)


def test_no_input_is_written_over_and_no_manifest_trusted(
    batch: Callable[..., job.Report], tmp_path: Path
) -> None:
    (tmp_path / "regions.jsonl").write_bytes((tmp_path / "coco.json").read_bytes())
    with pytest.raises(OptionError, match="overwritten"):
        batch("regions.jsonl", reading=Reading(str(tmp_path / "regions.jsonl")))
    batch("out")
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"per_shard": 2', '"per_shard": "2"'))
    with pytest.raises(OptionError, match="per_shard"):
        batch("out")


def test_a_tar_that_was_written_anew_is_done_over(model: Patchioner, tmp_path: Path) -> None:
    def write(name: str, seed: int) -> None:
        noise_photo(seed=seed).save(tmp_path / f"{seed}.png")
        with tarfile.open(tmp_path / "tars" / name, "w") as file:
            file.add(tmp_path / f"{seed}.png", "a.png")

    def texts() -> list[str | None]:
        return [row.text for row in read_rows(tmp_path / "out.jsonl")]

    (tmp_path / "tars").mkdir()
    write("0.tar", 0)
    write("1.tar", 1)
    given: Any = {"source": tmp_path / "tars", "out": tmp_path / "out.jsonl", "model": model}
    assert (run(**given).photos, run(**given).photos) == (2, 0)
    before = texts()
    write("0.tar", 5)
    assert (run(**given).photos, run(**given).photos) == (1, 0)
    assert texts()[0] != before[0] and texts()[1] == before[1]


def test_rows_of_a_photo_in_several_shards_have_keys_of_their_own(
    photos: Path, model: Patchioner, tmp_path: Path
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    boxes = [[float(n), 4.0, 40.0 + n, 30.0] for n in range(6)]
    for name, given in (("0", boxes[:4]), ("1", boxes[4:])):
        table = arrow.Table.from_pydict({"path": ["a.png"] * len(given), "bbox": given})
        parquet.write_table(table, photos / f"{name}.parquet", row_group_size=2)
    for name in ("b.png", "c.png", "e.png"):
        (photos / name).unlink()
    source = str(photos / "*.parquet")
    found = run(source, tmp_path / "out", model=model, reading=Reading(box_format="xyxy"))
    rows = list(read_rows(tmp_path / "out"))
    assert found.rows == len({row.key for row in rows}) == 6
    assert {row.photo for row in rows} == {"a.png"} and found.status == 0
    assert sorted(row.bbox or () for row in rows) == sorted(map(tuple, boxes))


def test_too_many_failures_stop_the_run(
    batch: Callable[..., job.Report], photos: Path, tmp_path: Path
) -> None:
    for name in ("b.png", "c.png"):
        (photos / name).write_bytes(b"broken")
    found = batch(max_failures=4)
    assert found.stopped and found.status
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("task", ["embed", "alt", "label", "detail"])
def test_other_tasks(
    task: str, batch: Callable[..., job.Report], model: Patchioner, tmp_path: Path
) -> None:
    if task == "detail":
        pairs = [(noise_photo(seed=seed), (TEXTS[seed], TEXTS[seed + 6])) for seed in range(12)]
        known = {"detail": calibrate_model(model, pairs).to_json()}
        settings = replace(model.settings, calibration=known)
        model = Patchioner(replace(model.parts, settings=settings), device="cpu")
    batch(task=Task(task, ("a cat", "a bus") if task == "label" else ()), model=model)
    rows = list(read_rows(tmp_path / "out.jsonl"))
    if task == "embed":
        assert {len(row.embedding or ()) for row in rows} == {model.parts.backbone.dim}
    elif task == "label":
        assert {row.text for row in rows} <= {"a cat", "a bus"}
    else:
        assert [(row.kind, row.error) for row in rows] == [("whole_image", None)] * 6
        assert all(row.text for row in rows)


READERS: dict[str, Callable[[Any, str], Any]] = {
    "pyarrow.parquet": lambda library, path: library.read_table(path)["annotation_id"].to_pylist(),
    "pandas": lambda library, path: library.read_parquet(path)["annotation_id"],
    "duckdb": lambda library, path: library.sql(f"from '{path}'").df()["annotation_id"],
    "datasets": lambda library, path: library.Dataset.from_parquet(path, cache_dir=f"{path}.cache")["annotation_id"],
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_others_read_the_rows(
    reader: str, batch: Callable[..., job.Report], tmp_path: Path
) -> None:
    library = pytest.importorskip(reader)
    batch("out.parquet")
    ids = READERS[reader](library, str(tmp_path / "out.parquet"))
    assert sorted(ids) == sorted(str(10 * image + n) for image in range(5) for n in range(3))


class Faults:
    """The n-th open, write, fsync or rename below a folder fails, once or from then on."""

    def __init__(self, folder: Path, nth: int, persistent: bool) -> None:
        self.folder, self.nth, self.persistent, self.count = str(folder), nth, persistent, 0

    def striking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.nth or (self.persistent and self.count > self.nth):
                raise OSError(28, "No space left on device")
            return function(*given, **named)

        return call

    def install(self, patch: pytest.MonkeyPatch) -> None:
        opened = Path.open

        def open_(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
            if "w" not in mode or not str(path).startswith(self.folder):
                return opened(path, mode, *more, **named)
            stream = self.striking(opened)(path, mode, *more, **named)
            return Stream(stream, self.striking(stream.write))

        patch.setattr(Path, "open", open_)
        for name in ("replace", "fsync"):
            patch.setattr(os, name, self.striking(getattr(os, name)))


class Stream:
    """A file whose writes may fail."""

    def __init__(self, stream: Any, write: Callable[..., Any]) -> None:
        self._stream, self.write = stream, write

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_whatever_fails_to_be_written_nothing_is_lost_or_doubled(
    out: str, persistent: bool, photos: Path, model: Patchioner, tmp_path: Path
) -> None:
    given: Any = {"reading": Reading(str(tmp_path / "coco.json")), "shards": 2, "model": model}
    run(photos, tmp_path / "sound" / out, **given)
    wanted = lines(tmp_path / "sound" / out)
    faults = Faults(tmp_path, 0, persistent)
    while faults.count >= faults.nth:  # until a run passes; Arrow writes in hundreds of pieces
        folder = tmp_path / f"{faults.nth}"
        faults = Faults(folder, faults.nth + 1 + faults.nth // 8, persistent)
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                run(photos, folder / out, **given)
            except OSError:
                assert not (folder / out).exists()
        run(photos, folder / out, **given)
        assert lines(folder / out) == wanted
    assert faults.nth > 10


SCRIPT = """
import sys
from pathlib import Path
from patchioner.batch import Reading, run
photos, out, regions, model = sys.argv[1:]
print("ready", flush=True)
run(photos, out, reading=Reading(regions), shards=3, model=model)
"""


def started(photos: Path, out: Path, checkpoint: str) -> subprocess.Popen[bytes]:
    regions = str(photos.parent / "coco.json")
    words = [sys.executable, "-c", SCRIPT, str(photos), str(out), regions, checkpoint]
    here = os.pathsep.join(path for path in sys.path if path)
    told: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": here}, **told)
    assert process.stdout is not None
    process.stdout.readline()
    return process


KILLS = int(os.environ.get("PATCHIONER_KILLS", "3"))


def test_a_killed_run_goes_on_where_it_was(photos: Path, checkpoint: str, tmp_path: Path) -> None:
    given: Any = {"reading": Reading(str(tmp_path / "coco.json")), "shards": 3}
    run(photos, tmp_path / "sound.jsonl", model=checkpoint, **given)
    chance = np.random.default_rng(0)
    for kill in range(KILLS):
        out = tmp_path / f"{kill}.jsonl"
        with started(photos, out, checkpoint) as process:
            time.sleep(chance.uniform(0.0, 3.0))
            process.send_signal(signal.SIGKILL)
        run(photos, out, model=checkpoint, **given)
        assert lines(out) == lines(tmp_path / "sound.jsonl")


def test_two_processes_share_the_work(photos: Path, checkpoint: str, tmp_path: Path) -> None:
    given: Any = {"reading": Reading(str(tmp_path / "coco.json")), "shards": 3}
    run(photos, tmp_path / "sound.jsonl", model=checkpoint, **given)
    out = tmp_path / "shared.jsonl"
    with started(photos, out, checkpoint) as one, started(photos, out, checkpoint) as two:
        assert (one.wait(600), two.wait(600)) == (0, 0)
    assert lines(out) == lines(tmp_path / "sound.jsonl")


def test_the_command_says_what_failed(
    photos: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = str(tmp_path / "out.csv"), ["--model", checkpoint, "--device", "cpu"]
    words = ["batch", str(photos), *model, "--out"]
    assert main([*words, out, "--profile", "2.5"]) == 0
    told = capsys.readouterr().out
    assert "the backbone alone" in told and "at 2.5 an hour" in told
    labels = [str(tmp_path / "labels.jsonl"), "--task", "label", "--labels", "a cat;a bus"]
    assert main([*words, *labels, "--min-confidence", "1"]) == 0
    assert {row.text for row in read_rows(labels[0])} == {None}
    (tmp_path / "r.json").write_text('{"regions": [{"box": [0, 0, 0.5, 1]}]}')
    shares = [str(tmp_path / "r.jsonl"), "--regions", str(tmp_path / "r.json"), "--normalized"]
    assert main([*words, *shares]) == 0
    assert {row.bbox for row in read_rows(shares[0])} == {(0, 0, 48, 64)}
    (photos / "broken.png").write_bytes(b"")
    assert main([*words, out]) == 3
    assert "1  ImageError" in capsys.readouterr().out
    assert main([*words, out, "--task", "alt"]) == 1
    assert main(["batch", str(tmp_path / "nothing"), "--out", out]) == 1
    assert main(["alt", str(photos), "--out", str(tmp_path / "alt.csv"), *model]) == 3
