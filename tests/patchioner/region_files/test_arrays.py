"""SAM's masks as JSON and numpy files; never a pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from patchioner.base.errors import RegionFileError
from patchioner.region_files import NamedRegion, read_regions
from patchioner.regions import Box, Mask

SIZE = (6, 4)
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


@pytest.mark.parametrize("compressed", [True, False])
def test_npz(compressed: bool, tmp_path: Path) -> None:
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "m.npz", masks=MASKS, boxes=np.ones((2, 4)), scores=np.ones(2))
    assert read_regions(tmp_path / "m.npz", SIZE) == EXPECTED
    save(tmp_path / "b.npz", boxes=np.array([[1, 2, 3, 4.5]]))
    assert read_regions(tmp_path / "b.npz", SIZE) == [NamedRegion(Box(1, 2, 4, 6.5))]


def test_npy_of_one_or_several_masks(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", MASKS)
    assert read_regions(tmp_path / "m.npy", SIZE) == EXPECTED
    np.save(tmp_path / "m.npy", MASKS[0].astype(np.uint8))
    assert read_regions(tmp_path / "m.npy", SIZE) == EXPECTED[:1]


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", MASKS)
    disguised = (tmp_path / "m.npy").rename(tmp_path / "m.json")
    assert read_regions(disguised, SIZE) == EXPECTED


class Bomb:
    """Unpickling it would raise, so a test that only sees RegionFileError did not unpickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps([Bomb()]))
    np.save(tmp_path / "m.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "m.npz", masks=np.array([Bomb()], dtype=object))
    for name in ("m.pkl", "m.npy", "m.npz"):
        with pytest.raises(RegionFileError, match=rf"{name}.*np.savez_compressed"):
            read_regions(tmp_path / name, SIZE)
    (tmp_path / "old.pkl").write_bytes(pickle.dumps([1], protocol=0))
    with pytest.raises(RegionFileError, match="not JSON"):
        read_regions(tmp_path / "old.pkl", SIZE)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"stuff": MASKS}, r"\['stuff'\], none is 'masks'"),
        ({"masks": MASKS.T}, "mask 0: .*4x6|mask 0: .*2x4"),
        ({"masks": MASKS[:, :3]}, "mask 0: .*6x3 but the image is 6x4"),
        ({"masks": np.zeros((1, 4, 6), bool)}, "mask 0: .*empty"),
        ({"masks": np.full((1, 4, 6), 0.5)}, "mask 0: .*threshold"),
        ({"masks": np.ones(3)}, r"\(3,\)"),
        ({"masks": np.ones((0, 4, 6), bool)}, "no region"),
        ({"masks": MASKS, "scores": np.ones(3)}, "different lengths"),
        ({"boxes": np.ones((2, 3))}, r"\(2, 3\)"),
        ({"boxes": np.zeros((1, 4))}, "box 0: .*empty"),
        ({"boxes": np.array(["a"])}, r"\(1,\)"),
    ],
)
def test_other_arrays_are_refused(arrays: dict[str, np.ndarray], text: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(RegionFileError, match=f"m.npz.*({text})"):
        read_regions(tmp_path / "m.npz", SIZE)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_truncated_files_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    whole = tmp_path / f"whole.{kind}"
    if kind == "npz":
        np.savez_compressed(whole, masks=MASKS)
    else:
        np.save(whole, MASKS)
    content = whole.read_bytes()
    (tmp_path / f"m.{kind}").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RegionFileError, match=f"m.{kind}"):
        read_regions(tmp_path / f"m.{kind}", SIZE)


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", masks=MASKS)
    content = bytearray((tmp_path / "m.npz").read_bytes())
    middle = content.index(b"NUMPY") + 140
    content[middle] ^= 0xFF
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(RegionFileError, match="m.npz"):
        read_regions(tmp_path / "m.npz", SIZE)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("photo.jpg", "empty.npz"):
        with pytest.raises(RegionFileError, match=f"{name}.*not JSON.*COCO"):
            read_regions(tmp_path / name, SIZE)
