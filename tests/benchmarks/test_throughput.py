"""The throughput command: its ways agree, its table counts photos and captions, errors are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import throughput
from benchmarks.timing import Timing
from patchioner import Batching, Patchioner
from patchioner.base.errors import PatchionerError
from tests.support.tiny import noise_photo, tiny_parts


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.jpg" for seed in range(3)]
    for seed, path in enumerate(paths):
        noise_photo(seed=seed).save(path)
    return paths


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Patchioner(tiny_parts(), device="cpu").save_pretrained(tmp_path / "model", storage="fp32")
    return tmp_path / "model"


def test_every_way_is_timed_in_every_round(photos: list[Path]) -> None:
    rates = throughput.measure_rates(Patchioner(tiny_parts(), device="cpu"), photos, 4, rounds=2)
    assert [rate.way for rate in rates] == [
        "photo by photo", "shared batches", "shared batches, overlapped",
    ]  # fmt: skip
    assert all(len(rate.timing.seconds) == 2 and rate.photos == 3 for rate in rates)
    assert rates[0].gain == 1.0


def test_a_way_that_says_something_else_is_an_error(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Patchioner(tiny_parts(), device="cpu")
    real = model.caption_many

    def forgetful(items: Any, *, batching: Batching | None = None, **given: Any) -> Any:
        # Alone, a photo's caption is right; in shared batches it is another's.
        return real([(noise_photo(seed=9), None)] if batching else items, **given)

    monkeypatch.setattr(model, "caption", lambda *item: real([item])[0])
    monkeypatch.setattr(model, "caption_many", forgetful)
    with pytest.raises(PatchionerError, match="differ from those of photo by photo"):
        throughput.measure_rates(model, photos[:1], 1, rounds=1)


def test_the_command_prints_a_table_and_writes_json(
    photos: list[Path], saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rates.json"
    words = ["--model", str(saved), "--photos", str(photos[0].parent), "--limit", "2"]
    words += ["--regions", "1", "3", "--rounds", "1", "--json", str(out)]
    assert throughput.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 1 + 2 * 3
    assert "2 photos, CPU" in lines[-1]
    assert len(json.loads(out.read_text())["rates"]) == 6


def test_photos_are_drawn_where_none_are_given(saved: Path) -> None:
    words = ["--model", str(saved), "--limit", "1", "--regions", "1", "--rounds", "1"]
    assert throughput.main(words) == 0


def test_a_folder_without_photos_is_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert throughput.main(["--model", str(saved), "--photos", str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err.startswith("error: no *.jpg in")


def test_rates_are_by_the_median_round() -> None:
    rate = throughput.Rate("photo by photo", 16, Timing("", (1.0, 2.0, 9.0)), 4, 1.0)
    assert rate.photos_a_second == 2.0
    assert throughput.table_row(rate) == "| 16 | photo by photo | 2.0 | 32 | 1.00 |\n"
