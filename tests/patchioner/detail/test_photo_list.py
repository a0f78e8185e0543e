"""Lists of photos, each perhaps with regions of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from patchioner.base.errors import ImageError, RegionFileError
from patchioner.detail.photo_list import PhotoJob, read_photo_list
from patchioner.regions import Box
from tests.support.tiny import noise_photo


def written(folder: Path, content: Any) -> Path:
    path = folder / "list.json"
    path.write_text(json.dumps(content))
    return path


def test_paths_start_at_the_list(tmp_path: Path) -> None:
    found = read_photo_list(written(tmp_path, ["a.jpg", {"photo": "/b.jpg"}, "scikit-image:cat"]))
    assert [one.photo for one in found] == [str(tmp_path / "a.jpg"), "/b.jpg", "scikit-image:cat"]
    assert all(one.regions is None for one in found)


def test_regions_inline_and_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"images": {"b.jpg": [{"box": [5, 6, 7, 8]}]}}')
    entry = {"box": [1, 2, 3, 4], "label": "bus"}
    path = written(
        tmp_path,
        [{"photo": "a.jpg", "regions": [entry]}, {"photo": "x/b.jpg", "regions": "r.json"}],
    )
    first, second = read_photo_list(path)
    assert first.regions is not None
    assert second.regions is not None
    (named,) = first.regions((10, 10))
    assert (named.region, named.label) == (Box(1, 2, 3, 4), "bus")  # type: ignore[union-attr]
    assert second.regions((10, 10))[0].region == Box(5, 6, 7, 8)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content",
    [{}, [], "a.jpg", [3], [""], [{"regions": []}], [{"photo": "a", "region": []}], [{"photo": "a", "regions": 3}]],
)  # fmt: skip
def test_other_forms_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ImageError, match=r"list\.json"):
        read_photo_list(written(tmp_path, content))


def test_unreadable_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_photo_list(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ImageError, match="cannot be read"):
        read_photo_list(tmp_path / "x.json")


def test_a_broken_region_names_its_entry(tmp_path: Path) -> None:
    (one,) = read_photo_list(written(tmp_path, [{"photo": "a", "regions": [{"bax": 1}]}]))
    assert one.regions is not None
    with pytest.raises(RegionFileError, match="entry 0.*did you mean 'box'"):
        one.regions((9, 9))


def test_jobs_of_paths_and_pictures(tmp_path: Path) -> None:
    noise_photo().save(tmp_path / "a.png")
    job = PhotoJob.of(tmp_path / "a.png")
    assert job.name == str(tmp_path / "a.png")
    assert job.load().size == (96, 64)
    assert PhotoJob.of(noise_photo()).name == "photo"


def test_a_colon_in_a_file_name_makes_it_no_sample(tmp_path: Path) -> None:
    (tmp_path / "10:30.jpg").touch()
    (tmp_path / "list.json").write_text('["10:30.jpg", "scikit-image:coffee"]')
    listed = read_photo_list(tmp_path / "list.json")
    assert [one.photo for one in listed] == [str(tmp_path / "10:30.jpg"), "scikit-image:coffee"]
