"""Files of regions: what they give (`cases/tools`, `cases/read.json`), what is refused (`cases/refused.json`)."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Box, Patch, Point, Region, RegionSet, WholeImage
from patchioner.base.errors import OptionError, RegionError, RegionFileError
from patchioner.geometry import fit_image
from patchioner.images import load_image
from patchioner.regions import (
    Mask,
    NamedRegion,
    Polygon,
    RegionFile,
    Trace,
    formats,
    from_sam,
    items,
    read_regions,
    read_trace,
    region_weights,
)
from patchioner.regions.annotators import from_label_studio
from tests.support import Log, MonkeyPatch
from tests.support.tiny import oriented

CASES = Path(__file__).parent / "cases"
READ, REFUSED = (json.loads((CASES / name).read_text()) for name in ("read.json", "refused.json"))
SIZE = (6, 4)
fit = partial(fit_image, mode="stretch", size=56, patch_size=14)
MASKS = np.stack([np.eye(4, 6, dtype=bool), np.ones((4, 6), dtype=bool)])
EXPECTED = [NamedRegion(Mask(mask)) for mask in MASKS]
FULL = {"size": [4, 6], "counts": [0, 24]}
LABELS = np.zeros((4, 6), np.int32)
LABELS[0, :2], LABELS[3, 3:] = 5, 9
LABELLED = [NamedRegion(Mask(np.equal(LABELS, one)), None, one) for one in (5, 9)]
DEEP = '{"regions": [' + '{"set": [' * 900 + '{"whole": true}' + "]}" * 900 + "]}"
HUGE = '{"regions": [{"point": [1' + "0" * 400 + ", 1]}]}"
TOOLS = sorted((CASES / "tools").iterdir())
REFUSED += [{"content": DEEP, "error": "too deeply"}, {"content": HUGE, "error": "finite"}]


def written(folder: Path, content: object, name: str = "regions.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("case", READ, ids=lambda case: case["name"])
def test_a_file_gives_its_regions_labels_and_ids(case: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, case["content"], case.get("file", "regions.json"))
    size, expected = tuple(case.get("size", SIZE)), case["regions"]
    found = read_regions(path, size, case.get("photo"), **case.get("how", {}))
    own = [(one.get("label"), one.get("id")) for one in expected]
    assert [(one.label, one.id) for one in found] == own
    for one, wanted in zip(found, expected, strict=True):
        known = {key: wanted[key] for key in wanted.keys() - {"label", "id"}}
        region = Region.from_json(known)
        assert type(one.region) is type(region)
        weights = region_weights([one.region, region], fit(size))
        np.testing.assert_allclose(weights[0], weights[1], atol=1e-6)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["error"])
def test_a_wrong_file_or_entry_is_refused(case: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, case["content"], case.get("file", "regions.json"))
    with pytest.raises(RegionFileError, match=f"{path.name}.*{case['error']}"):
        read_regions(path, tuple(case.get("size", SIZE)), case.get("photo", "a.jpg"))


PHOTO = (200, 100)
BOX = (20.0, 10.0, 120.0, 60.0)
PATCH = np.zeros((100, 200), dtype=bool)
PATCH[10:60, 20:120] = True


@pytest.mark.parametrize("example", TOOLS, ids=lambda path: path.name)
def test_a_tool_s_file_gives_its_region_and_label(example: Path, tmp_path: Path) -> None:
    (path := tmp_path / "labels" / f"a{example.suffix}").parent.mkdir()
    text, is_yolo = example.read_text("utf-8"), example.suffix == ".txt"
    for name, names in (("data.yaml", "names: {0: cup}"), ("labels/classes.txt", "cup\ndog\n")):
        written(tmp_path, names, name)
        path.write_text(text, encoding="utf-8" if is_yolo or name == "data.yaml" else "utf-16")
        for place in (path, path.parent):
            (found,) = read_regions(place, PHOTO, "photos/a.jpg")
            np.testing.assert_allclose(found.region.bounds, BOX, atol=0.2)
            assert found.label == "cup" and found.source


def test_a_folder_of_sam_s_masks_is_read_by_its_table(tmp_path: Path) -> None:
    Image.fromarray(PATCH).save(tmp_path / "0.png")
    (tmp_path / "metadata.csv").write_text("id,area\n0,5000\n1,9\n")
    first, second = RegionFile(tmp_path).entries(PHOTO, "a.jpg")
    assert getattr(first, "region", None) == Mask(PATCH)
    assert isinstance(second, RegionFileError)


def test_boxes_of_arrays_are_read_as_the_caller_says(tmp_path: Path) -> None:
    for form, row in (("xyxy", BOX), ("xywh", (20, 10, 100, 50)), ("cxcywh", (70, 35, 100, 50))):
        for shares in (False, True):
            boxes = np.divide([row], PHOTO * 2 if shares else 1)
            np.savez(tmp_path / "b.npz", boxes=boxes)
            how: Any = {"box_format": form, "normalized": shares}
            (found,) = read_regions(tmp_path / "b.npz", PHOTO, **how)
            np.testing.assert_allclose(found.region.bounds, BOX)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_pixels_turn_with_the_photo(orientation: int, tmp_path: Path) -> None:
    picture, photo = Image.fromarray(PATCH.astype(np.uint8) * 255), tmp_path / "a.png"
    picture.save(photo, exif=oriented(orientation))
    ring = [[20, 10], [120, 10], [120, 60], [20, 60]]
    content = [{"mask": "a.png"}, {"box": BOX}, {"polygon": ring}, {"trace": ring}]
    (tmp_path / "r.json").write_text(json.dumps(content))
    upright = load_image(photo)
    found = read_regions(tmp_path / "r.json", upright.size, str(photo), exif="ignore")
    wanted = Mask(np.asarray(upright)[..., 0] > 0)
    assert found[0].region == wanted
    assert [one.region.bounds for one in found] == [wanted.bounds] * 4


def test_every_kind_of_ours_is_read_in_order_with_its_label(tmp_path: Path) -> None:
    Image.fromarray(MASKS[0]).save(tmp_path / "mask.png")
    box, ring = Box(1, 2, 3, 4), [[0, 0], [3, 0], [0, 3]]
    cases: list[tuple[dict[str, object], Region]] = [
        ({"point": [1.5, 2]}, Point(1.5, 2)), ({"patch": [0, 3]}, Patch(0, 3)),
        ({"polygon": ring}, Polygon([(0, 0), (3, 0), (0, 3)])), ({"polygon": [ring, ring]}, Polygon([ring, ring])),
        ({"trace": [[0.1, 1]], "normalized": True}, Trace([(0.1, 1)], normalized=True)),
        ({"trace": [[1, 2]]}, Trace([(1, 2)])), ({"mask": "mask.png"}, Mask(MASKS[0])),
        ({"mask": FULL}, Mask(MASKS[1])), ({"set": [{"box": [1, 2, 3, 4]}]}, RegionSet([box])),
        ({"whole": True}, WholeImage()),
    ]  # fmt: skip
    entries = [{"box": [1, 2, 3, 4], "label": "cup"}, *(entry for entry, _ in cases)]
    expected = [NamedRegion(box, "cup"), *(NamedRegion(region) for _, region in cases)]
    for content in ({"regions": entries}, entries):
        assert read_regions(str(written(tmp_path, content)), SIZE) == expected


@pytest.mark.parametrize(("arrays", "expected"), [
    ({"masks": MASKS, "boxes": np.ones((2, 4)), "scores": np.ones(2)}, EXPECTED),
    ({"masks": MASKS[:, None]}, EXPECTED), ({"masks": MASKS[None]}, EXPECTED),
    ({"masks": np.ones((0, 4, 6), bool)}, []),
    ({"boxes": np.array([[1, 2, 3, 1.5]])}, [NamedRegion(Box(1, 2, 4, 3.5))]),
    *(({"masks": np.reshape(LABELS, one)}, LABELLED) for one in ((4, 6), (1, 4, 6), (4, 6, 1))),
    ({"masks": LABELS - 1}, "below 0"), ({"masks": np.stack([LABELS, LABELS])}, "one map"),
    ({"stuff": MASKS}, r"\['stuff'\], none is 'masks'"), ({"masks": MASKS.T}, "mask 0: .*4x6|mask 0: .*2x4"),
    ({"masks": MASKS[:, :3]}, "mask 0: .*6x3 but the image is 6x4"),
    ({"masks": np.full((1, 4, 6), 0.5)}, "mask 0: .*threshold"), ({"masks": np.ones(3)}, r"\(3,\)"),
    ({"masks": MASKS, "scores": np.ones(3)}, "different lengths"), ({"boxes": np.ones((2, 3))}, r"\(2, 3\)"),
    ({"boxes": np.zeros((1, 4))}, "box 0: .*empty"), ({"boxes": np.array(["a"])}, r"\(1,\)"),
    ({"boxes": np.array([[1, 1, 5, 3], [2, 1, 6, 4]])}, "corners.*xyxy"),
], ids=str)  # fmt: skip
def test_arrays(arrays: dict[str, Any], expected: list[NamedRegion] | str, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "m.npz", **arrays)
    if isinstance(expected, list):
        assert read_regions(tmp_path / "m.npz", SIZE) == expected
        return
    with pytest.raises(RegionFileError, match=f"m.npz.*({expected})"):
        read_regions(tmp_path / "m.npz", SIZE)


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "m.npz", masks=MASKS)
    np.save(tmp_path / "m.npy", MASKS)
    heads = b"{'descr': '<f4',\n (", b"import os", b"{'descr': [], 'fortran_order': 0, 'shape': ()}"
    damaged = [b"\x93NUMPY\x01\x00" + len(one).to_bytes(2, "little") + one for one in heads]
    for path in (tmp_path / "m.npz", tmp_path / "m.npy"):
        assert read_regions(path, SIZE) == EXPECTED
        content = path.read_bytes()
        cut = [content[: int(len(content) * share)] for share in (0.02, 0.3, 0.9, 0.99)]
        for wrong in (*cut, *damaged):
            path.write_bytes(wrong)
            with pytest.raises(RegionFileError, match=path.name):
                read_regions(path, SIZE)


IMAGES = [{"id": 7 + n, "file_name": f"{name}.jpg"} for n, name in enumerate("ab")]


def test_a_file_is_read_once_and_bad_entries_are_answered_by_errors(tmp_path: Path) -> None:
    boxes = [{"id": 6, "image_id": 7, "bbox": [0, 0, 0, 4]}]
    boxes.append({"id": 7, "image_id": 7, "bbox": [0, 0, 4, 2]})
    file = read_regions(written(tmp_path, {"images": IMAGES, "annotations": boxes}))
    file.path.unlink()
    bad, box = file.entries(SIZE, "a.jpg")
    assert isinstance(bad, RegionFileError) and "annotation 0 (id 6)" in str(bad)
    assert box == NamedRegion(Box(0, 0, 4, 2), None, 7)
    with pytest.raises(RegionFileError, match=r"annotation 0 \(id 6\)"):
        file.for_photo(SIZE, "a.jpg")
    assert file.for_photo(SIZE, "b.jpg") == []


NAMES = ["x/1/a.jpg", "x/2/a.jpg", "x/2/b.jpg", "y\\2\\c.jpg", "c.jpg", "cafe\u0301%20x.JPG"]


@pytest.mark.parametrize("listed", [False, True])
def test_the_longest_common_path_tells_photos_apart(listed: bool, tmp_path: Path) -> None:
    images = [{"id": str(i), "file_name": name} for i, name in enumerate(NAMES)]
    boxes = [{"image_id": i, "bbox": [i, 0, 1, 1]} for i in range(len(NAMES))]
    alone = [{"image": name, **box} for name, box in zip(NAMES, boxes, strict=True)]
    content = alone if listed else {"images": images, "annotations": boxes}
    file = read_regions(written(tmp_path, content))
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
    # Of two photos each that which is more alike has it.
    two = ["x/1/a.jpg", "z/x/1/a.jpg", "b.jpg", "z/b.jpg", "q.jpg", "z/q.jpg"]
    assert set(file.ambiguous(two)) == {"z/x/1/a.jpg", "b.jpg", "z/b.jpg"}


def test_annotations_of_no_image_are_told(tmp_path: Path, caplog: Log) -> None:
    lost = {"images": IMAGES, "annotations": [{"bbox": [1, 2, 3, 2], "image_id": 2}]}
    assert read_regions(written(tmp_path, lost), SIZE, "a.jpg") == []
    assert "1 annotations" in caplog.text


def test_of_a_folder_the_file_in_the_photo_s_own_folders_is_taken(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, edge in (("a.json", 10), ("sub/a.json", 20)):
        written(tmp_path, [{"box": [0, 0, edge, 5]}], name)
    file = read_regions(tmp_path)
    for photo, edge in (("a.jpg", 10), ("x/a.jpg", 10), ("x/sub/a.jpg", 20), ("../sub/a.jpg", 20)):
        assert file.for_photo(SIZE, photo) == [NamedRegion(Box(0, 0, edge, 5))]
        assert len(file.items(photo)) == 1
    assert set(file.ambiguous(("a.jpg", "x/a.jpg", "x/sub/a.jpg"))) == {"a.jpg", "x/a.jpg"}
    with pytest.raises(RegionFileError, match="called like the photo"):
        file.for_photo(SIZE, "b.jpg")
    with pytest.raises(RegionFileError, match="path of the photo"):
        read_regions(tmp_path / "a.json", SIZE, "nowhere.jpg", exif="ignore")
    with pytest.raises(OptionError, match="yxyx"):
        RegionFile(tmp_path, box_format="yxyx")  # type: ignore[arg-type]


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
    for wrong in ("{}", "[]", "5", "{", '{"traces": []}', '{"trace": [[1, 2]], "normalized": 3}'):
        with pytest.raises(RegionFileError, match="trace|JSON|'normalized' is 3"):
            read_trace(written(tmp_path, wrong))
    # The pen is up between the strokes of a record.
    strokes = [[{"x": x, "y": y} for x in (y, 1 - y)] for y in (0.1, 0.9)]
    weights = read_trace(written(tmp_path, {"traces": strokes})).patch_weights(fit(SIZE))
    assert weights[1:-1].sum() == 0.0 and weights[0].sum() == pytest.approx(0.5)


def test_what_sam_2s_predictor_returns() -> None:
    expected, scores = [one.region for one in EXPECTED], np.ones(2)
    for given in (MASKS, MASKS[:, None], (MASKS, scores, MASKS), {"masks": MASKS}):
        assert from_sam(given) == expected
    for wrong, text in (
        (np.ones((2, 3, 20, 40)), r"\(2, 3, 20, 40\)"),
        ([np.full((2, 2), 0.5)], "entry 0"),
        (5, "give a list"),
        ([{"area": 1}], "entry 0.*keys"),
    ):
        with pytest.raises(RegionError, match=text):
            from_sam(wrong)


def test_a_result_of_label_studio_has_a_value() -> None:
    with pytest.raises(RegionError, match="no value; draw it again"):
        from_label_studio({"type": "rectangle", "value": None}, SIZE)


# Large files are read piece by piece.

LISTED = {
    "info": {"year": 2026, "images": [1, 2]},
    "images": [
        {"id": 1, "file_name": "d/\u00fc.jpg", "width": 90, "height": 60},
        {"id": "2", "file_name": "b\u2028.jpg", "width": "90", "height": 60},
        {"id": 3, "file_name": "none.jpg"},
    ],
    "licenses": [],
    "annotations": [
        {"image_id": n % 2 + 1, "category_id": 1, "bbox": [n, 0, 9, 9], "by": "J\u00e9 ]}"} for n in range(9)
    ],
    "categories": [{"id": 1, "name": "caf\u00e9"}],
}
POINTS = [{"x": 0.1 * place, "y": 0.2, "t": 0.1 * place} for place in range(4)]
NARRATIVES = [
    {"image_id": str(n), "caption": f"\u00fc {line}", "traces": [POINTS[: n + 1]]}
    for line, n in enumerate((3, 1, 3, 2))
]


@pytest.fixture
def large(monkeypatch: MonkeyPatch) -> None:
    """Every file counts as a large one, which is read piece by piece."""
    monkeypatch.setattr(formats, "LARGE", 0)


def same_as_small(path: Path, names: tuple[str, ...], monkeypatch: MonkeyPatch) -> RegionFile:
    """Assert that the file, read as a large one, has what it has as a small one."""
    small = read_regions(path)
    monkeypatch.setattr(formats, "LARGE", 0)
    found = read_regions(path)
    told = [[(one.name, one.image_id) for one in file.photos] for file in (found, small)]
    assert told[0] == told[1]
    for name in names:
        assert found.for_photo((90, 60), name) == small.for_photo((90, 60), name)
        sources = [[one.source for one in file.items(name)] for file in (found, small)]
        assert sources[0] == sources[1] and bool(sources[0]) == ("none" not in name)
    return found


@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"ensure_ascii": False}], ids=str)
@pytest.mark.parametrize("window", [1, 100, 2**22])
def test_a_large_file_is_read_as_a_small_one_is(
    window: int, form: dict[str, Any], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(LISTED, **form), encoding="utf-8")
    monkeypatch.setattr(items, "_WINDOW", window)
    monkeypatch.setattr(items, "_AHEAD", 40)
    same_as_small(path, ("d/\u00fc.jpg", "b\u2028.jpg", "none.jpg"), monkeypatch)


def test_large_json_lines_are_read_as_small(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    lines = [json.dumps(one) for one in NARRATIVES]
    path = written(tmp_path, "\r\n\r\n".join(lines), "narratives.jsonl")
    found = same_as_small(path, ("3.jpg", "1.jpg", "2.jpg"), monkeypatch)
    assert not any(isinstance(one.items, list) for one in found.photos)
    path.write_text("\n".join([*lines, lines[0][:-9]]))
    with pytest.raises(RegionFileError, match="not JSON"):
        read_regions(path)


MEGABYTES = int(os.environ.get("PATCHIONER_MEGABYTES", "70"))
# `getrusage` would count the peak of the process that began this one, too.
READ_LARGE = """import sys; from patchioner import read_regions
found = read_regions(sys.argv[1], (90, 60), "99.jpg")
print(found[0].id, open("/proc/self/status").read().split("VmHWM:")[1].split()[0])"""


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """Of COCO, 20 annotations of 560 bytes a photo."""
    ring, photos = [round(9 + 0.71 * n, 2) for n in range(80)], range(MEGABYTES * 90)
    images = ", ".join(f'{{"id": {n}, "file_name": "{n}.jpg"}}' for n in photos)
    with (tmp_path / "coco.json").open("w") as file:
        file.write(f'{{"images": [{images}], "annotations": [{{"image_id": -1}}')
        for n in photos:
            rest = json.dumps({"image_id": n, "bbox": [1, 2, 3, 4], "segmentation": [ring]})[1:]
            file.writelines(f', {{"id": {20 * n + k}, {rest}' for k in range(20))
        file.write("]}")
    command = [sys.executable, "-c", READ_LARGE, str(tmp_path / "coco.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    number, kilobytes = map(int, done.stdout.split())
    assert number == 1980 and kilobytes < 250_000


def test_large_files_that_are_cut_short_or_of_other_tools(tmp_path: Path, large: None) -> None:
    for size in (1, 30, 300, 900):
        with pytest.raises(RegionFileError):
            read_regions(written(tmp_path, json.dumps(LISTED)[:size]))
    path = written(tmp_path, {"images": {"a.jpg": [{"box": [0, 0, 9, 9]}]}})
    assert len(read_regions(path, (90, 60), "a.jpg")) == 1
