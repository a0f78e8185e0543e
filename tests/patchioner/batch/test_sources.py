import base64
import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from patchioner import Patchioner
from patchioner import batch as job
from patchioner.base.errors import ImageError, OptionError
from patchioner.batch import read_rows, run
from patchioner.batch.sources import Lazy, Reading, Sample, Source, open_source
from patchioner.batch.tasks import Asked
from patchioner.cli import main
from patchioner.geometry import fit_image
from patchioner.regions import Box, WholeImage
from tests.patchioner.batch.conftest import NAMES
from tests.support import Capture, MonkeyPatch
from tests.support.server import picture_bytes
from tests.support.tiny import noise_photo

GEOMETRY = fit_image((96, 64), mode="stretch", size=64, patch_size=16)
PNGS = [picture_bytes(noise_photo(seed=seed)) for seed in range(3)]


def samples(source: Source) -> list[Sample]:
    return list(source.samples(source.keys()))


def names(source: Source) -> list[str]:
    return [one.photo for one in samples(source)]


def boxes(sample: Sample) -> list[Any]:
    return Asked([sample], whole=False).regions(GEOMETRY)


def fetched(sample: Sample) -> bytes:
    assert isinstance(sample.image, Lazy)
    return sample.image.read()


def write_table(place: Path, /, **columns: list[Any]) -> Path:
    parquet.write_table(pyarrow.Table.from_pydict(columns), place, row_group_size=2)
    return place


def test_a_folder_is_gone_through_and_links_are_followed_once(photos: Path) -> None:
    (photos / "sub" / "loop").symlink_to(photos)
    (photos / "gone.jpg").symlink_to(photos / "nowhere")
    (photos / "thumbnails").mkdir()
    (photos / "thumbnails" / "a.png").write_bytes(b"small")
    source = open_source(photos)
    assert names(source) == sorted([*NAMES, "gone.jpg"])
    assert source.left_out == {".txt": 1}
    (photos / "c.png").unlink()
    with_regions = open_source(photos, Reading(str(photos.parent / "coco.json")))
    assert sum(with_regions.left_out.values()) == 2


@pytest.mark.parametrize(("place", "found"), [
    ("photos/**/a.png", "a.png sub/a.png"), ("photos/[bc].png", "b.png c.png"), ("photos/a.png", "a.png"),
    ("list.txt", "photos/b.png photos/sub/a.png"), ("wide.txt", "photos/b.png photos/sub/a.png"),
    ("odd::na[m]e", "a.png"), ("photos/coco.json", " ".join(NAMES)),
    (("photos/sub", "photos/e.png"), "sub/a.png sub/d.png e.png"),
])  # fmt: skip
def test_what_a_source_may_be(place: Any, found: str, photos: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    for name, encoding in (("list.txt", "utf-8"), ("wide.txt", "utf-16")):
        lines = "photos/b.png\nphotos/sub/a.png\n\nphotos/b.png\n"
        (tmp_path / name).write_text(lines, encoding=encoding)
    (tmp_path / "odd::na[m]e").mkdir()
    (tmp_path / "odd::na[m]e" / "a.png").write_bytes(PNGS[0])
    (photos / "coco.json").write_bytes((tmp_path / "coco.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    there = tmp_path / place if isinstance(place, str) else [tmp_path / one for one in place]
    assert names(open_source(place)) == names(open_source(there)) == found.split()


def test_regions_may_lie_in_a_file_for_each_photo(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "regions" / "sub").mkdir(parents=True)
    for name in ("a", "sub/a"):
        entry = {"box": [1, 2, 30, 40 + len(name)], "id": name}
        (tmp_path / "regions" / f"{name}.json").write_text(json.dumps({"regions": [entry]}))
    found = samples(source := open_source(photos, how := Reading(str(tmp_path / "regions"))))
    assert [one.photo for one in found if boxes(one)] == ["a.png", "sub/a.png"]
    assert boxes(found[4]) == [Box(1, 2, 30, 45)] and 4 in source.left_out.values()
    shutil.copy(tmp_path / "regions" / "a.json", tmp_path / "regions" / "e.json")  # drawn later
    assert open_source(photos, how).stamps()["e.png"] != source.stamps()["e.png"]
    (tmp_path / "regions" / "sub" / "a.json").unlink()  # then a.json is like both photos
    both = samples(open_source(photos, how))
    assert [one.photo for one in both if one.error] == ["a.png", "sub/a.png"]


@pytest.mark.parametrize("name", ["narratives.jsonl", "lvis.json", "tasks.json"])
def test_photos_beside_their_file(name: str, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("cases") / "sources" / name, tmp_path)
    for number in (7, 8):
        (tmp_path / f"{number:012}.png").write_bytes(PNGS[0])
    one, two = samples(open_source(tmp_path / name))
    assert (one.photo, two.photo) == ("000000000007.png", "000000000008.png")
    assert [len(boxes(sample)) for sample in (one, two)] == [2, 1]


def test_numbers_of_regions_mean_what_is_told(tmp_path: Path) -> None:
    exif, file = Image.Exif(), tmp_path / "r.json"
    exif[0x0112] = 6  # to be turned clockwise
    (tmp_path / "photos").mkdir()
    noise_photo(64, 96).save(tmp_path / "photos" / "a.jpg", exif=exif)
    given: Any
    for box, given, due in (
        ([0.25, 0.5, 0.5, 1], {"normalized": True}, Box(24, 32, 48, 64)),
        ([0, 0, 10, 20], {"exif": "ignore"}, Box(76, 0, 96, 10)),
    ):
        file.write_text(json.dumps({"regions": [{"box": box}]}))
        (sample,) = samples(open_source(tmp_path / "photos", Reading(str(file), **given)))
        assert boxes(sample) == [due]
    (tmp_path / "0.tar").write_bytes(tar())
    with pytest.raises(OptionError, match="exif"):
        open_source(tmp_path / "0.tar", Reading(exif="ignore"))
    with pytest.raises(OptionError, match="sideways"):
        Reading(exif="sideways")


def test_a_url_is_a_source(photos: Path) -> None:
    fsspec: Any = pytest.importorskip("fsspec")
    files = {f"/store/{n}/{n}.png": PNGS[n] for n in range(2)} | {"/store/x.tar": tar()}
    fsspec.filesystem("memory").pipe(files)
    for place in ("memory://store", "memory://store/*/*.png"):
        found = samples(open_source(place))
        assert [one.photo for one in found] == ["0/0.png", "1/1.png"]
        assert fetched(found[1]) == PNGS[1]
    assert fetched(samples(open_source("memory://store/x.tar"))[0]) == PNGS[1]
    numbered = samples(open_source("memory://store/{0..1}/{0..1}.png"))
    assert [one.photo for one in numbered] == ["0/0.png", "1/1.png"]
    with pytest.raises(OptionError, match="nosuch"):
        open_source("nosuch://bucket")
    with pytest.raises(ImageError, match="photo"):
        Lazy("photo", lambda: dict[str, bytes]()["x"]).read()


def tar(mode: str = "w") -> bytes:
    beside = {"regions": [{"box": [1, 2, 30, 40], "id": 5}], "mood": "calm"}
    members = {
        "x/1.png": PNGS[1], "x/1.json": json.dumps(beside).encode(), "x/1.txt": b"one",
        "x/._2.png": b"macOS", "x/2.png": PNGS[2], "x/3.txt": b"no photo",
    }  # fmt: skip
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize(("column", "value", "says"), [
    ("image", base64.b64encode(PNGS[1]).decode(), ""), ("image", [1.0], "no photo"), ("image", None, "no photo"),
    ("image", "data:image/png;base64," + base64.b64encode(PNGS[1]).decode(), ""), ("image", "x" * 9999, "Pillow"),
    ("regions", "{bad", "mend"), ("objects", {"bbox": [[1, 2, 3, 4]], "id": [1, 2]}, "mend"),
])  # fmt: skip
def test_a_cell_is_read_or_costs_its_row_alone(
    column: str, value: Any, says: str, model: Patchioner, tmp_path: Path
) -> None:
    row = {"image": PNGS[1], "nothing": float("nan")} | {column: value}
    place = write_table(tmp_path / "t.parquet", **{key: [one] for key, one in row.items()})
    run(place, tmp_path / "out.jsonl", model=model)
    (found,) = read_rows(tmp_path / "out.jsonl")
    assert found.photo == "t.parquet#0:0"
    assert says in (found.message or "") and bool(says) == bool(found.error)
    assert says or json.loads(found.source or "") == {"nothing": None}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.zst"])
def test_a_tar_of_webdataset_compressed_or_not(kind: str, tmp_path: Path) -> None:
    data = tar("w:gz" if kind == "tar.gz" else "w")
    packed = pyarrow.compress(data, codec="zstd", asbytes=True) if kind == "tar.zst" else data
    (tmp_path / f"0.{kind}").write_bytes(packed)
    one, two = samples(open_source(tmp_path))
    assert (one.photo, two.photo) == (f"0.{kind}/x/1.png", f"0.{kind}/x/2.png")
    assert one.source["txt"] == "one" and one.source["json"]["mood"] == "calm"
    assert fetched(two) == PNGS[2]
    assert boxes(one) == [Box(1, 2, 30, 40)] and len(boxes(two)) == 1


def test_a_broken_tar_is_an_error_beside_what_it_has(tmp_path: Path) -> None:
    end, cut = bytes(1024), tar()[: tar().index(b"x/3.txt")]  # between two files
    (tmp_path / "0.tar").write_bytes(cut + b"x" * 512 + end)
    (tmp_path / "1.tar.gz").write_bytes(tar("w:gz")[:-99])
    found = samples(open_source(tmp_path))
    (tmp_path / "a.png").write_bytes(PNGS[0])
    with tarfile.open(tmp_path / "2.tar", "w") as file:
        for name in "aba":
            file.add(tmp_path / "a.png", arcname=f"{name}.png")
    found += samples(open_source(tmp_path / "2.tar"))
    broken = [one.photo for one in found if one.error]
    assert broken == ["0.tar", "1.tar.gz", "2.tar/a.png"]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "datasets"])
def test_tables_have_pictures_and_regions(kind: str, tmp_path: Path) -> None:
    """Of `datasets`, numbers of classes are their names."""
    datasets: Any = pytest.importorskip("datasets")
    box, name = [datasets.Value("float32")], datasets.ClassLabel(names=["dog", "cat"])
    given = [{"bbox": [[1, 2, 30, 40]] * n, "category": [1] * n} for n in range(3)]
    pictures = [{"bytes": PNGS[n], "path": f"{n}.png"} for n in range(3)]
    columns: Any = {"image": pictures, "objects": given, "mood": ["calm"] * 3}
    kinds: Any = {"image": datasets.Image(), "objects": {"bbox": [box], "category": [name]}}
    features = datasets.Features(kinds | {"mood": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict(columns, features=features)
    if kind == "parquet":
        dataset.to_parquet(tmp_path / "t.parquet")
    elif kind == "arrow":
        with ipc.new_file(str(tmp_path / "t.arrow"), dataset.data.schema) as file:
            file.write_table(dataset.data.table)
    else:
        dataset.save_to_disk(tmp_path)
    found = samples(open_source(tmp_path))
    assert [one.photo for one in found] == ["0.png", "1.png", "2.png"]
    assert [boxes(one) for one in found] == [[Box(1, 2, 31, 42)] * n for n in range(3)]
    assert found[2].source == {"mood": "calm"} and found[2].regions is not None
    assert [item.label for item in found[2].regions.items()] == ["cat", "cat"]


def test_a_table_of_paths_and_boxes_asks_what_the_numbers_mean(photos: Path) -> None:
    columns: Any = {"path": ["a.png"], "boxes": [[[10.0, 20.0, 30.0, 40.0]]], "labels": [["cat"]]}
    place = write_table(photos / "t.parquet", **columns)
    (one,) = samples(open_source(place, Reading(box_format="cxcywh")))
    assert (one.photo, boxes(one)) == ("a.png", [Box(-5, 0, 25, 40)])
    assert one.regions is not None and one.regions.items()[0].label == "cat"


@pytest.mark.parametrize(("table", "how", "due"), [
    ("image,x1,y1,x2,y2,id\na.png,1,2,30,40,007\na.png,,,,,8\n", {}, [Box(1, 2, 30, 40)]),
    ("image;class;bbox;id\na.png;cat;[1, 2, 29, 38];007\n", {"box_format": "xywh"}, [Box(1, 2, 30, 40)]),
    ("image\tx\ty\twidth\theight\tid\nsub/a.png\t.5\t0\t.25\t.5\t007\n", {"normalized": True}, [Box(48, 0, 72, 32)]),
])  # fmt: skip
def test_a_table_of_text(table: str, how: Any, due: list[Box], photos: Path) -> None:
    place = photos / ("t.tsv" if "\t" in table else "t.csv")
    place.write_text(table)
    one, *others = samples(open_source(place, Reading(**how)))
    assert one.regions is not None and [item.id for item in one.regions.items()] == ["007"]
    assert one.photo.endswith("a.png") and one.source["id"] == "007"
    assert boxes(one) == due and not any(boxes(other) for other in others)
    place.write_text(table + "too,many,cells;of\tit,a,b,c,d\n")
    with pytest.raises(OptionError, match="can be read"):
        open_source(place, Reading(**how))


def test_tables_of_one_source_have_columns_of_their_own(photos: Path) -> None:
    for name, header in (("0", "image,x1,y1,x2,y2"), ("1", "x,y,w,h,path"), ("2", "file,notes")):
        cells = {"0": "a.png,1,2,30,40", "1": "1,2,29,38,b.png", "2": "c.png,x1"}[name]
        (photos / f"{name}.csv").write_text(f"{header}\n{cells}\n")
    found = samples(open_source(photos / "*.csv"))
    assert [one.photo for one in found] == ["a.png", "b.png", "c.png"]
    assert [boxes(one) for one in found] == [[Box(1, 2, 30, 40)]] * 2 + [[WholeImage()]]
    assert found[2].source == {"notes": "x1"}


BEGUN = b'{"format": "patchioner-batch", "version": 1, "run": {}, "shards": [], "files": {}, "per_shard": 1}'


def written(table: pyarrow.Table) -> bytes:
    parquet.write_table(table, stream := io.BytesIO())
    return stream.getvalue()


PATHS = written(pyarrow.table({"path": ["a.png"]}))
BOXES = written(pyarrow.table({"path": ["a.png"], "bbox": [[1.0, 2.0, 3.0, 4.0]]}))
OUT, CSV, TABLE = "photos --out out/", "photos --out o.csv", {"t.parquet": PATHS}
OURS, CHANGED = ({"o.csv.run/_manifest.json": one} for one in (BEGUN, BEGUN.replace(b"[]", b"5")))
NEWER = {"out/_manifest.json": b'{"format": "patchioner-batch", "version": 2, "shards": {}}'}
CUT = {"cut.json": b'{"images": [{"id": 1}], "annotations": [{"bbox"'}
TARS = {"0.tar": tar(), "1.tar": tar()[:-512] + b"x" * 512}


@pytest.mark.parametrize(("files", "words", "says"), [
    ({"empty.txt": b"\n"}, "empty.txt", "no photo"), ({"e/x": b""}, "e", "no pictures"), ({}, "none", "nothing at"),
    ({}, "photos none", "at 'none'"), (CUT, "cut.json", "cut.json"), (CUT, "photos --regions cut.json", "cut.json"),
    ({}, "photos --regions x", "such"),
    ({"no/b.txt": b""}, "photos/a.png --regions no", "no file that"),
    (TARS, "*.tar", "short: 1.tar:"), (TARS, "{00..2}.tar", "00.tar"), (TARS, "{2..0}.tar", "rise"),
    ({"0.tar": b""}, "0.tar", "0.tar"), ({"0.tar": b"no" * 999}, "0.tar", "0.tar"),
    ({"0.tgz": b"no gzip"}, "0.tgz", "0.tgz"), ({"t.tar.zst": b""}, "t.tar.zst", "t.tar.zst"),
    ({"t.parquet": b"PAR1"}, "t.parquet", "can be read"), ({"t.arrow": b"ARROW1"}, "t.arrow", "can be read"),
    ({"t.csv": b"a,b\n1,2\n"}, "t.csv", "image-column"), (TABLE, "t.parquet --image-column x", "no column 'x'"),
    (TABLE, "t.parquet --region-column x", "no column 'x'"), (TABLE | {"u.parquet": BOXES}, "*.parquet", "box-format"),
    (NEWER, OUT, "version 2.*upgrade"), ({"out/_manifest.json": b"[]"}, OUT, "is not ours"),
    ({"out/_manifest.json": b"{"}, OUT, "no manifest"), (OURS, CSV, "another run: .*task"), (CHANGED, CSV, "changed"),
    ({"o.csv.run": b""}, CSV, "is a file"), ({"out/notes.txt": b"mine"}, OUT, "other files"),
    ({"a": b""}, "photos --out a/out/", "cannot be written"),
    ({}, "photos --out /sys/out/", "cannot be written"), ({}, "photos --out out.xyz", "ends in none"),
    ({}, "photos --out s3://bucket/out/", "is a URL"), ({"out": b""}, "photos --out out", "is no folder"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_before_any_work(
    files: dict[str, bytes], words: str, says: str,
    photos: Path, tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture,
) -> None:  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job.Job, "load", Mock(side_effect=AssertionError("the model is loaded")))
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in words else ["--out", "new/"]
    assert main(["batch", *words.split(), *out]) == 1
    assert re.search(says, capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before
