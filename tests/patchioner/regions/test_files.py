"""Files of regions: ours, COCO's, arrays, the neighbours'; photos are told apart, bad entries named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Box, Patch, Point, Region, RegionSet, WholeImage
from patchioner.base.errors import RegionError, RegionFileError
from patchioner.geometry import fit_image
from patchioner.regions import (
    Mask,
    NamedRegion,
    Polygon,
    Trace,
    formats,
    from_coco,
    from_sam,
    items,
    read_regions,
    read_trace,
)
from tests.support import Log, MonkeyPatch

SIZE = (6, 4)
GEOMETRY = fit_image(SIZE, mode="stretch", size=56, patch_size=14)
TRIANGLE = [[0, 0], [3, 0], [0, 3]]
FULL = {"size": [4, 6], "counts": [0, 24]}
RESULT = {"value": {}, "original_width": 5}
DEEP = '{"regions": [' + '{"set": [' * 900 + '{"whole": true}' + "]}" * 900 + "]}"


def written(folder: Path, content: object) -> Path:
    path = folder / "regions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_every_kind_is_read_in_order_with_its_label(tmp_path: Path) -> None:
    array = np.eye(4, 6, dtype=bool)
    Image.fromarray(array).save(tmp_path / "mask.png")
    box = Box(1, 2, 3, 4)
    cases: list[tuple[dict[str, object], Region]] = [
        ({"point": [1.5, 2]}, Point(1.5, 2)),
        ({"patch": [0, 3]}, Patch(0, 3)),
        ({"polygon": TRIANGLE}, Polygon([(0, 0), (3, 0), (0, 3)])),
        ({"polygon": [TRIANGLE, TRIANGLE]}, Polygon([TRIANGLE, TRIANGLE])),
        ({"trace": [[0.1, 1]], "normalized": True}, Trace([(0.1, 1)], normalized=True)),
        ({"trace": [[1, 2]]}, Trace([(1, 2)])),
        ({"mask": "mask.png"}, Mask(array)),
        ({"mask": FULL}, Mask(np.ones((4, 6)))),
        ({"set": [{"box": [1, 2, 3, 4]}]}, RegionSet([box])),
        ({"whole": True}, WholeImage()),
    ]
    entries = [{"box": [1, 2, 3, 4], "label": "cup"}, *(entry for entry, _ in cases)]
    expected = [NamedRegion(box, "cup"), *(NamedRegion(region) for _, region in cases)]
    assert read_regions(written(tmp_path, {"regions": entries}), SIZE) == expected
    assert len(read_regions(str(written(tmp_path, entries)), SIZE)) == len(entries)


def test_one_file_for_several_images(tmp_path: Path) -> None:
    images = {"in/a.jpg": [{"point": [1, 1]}], "b.jpg": [{"whole": True}]}
    path = written(tmp_path, {"images": images})
    assert read_regions(path, SIZE, "photos/a.jpg") == [NamedRegion(Point(1, 1))]
    assert read_regions(path, SIZE, "b.jpg") == [NamedRegion(WholeImage())]
    with pytest.raises(RegionFileError, match=r"none of its 2 images is called 'c.jpg'.*a.jpg"):
        read_regions(path, SIZE, "c.jpg")
    with pytest.raises(RegionFileError, match="2 images; say which one"):
        read_regions(path, SIZE)
    only = written(tmp_path, {"images": {"a.jpg": [{"point": [1, 1]}]}})
    assert read_regions(only, SIZE) == [NamedRegion(Point(1, 1))]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"bbox": [1, 2, 3, 4]}, "'bbox' does not belong here; did you mean 'box'.*use one of box"),
        ({"point": [1, 2], "normalised": True}, "did you mean 'normalized'"),
        ({"point": [1, 2], "normalized": True}, "'normalized' does not belong"),
        ({"point": [1, 2], "box": [1, 2, 3, 4]}, "exactly one kind, this one 2"),
        ({"point": [1, 2], "label": 5}, "label is 5"),
        ({"set": [{"point": [1, 2], "label": "x"}]}, "'label' does not belong"),
        ({"set": 5}, "give a list"),
        ({"whole": False}, "give true"),
        ({"box": [3, 2, 1, 4]}, "inverted"),
        ({"trace": [[1, 2]], "normalized": "yes"}, "true or false"),
        ({"mask": "missing.png"}, "missing.png"),
        ({"mask": 5}, "file name or an RLE"),
        ({"mask": {"size": [6, 4], "counts": [0, 24]}}, "4x6 but the image is 6x4"),
        ([1, 2, 3, 4], "dictionary"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(entry: object, text: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"regions": [{"whole": True}, entry]})
    with pytest.raises(RegionFileError, match=f"regions.json.*region 1: .*{text}"):
        read_regions(path, SIZE)


COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 6, "height": 4},
        {"id": 8, "file_name": "b.jpg", "width": 6, "height": 4},
        {"id": 9, "file_name": "c.jpg"},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "segmentation": [[0, 0, 3, 0, 0, 3]]},
        {"id": 2, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]},
        {"id": 3, "image_id": 7, "category_id": 1, "segmentation": FULL, "iscrowd": 1},
        {"id": 4, "image_id": 7, "category_id": 5, "segmentation": [], "bbox": [1, 2, 3, 2]},
    ],
}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"regions": 5}, "give a list"),
        ({"images": 5}, "'images' is not"),
        ({"boxes": []}, "no known form"),
        ({}, "no known form"),
        ([5], "no known form"),
        ("", "not JSON"),
        ({"images": [], "annotations": []}, "0 images"),
        ([{"data": 5, "predictions": [{"result": [{**RESULT, "type": []}]}]}], "broken"),
        ('{"regions": [', "not JSON"),
        ('{"regions": [{"point": [NaN, 1]}]}', "nan"),
        ('{"regions": [{"point": [1' + "0" * 400 + ", 1]}]}", "finite"),
        (DEEP, "nested too deeply"),
        (
            COCO | {"annotations": [{"id": 5, "image_id": 7}]},
            r"annotation 0 \(id 5\): .*'segmentation'",
        ),
        (COCO | {"annotations": [[1]]}, "entry 0 of 'annotations'"),
        (COCO | {"annotations": 5}, "give a list"),
        (COCO | {"images": [None]}, "entry 0 of 'images'"),
        (COCO | {"images": None}, "give a list"),
    ],
)
def test_a_wrong_file_is_refused(content: object, text: str, tmp_path: Path) -> None:
    with pytest.raises(RegionFileError, match=text):
        read_regions(written(tmp_path, content), SIZE, "a.jpg")


def test_annotations_of_the_photo_are_read_in_order(tmp_path: Path) -> None:
    assert read_regions(written(tmp_path, COCO), SIZE, "photos/a.jpg") == [
        NamedRegion(Polygon([(0, 0), (3, 0), (0, 3)]), "dog", 1),
        NamedRegion(Mask(np.ones((4, 6))), "cat", 3),
        NamedRegion(Box(1, 2, 4, 4), None, 4),
    ]


MASKS = np.stack([np.eye(4, 6, dtype=bool), np.ones((4, 6), dtype=bool)])
EXPECTED = [NamedRegion(Mask(mask)) for mask in MASKS]


def test_sam_json_with_runs_or_plain_arrays(tmp_path: Path) -> None:
    result = [
        {"segmentation": MASKS[0].tolist(), "bbox": [0, 0, 4, 4], "predicted_iou": 0.9},
        {"segmentation": {"size": [4, 6], "counts": [0, 24]}, "area": 24},
    ]
    path = tmp_path / "sam.json"
    path.write_text(json.dumps(result))
    assert read_regions(path, SIZE) == EXPECTED
    path.write_text(json.dumps(result[1]))
    assert read_regions(path, SIZE) == EXPECTED[1:]


def test_npz(tmp_path: Path) -> None:
    for save in (np.savez_compressed, np.savez):
        save(tmp_path / "m.npz", masks=MASKS, boxes=np.ones((2, 4)), scores=np.ones(2))
        assert read_regions(tmp_path / "m.npz", SIZE) == EXPECTED
    np.savez(tmp_path / "b.npz", boxes=np.array([[1, 2, 3, 1.5]]))
    assert read_regions(tmp_path / "b.npz", SIZE) == [NamedRegion(Box(1, 2, 4, 3.5))]


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"stuff": MASKS}, r"\['stuff'\], none is 'masks'"),
        ({"masks": MASKS.T}, "mask 0: .*4x6|mask 0: .*2x4"),
        ({"masks": MASKS[:, :3]}, "mask 0: .*6x3 but the image is 6x4"),
        ({"masks": np.full((1, 4, 6), 0.5)}, "mask 0: .*threshold"),
        ({"masks": np.ones(3)}, r"\(3,\)"),
        ({"masks": MASKS, "scores": np.ones(3)}, "different lengths"),
        ({"boxes": np.ones((2, 3))}, r"\(2, 3\)"),
        ({"boxes": np.zeros((1, 4))}, "box 0: .*empty"),
        ({"boxes": np.array(["a"])}, r"\(1,\)"),
        ({"boxes": np.array([[1, 1, 5, 3], [2, 1, 6, 4]])}, "x1, y1, x2, y2"),
    ],
)
def test_other_arrays_are_refused(arrays: dict[str, np.ndarray], text: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(RegionFileError, match=f"m.npz.*({text})"):
        read_regions(tmp_path / "m.npz", SIZE)


HEADERS = [b"{'descr': '<f4',\n (", b"import os", b"{'descr': [], 'fortran_order': 0, 'shape': ()}"]


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "m.npz", masks=MASKS)
    np.save(tmp_path / "m.npy", MASKS)
    damaged = [b"\x93NUMPY\x01\x00" + len(one).to_bytes(2, "little") + one for one in HEADERS]
    for path in (tmp_path / "m.npz", tmp_path / "m.npy"):
        content = path.read_bytes()
        cut = [content[: int(len(content) * share)] for share in (0.02, 0.3, 0.9, 0.99)]
        for wrong in (*cut, *damaged):
            path.write_bytes(wrong)
            with pytest.raises(RegionFileError, match=path.name):
                read_regions(path, SIZE)


def test_no_region_is_an_answer(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", masks=np.ones((0, 4, 6), bool))
    assert read_regions(tmp_path / "none.npz", SIZE) == []
    assert read_regions(written(tmp_path, COCO), SIZE, "c.jpg") == []
    for content in ('{"regions": []}', '{"images": {"a.jpg": []}}', "[]"):
        assert read_regions(written(tmp_path, content), SIZE) == []


def test_a_file_is_read_once_and_bad_entries_are_answered_by_errors(tmp_path: Path) -> None:
    flat = {"id": 6, "image_id": 7, "bbox": [0, 0, 0, 4]}
    good = {"id": 7, "image_id": 7, "bbox": [0, 0, 4, 2]}
    file = read_regions(written(tmp_path, COCO | {"annotations": [flat, good]}))
    file.path.unlink()
    bad, box = file.entries(SIZE, "a.jpg")
    assert isinstance(bad, RegionFileError) and "annotation 0 (id 6)" in str(bad)
    assert box == NamedRegion(Box(0, 0, 4, 2), None, 7)
    with pytest.raises(RegionFileError, match=r"annotation 0 \(id 6\)"):
        file.for_photo(SIZE, "a.jpg")
    assert file.for_photo(SIZE, "b.jpg") == []


NAMES = ["x/1/a.jpg", "x/2/a.jpg", "x/2/b.jpg", "y\\2\\c.jpg", "c.jpg", "cafe\u0301%20x.JPG"]


def test_the_longest_common_path_tells_photos_apart(tmp_path: Path) -> None:
    images = [{"id": str(i), "file_name": name} for i, name in enumerate(NAMES)]
    boxes = [{"image_id": i, "bbox": [i, 0, 1, 1]} for i in range(len(NAMES))]
    file = read_regions(written(tmp_path, COCO | {"images": images, "annotations": boxes}))
    for number, asked in (
        *enumerate(["x/1/a.jpg", "2/a.jpg", "b.jpg", "2/c.jpg"]),
        *[(0, "/data/x/1/a.jpg"), (2, "elsewhere/b.jpg"), (5, "caf\u00e9 x.jpg")],
    ):
        expected = [NamedRegion(Box(number, 0, number + 1, 1))]
        assert file.for_photo(SIZE, asked) == expected, asked
    for asked in ("other/c.jpg", "a.jpg", "z/a.jpg"):
        with pytest.raises(RegionFileError, match="ambiguous"):
            file.for_photo(SIZE, asked)
    with pytest.raises(RegionFileError, match=r"'7-c.jpg'.*close: .*c\.jpg"):
        file.for_photo(SIZE, "7-c.jpg")


BOX = Box(1, 2, 4, 4)
TRIANGLES = [Polygon([(0, 0), (3, 0), (0, 3)])]
BBOX = {"bbox": [1, 2, 3, 2], "image_id": 1}
PER_CENT = {"x": 100 / 6, "y": 50, "width": 50, "height": 50}


def listed(**image: object) -> dict[str, object]:
    """A COCO file of one image and one box."""
    return {"images": [{"id": 1, **image}], "annotations": [BBOX]}


def labelme(points: object, kind: str = "polygon") -> dict[str, object]:
    return {"shapes": [{"points": points, "shape_type": kind}], "imageWidth": 6}


def label_studio(kind: str, value: object) -> list[object]:
    result = {"original_width": 6, "type": kind, "value": value}
    return [{"data": {"image": "/u/0a1b2c3d-a.jpg"}, "annotations": [{"result": [result]}]}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (listed(coco_url="http://x/a.jpg"), [BOX]),
        (listed(width=0, height=-1), [BOX]),
        (listed(file_name="a.jpg", width=4, height=6), "EXIF"),
        ({"image": {"width": 6}, "annotations": [{"segmentation": FULL}]}, [Mask(np.ones((4, 6)))]),
        ({"annotations": [{"bbox": [1, 2, 4, 4]}], "box_format": "xyxy"}, [BOX]),
        ([{**BBOX, "segmentation": []}], [BOX]),
        ([{"image_id": 1, "segmentation": [[0, 0, 3, 0, 0, 3]]}], TRIANGLES),
        ([{"bbox": [1, 2, 4, 4], "bbox_mode": 0}], [BOX]),
        ([{"bbox": [1, 2, 4, 4], "bbox_mode": 4}], "bbox_mode 4"),
        ([{"file_name": "d/a.jpg", "width": 6, "height": 4, "annotations": [BBOX]}], [BOX]),
        (listed(coco_url="https://x/d/a.jpg?signed=1/2"), [BOX]),
        ({**listed(file_name="a.jpg"), "annotations": [{**BBOX, "image_id": 1.0}]}, [BOX]),
        ({**listed(file_name="a.jpg"), "annotations": [{**BBOX, "image_id": "01"}]}, [BOX]),
        (labelme([[4, 2], [1, 4]], "rectangle"), [BOX]),
        (labelme([[1, 2], [4, 2], [4, 4], [1, 4]], "rectangle"), [BOX]),
        (labelme(TRIANGLE), TRIANGLES),
        (labelme([[1, 2], [3, 4]], "linestrip"), [Trace([(1, 2), (3, 4)])]),
        (labelme([[1, 2]], "point"), [Point(1, 2)]),
        (labelme([[1, 2]], "mask"), "labelme"),
        ([{"regions": [{"x": 1, "y": 2, "width": 3, "height": 2, "phrase": "a cup"}]}], [BOX]),
        ({"id": 1, "objects": [{"x": 1, "y": 2, "w": 3, "h": 2, "names": ["cup"]}]}, [BOX]),
        (label_studio("rectanglelabels", PER_CENT), [BOX]),
        (label_studio("videorectangle", {}), "Label Studio"),
        ([{"image": "/u/a.jpg", "label": [PER_CENT], "annotator": 1}], "JSON-MIN"),
        ({"regions": [{"box": [0.1, 0.1, 0.9, 0.9]}]}, r"within 0\.\.1"),
        ({"regions": [{"polygon": [[0, 0], [0.5, 0], [0, 0.5]]}]}, r"within 0\.\.1"),
    ],
)
def test_other_tools(content: object, expected: list[Region] | str, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    if isinstance(expected, str):
        with pytest.raises(RegionFileError, match=expected):
            read_regions(path, SIZE, "a.jpg")
    else:
        found = [named.region.patch_weights(GEOMETRY) for named in read_regions(path, SIZE)]
        wanted = [region.patch_weights(GEOMETRY) for region in expected]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_label_map_has_a_region_per_id_and_an_axis_of_one_is_none(tmp_path: Path) -> None:
    labels = np.zeros((4, 6), np.int32)
    labels[0, :2], labels[3, 3:] = 5, 9
    np.save(tmp_path / "labels.npy", labels)
    found = read_regions(tmp_path / "labels.npy", SIZE)
    assert found == [NamedRegion(Mask(labels == one), None, one) for one in (5, 9)]
    for shape in ((1, 4, 6), (4, 6, 1)):
        np.save(tmp_path / "labels.npy", labels.reshape(shape))
        assert read_regions(tmp_path / "labels.npy", SIZE) == found
    for wrong in (labels - 1, np.stack([labels, labels])):
        np.save(tmp_path / "labels.npy", wrong)
        with pytest.raises(RegionFileError, match=r"below 0|one map"):
            read_regions(tmp_path / "labels.npy", SIZE)
    for stack in (MASKS[:, None], MASKS[None]):
        np.savez(tmp_path / "m.npz", masks=stack)
        assert read_regions(tmp_path / "m.npz", SIZE) == EXPECTED


def test_results_by_name_and_what_is_lost(tmp_path: Path, caplog: Log) -> None:
    path = written(tmp_path, [{**BBOX, "image_id": one} for one in ("a", "b.jpg", "0012")])
    for name in ("a.jpg", "b.jpg", "COCO_000012.jpg"):
        assert len(read_regions(path, SIZE, name)) == 1
    assert not caplog.messages
    lost = {**listed(file_name="a.jpg"), "annotations": [{**BBOX, "image_id": 2}]}
    assert read_regions(written(tmp_path, lost), SIZE, "a.jpg") == []
    assert "1 annotations" in caplog.text


def test_traces_in_every_spelling(tmp_path: Path) -> None:
    samples = [{"x": 0.1, "y": 0.2, "t": 0.0}, {"x": 0.4, "y": 0.2, "t": 0.1}]
    shares = Trace([(0.1, 0.2), (0.4, 0.2)], normalized=True)
    for content, expected in (
        ([[1, 2], [3, 4]], Trace([(1, 2), (3, 4)])),
        (samples, shares),
        ({"trace": [[0.1, 0.2], [0.4, 0.2]], "normalized": True}, shares),
        ({"traces": [samples]}, shares),
    ):
        assert read_trace(written(tmp_path, content)) == expected
    for wrong in ("{}", "[]", "5", "{", '{"traces": []}'):
        with pytest.raises(RegionFileError, match="trace|JSON"):
            read_trace(written(tmp_path, wrong))


def test_the_pen_is_up_between_the_strokes_of_a_record(tmp_path: Path) -> None:
    strokes = [[{"x": x, "y": y} for x in (y, 1 - y)] for y in (0.1, 0.9)]
    weights = read_trace(written(tmp_path, {"traces": strokes})).patch_weights(GEOMETRY)
    assert weights[1:-1].sum() == 0.0 and weights[0].sum() == pytest.approx(0.5)


def test_coco_prefers_the_outline_to_the_box() -> None:
    ring, box = [0, 0, 10, 0, 0, 10], [1, 2, 3, 4]
    assert from_coco({"segmentation": [ring], "bbox": box}) == Polygon.from_coco([ring])
    assert from_coco({"segmentation": FULL, "bbox": box}, SIZE) == Mask(np.ones((4, 6)))
    for absent in ({}, {"segmentation": []}, {"segmentation": None}):
        assert from_coco({**absent, "bbox": box}) == Box(1, 2, 4, 6)
    with pytest.raises(RegionError, match="ragged"):
        from_coco({"segmentation": [1, [0, 1]], "bbox": box})


@pytest.mark.parametrize(
    ("masks", "text"),
    [([np.full((2, 2), 0.5)], "entry 0"), (5, "give a list"), ([{"area": 1}], "entry 0.*keys")],
)
def test_what_is_not_from_sam_is_refused(masks: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        from_sam(masks)


# Large files are read piece by piece.

CONTENT = {
    "info": {"year": 2026, "images": [1, 2]},
    "images": [
        {"id": 1, "file_name": "d/\u00fc.jpg", "width": 90, "height": 60},
        {"id": "2", "file_name": "b\u2028.jpg", "width": "90", "height": 60},
        {"id": 3, "file_name": "none.jpg"},
    ],
    "licenses": [],
    "annotations": [
        {"id": n, "image_id": n % 2 + 1, "category_id": 1, "bbox": [n, 0, 9, 9], "by": "J\u00e9 ]}"}
        for n in range(9)
    ],
    "categories": [{"id": 1, "name": "caf\u00e9"}],
}


@pytest.fixture
def large(monkeypatch: MonkeyPatch) -> None:
    """Every file counts as a large one, which is read piece by piece."""
    monkeypatch.setattr(formats, "LARGE", 0)


@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"ensure_ascii": False}], ids=str)
@pytest.mark.parametrize("window", [1, 100, 2**22])
def test_a_large_file_is_read_as_a_small_one_is(
    window: int, form: dict[str, Any], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(CONTENT, **form), encoding="utf-8")
    small = read_regions(path)
    monkeypatch.setattr(formats, "LARGE", 0)
    monkeypatch.setattr(items, "_WINDOW", window)
    monkeypatch.setattr(items, "_AHEAD", 40)
    found = read_regions(path)
    assert [one.name for one in found.photos] == [one.name for one in small.photos]
    for name in ("d/\u00fc.jpg", "b\u2028.jpg", "none.jpg"):
        assert found.for_photo((90, 60), name) == small.for_photo((90, 60), name)
        sources = [[one.source for one in file.items(name)] for file in (found, small)]
        assert sources[0] == sources[1]


def test_large_json_lines_are_read_as_small_ones_are(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    points = [[{"x": 0.1 * place, "y": 0.2, "t": 0.1 * place} for place in range(4)]]
    path, lines = tmp_path / "narratives.jsonl", []
    for number in (3, 1, 3, 2):
        said = {"caption": f"\u00fc {len(lines)}", "traces": [*points, points[0][: number + 1]]}
        lines += [json.dumps({"dataset_id": "d", "image_id": str(number), **said}), ""]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    small = read_regions(path)
    monkeypatch.setattr(formats, "LARGE", 0)
    found = read_regions(path)
    assert [one.image_id for one in found.photos] == [one.image_id for one in small.photos]
    assert not any(isinstance(one.items, list) for one in found.photos)
    for name in ("3.jpg", "1.jpg", "2.jpg"):
        assert found.for_photo((90, 60), name) == small.for_photo((90, 60), name)
        sources = [[one.source for one in file.items(name)] for file in (found, small)]
        assert sources[0] == sources[1]
    path.write_text("\n".join([*lines, lines[0][:-9]]))
    with pytest.raises(RegionFileError, match="not JSON"):
        read_regions(path)


def test_a_large_file_that_is_cut_short_is_refused(tmp_path: Path, large: None) -> None:
    path = tmp_path / "coco.json"
    for size in (1, 30, 300, 900):
        path.write_text(json.dumps(CONTENT)[:size])
        with pytest.raises(RegionFileError):
            read_regions(path)


def test_other_large_files_are_read_as_ever(tmp_path: Path, large: None) -> None:
    path = written(tmp_path, {"images": {"a.jpg": [{"box": [0, 0, 9, 9]}]}})
    assert len(read_regions(path, (90, 60), "a.jpg")) == 1
