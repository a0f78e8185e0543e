from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.base.errors import ImageError, OptionError, PatchionerError
from patchioner.batch import read_rows, run
from patchioner.batch.sources import Lazy, Reading, Sample, Source, open_source
from patchioner.batch.tasks import Asked
from patchioner.geometry import fit_image
from patchioner.regions import Box
from tests.patchioner.batch.conftest import NAMES
from tests.support.server import picture_bytes
from tests.support.tiny import noise_photo

GEOMETRY = fit_image((96, 64), mode="stretch", size=64, patch_size=16)


def png(seed: int = 0) -> bytes:
    return picture_bytes(noise_photo(seed=seed))


def samples(source: Source) -> list[Sample]:
    return list(source.samples(source.keys()))


def names(source: Source) -> list[str]:
    return [one.photo for one in samples(source)]


def boxes(sample: Sample) -> list[Any]:
    return Asked([sample], whole=False).regions(GEOMETRY)


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
    ("photos/**/a.png", "a.png sub/a.png"),
    ("photos/[bc].png", "b.png c.png"),
    ("photos/a.png", "a.png"),
    ("list.txt", "photos/b.png photos/sub/a.png"),
    ("wide.txt", "photos/b.png photos/sub/a.png"),
    ("odd::na[m]e", "a.png"),
    ("photos/coco.json", "a.png b.png c.png sub/a.png sub/d.png e.png"),
])  # fmt: skip
def test_what_a_source_may_be(
    place: str, found: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, encoding in (("list.txt", "utf-8"), ("wide.txt", "utf-16")):
        lines = "photos/b.png\nphotos/sub/a.png\n\nphotos/b.png\n"
        (tmp_path / name).write_text(lines, encoding=encoding)
    (tmp_path / "odd::na[m]e").mkdir()
    (tmp_path / "odd::na[m]e" / "a.png").write_bytes(png())
    (photos / "coco.json").write_bytes((tmp_path / "coco.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert names(open_source(place)) == names(open_source(tmp_path / place)) == found.split()


def test_regions_may_lie_in_a_file_for_each_photo(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "regions" / "sub").mkdir(parents=True)
    for name in ("a", "sub/a"):
        entry = {"box": [1, 2, 30, 40 + len(name)], "id": name}
        (tmp_path / "regions" / f"{name}.json").write_text(json.dumps({"regions": [entry]}))
    found = samples(open_source(photos, Reading(str(tmp_path / "regions"))))
    assert [one.photo for one in found if one.error is None] == ["a.png", "sub/a.png"]
    assert boxes(found[4]) == [Box(1, 2, 30, 45)]
    (tmp_path / "regions" / "sub" / "a.json").unlink()  # then a.json is like both photos
    both = samples(open_source(photos, Reading(str(tmp_path / "regions"))))
    assert all(one.error for one in both)


TRACE = [{"x": 0.25, "y": 0.5, "t": 0}, {"x": 0.5, "y": 0.75, "t": 1}]
NARRATIVE = {"traces": [TRACE], "caption": "a b"}
TASK: dict[str, Any] = {"type": "rectanglelabels", "original_width": 96, "original_height": 64}
TASK |= {"value": {"x": 25, "y": 50, "width": 25, "height": 25, "rectanglelabels": ["cat"]}}


@pytest.mark.parametrize(("name", "content"), [
    ("narratives.jsonl", [NARRATIVE | {"image_id": n} for n in ("7", "7", "8")]),
    ("lvis.json", [{
        "images": [{"id": n, "coco_url": f"http://a.b/val2017/{n:012}.png"} for n in (7, 8)],
        "annotations": [{"id": n, "image_id": n // 2, "bbox": [24, 32, 24, 16]} for n in (14, 15, 16)],
    }]),
    ("tasks.json", [[
        {"data": {"image": f"/data/upload/1/{n:012}.png"}, "annotations": [{"result": [TASK] * (9 - n)}]}
        for n in (7, 8)
    ]]),
])  # fmt: skip
def test_photos_beside_their_file(name: str, content: list[Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text("\n".join(map(json.dumps, content)))
    for number in (7, 8):
        (tmp_path / f"{number:012}.png").write_bytes(png(number))
    one, two = samples(open_source(tmp_path / name))
    assert (one.photo, two.photo) == ("000000000007.png", "000000000008.png")
    bounds = [[region.bounds(GEOMETRY) for region in boxes(sample)] for sample in (one, two)]
    assert bounds == [[pytest.approx((24, 32, 48, 48))] * 2, [pytest.approx((24, 32, 48, 48))]]


def test_numbers_of_regions_mean_what_is_told(tmp_path: Path) -> None:
    stored, exif = noise_photo(64, 96), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    (tmp_path / "photos").mkdir()
    stored.save(tmp_path / "photos" / "a.jpg", exif=exif)

    def read(box: list[float], **how: Any) -> list[Any]:
        (tmp_path / "r.json").write_text(json.dumps({"regions": [{"box": box}]}))
        reading = Reading(str(tmp_path / "r.json"), **how)
        return boxes(*samples(open_source(tmp_path / "photos", reading)))

    assert read([0.25, 0.5, 0.5, 1], normalized=True) == [Box(24, 32, 48, 64)]
    assert read([0, 0, 10, 20], exif="ignore") == [Box(76, 0, 96, 10)]
    (tmp_path / "0.tar").write_bytes(tar())
    with pytest.raises(OptionError, match="exif"):
        open_source(tmp_path / "0.tar", Reading(exif="ignore"))
    with pytest.raises(OptionError, match="sideways"):
        Reading(exif="sideways")


def test_a_url_is_a_source(photos: Path) -> None:
    fsspec: Any = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/store/{n}/{n}.png": png(n) for n in range(2)} | {"/store/x.tar": tar()})
    for place in ("memory://store", "memory://store/*/*.png"):
        found = samples(open_source(place))
        assert [one.photo for one in found] == ["0/0.png", "1/1.png"]
        assert isinstance(found[1].image, Lazy) and found[1].image.read() == png(1)
    (one, _) = samples(open_source("memory://store/x.tar"))
    assert isinstance(one.image, Lazy) and one.image.read() == png(1)
    with pytest.raises(OptionError, match="nosuch"):
        open_source("nosuch://bucket")


def tar(mode: str = "w") -> bytes:
    """Two samples: one with regions and a text beside it, one without."""
    beside = {"regions": [{"box": [1, 2, 30, 40], "id": 5}], "mood": "calm"}
    members = {
        "x/1.png": png(1), "x/1.json": json.dumps(beside).encode(), "x/1.txt": b"one",
        "x/._2.png": b"macOS", "x/2.png": png(2), "x/3.txt": b"no photo",
    }  # fmt: skip
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize(("column", "value", "says"), [
    ("image", base64.b64encode(png(1)).decode(), ""), ("image", [1.0], "no photo"), ("image", 5, "no photo"),
    ("image", "data:image/png;base64," + base64.b64encode(png(1)).decode(), ""), ("image", None, "no photo"),
    ("image", "x" * 9999, "Pillow"), ("regions", "{bad", "mend"),
    ("objects", {"bbox": [[1, 2, 3, 4]], "id": [1, 2]}, "mend"),
])  # fmt: skip
def test_a_cell_is_read_or_costs_its_row_alone(
    column: str, value: Any, says: str, model: Patchioner, tmp_path: Path
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {"image": png(1), "nothing": float("nan")} | {column: value}
    table = arrow.Table.from_pydict({key: [one] for key, one in row.items()})
    parquet.write_table(table, tmp_path / "t.parquet")
    run(tmp_path / "t.parquet", tmp_path / "out.jsonl", model=model)
    (found,) = read_rows(tmp_path / "out.jsonl")
    assert found.photo == "t.parquet#0:0"
    assert says in (found.message or "") and bool(says) == bool(found.error)
    assert says or json.loads(found.source or "") == {"nothing": None}


def packed(kind: str) -> bytes:
    if kind == "tar.zst":
        return bytes(pytest.importorskip("pyarrow").compress(tar(), codec="zstd", asbytes=True))
    return tar("w" if kind == "tar" else "w:gz")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "tar.zst"])
def test_a_tar_of_webdataset_compressed_or_not(kind: str, tmp_path: Path) -> None:
    (tmp_path / f"0.{kind}").write_bytes(packed(kind))
    one, two = samples(open_source(tmp_path))
    assert (one.photo, two.photo) == (f"0.{kind}/x/1.png", f"0.{kind}/x/2.png")
    assert one.source["txt"] == "one" and one.source["json"]["mood"] == "calm"
    assert isinstance(two.image, Lazy) and two.image.read() == png(2)
    assert boxes(one) == [Box(1, 2, 30, 40)] and len(boxes(two)) == 1


def test_a_broken_tar_is_an_error_beside_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar()[: tar().index(b"x/3.txt")])  # between two files
    (tmp_path / "1.tar").write_bytes(b"no tar" * 500)
    for name, data in {"2.tar.gz": b"", "3.tgz": b"no gz", "4.tar.gz": tar("w:gz")[:-99]}.items():
        (tmp_path / name).write_bytes(data)
    found = samples(open_source(tmp_path))
    with tarfile.open(tmp_path / "5.tar", "w") as file:
        for name in ("0.tar", "1.tar", "0.tar"):
            file.add(tmp_path / name, arcname=f"{name[0]}.png")
    found += samples(open_source(tmp_path / "5.tar"))[2:]
    broken = [one.photo for one in found if one.error]
    assert broken == ["0.tar", "1.tar", "2.tar.gz", "3.tgz", "4.tar.gz", "5.tar/0.png"]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "datasets"])
def test_tables_have_pictures_and_regions(kind: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    given = [{"bbox": [[1.0, 2.0, 30.0, 40.0]] * n, "id": list(range(n))} for n in range(3)]
    pictures = [{"bytes": png(n), "path": f"{n}.png"} for n in range(3)]
    columns = {"image": pictures, "objects": given, "mood": ["calm"] * 3}
    table, path = arrow.Table.from_pydict(columns), tmp_path / f"t.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=2)
    elif kind == "arrow":
        with pytest.importorskip("pyarrow.ipc").new_file(str(path), table.schema) as file:
            file.write_table(table)
    else:
        pytest.importorskip("datasets").Dataset(table).save_to_disk(tmp_path)
    found = samples(open_source(tmp_path))
    assert [one.photo for one in found] == ["0.png", "1.png", "2.png"]
    assert [boxes(one) for one in found] == [[Box(1, 2, 31, 42)] * n for n in range(3)]
    assert found[2].source == {"mood": "calm"}


def test_a_table_of_paths_and_boxes_asks_what_the_numbers_mean(photos: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pydict({"path": ["a.png"], "boxes": [[[10.0, 20.0, 30.0, 40.0]]]})
    parquet.write_table(table, photos / "t.parquet")
    with pytest.raises(OptionError, match="box-format"):
        open_source(photos / "t.parquet")
    (one,) = samples(open_source(photos / "t.parquet", Reading(box_format="cxcywh")))
    assert (one.photo, boxes(one)) == ("a.png", [Box(-5, 0, 25, 40)])
    with pytest.raises(OptionError, match="other"):
        open_source(photos / "t.parquet", Reading(image_column="other"))


@pytest.mark.parametrize(("name", "content"), [
    ("", b""), ("x", None), ("list.txt", b"\n"), ("coco.json", b'{"images": ['), ("t.parquet", b"PAR1"),
])  # fmt: skip
def test_what_is_no_source(name: str, content: bytes | None, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    if name and content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PatchionerError):
        open_source(tmp_path / name)


def test_a_fetch_that_fails_in_any_way_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="photo"):
        Lazy("photo", lambda: {}["x"]).read()  # type: ignore[arg-type]
