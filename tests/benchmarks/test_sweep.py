"""The sweep: embeddings against the model's own, choosing against luck, resuming, the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.runner.settings import resized
from benchmarks.sweep.__main__ import main
from benchmarks.sweep.answers import ANSWERS_FILE, Sweeper
from benchmarks.sweep.choosing import choose, halves
from benchmarks.sweep.embeddings import Embeddings, crop_size
from benchmarks.sweep.features import FeatureCache
from benchmarks.sweep.measures import Measured, differences, index, measure_captions, name_regions
from benchmarks.sweep.report import difference_cell, means
from benchmarks.sweep.samples import KindSamples, read_kinds, read_uncaptioned
from benchmarks.sweep.space import (
    CROP_AREAS,
    GAUSSIANS,
    WEIGHTINGS,
    Choice,
    grid,
    one_at_a_time,
    smoothed,
)
from benchmarks.tasks import Sample
from patchioner import Box, Patchioner, Point, WholeImage
from patchioner.aggregate import Weighting
from patchioner.base.errors import OptionError
from patchioner.images import load_image
from tests.support.tiny import tiny_parts

START = Choice(64, Weighting(), 0.5, 0.02)


@pytest.fixture(scope="module")
def model() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


@pytest.fixture
def data(data: Path) -> Path:
    """With the outlines of two objects and a crowd."""
    path = data / "annotations" / "instances_dev.json"
    entry = {"image_id": 1, "bbox": [2, 2, 16, 10], "area": 80, "category_id": 0, "iscrowd": 0}
    ring = [[2.0, 2.0, 18.0, 2.0, 18.0, 12.0]]
    annotations = [
        entry | {"segmentation": ring},
        entry | {"segmentation": ring, "area": 8, "category_id": 1},
        entry | {"iscrowd": 1, "segmentation": {"counts": [0], "size": [20, 40]}},
    ]
    images = [{"id": 1, "file_name": "000000000001.jpg", "width": 40, "height": 20}]
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"images": images, "annotations": annotations}))
    return data


@pytest.fixture
def kinds(data: Path) -> tuple[KindSamples, ...]:
    return read_kinds(data)


def _embeddings(
    model: Patchioner, kinds: tuple[KindSamples, ...], data: Path, cache: Path
) -> Embeddings:
    return Embeddings(model, kinds, data / "photos", cache)


def _counted(model: Patchioner, seen: list[Any]) -> Patchioner:
    """The same model, noting what it encodes."""
    other = Patchioner(model.parts, device="cpu")
    encode = other.encode
    other.encode = lambda *args, **more: (seen.append(args), encode(*args, **more))[1]  # type: ignore[method-assign]
    return other


# --- embeddings ---


@pytest.mark.parametrize("size", [64, 96])
def test_embeddings_are_the_models_own(
    model: Patchioner, kinds: tuple[KindSamples, ...], data: Path, tmp_path: Path, size: int
) -> None:
    """A model with these settings, asked region by region, gives the same rows; at another input size too."""
    embeddings = _embeddings(model, kinds, data, tmp_path)
    plain: Any = resized(model, size)
    photos = {asked.photo for kind in kinds for asked in kind.regions}
    features = {photo: plain.encode(str(data / "photos" / photo)) for photo in photos}
    for weighting, context in [(w, c) for w in WEIGHTINGS for c in (0.0, 0.35)]:
        settings = replace(plain.settings, weighting=weighting, context=context)
        slow = Patchioner(replace(plain.parts, settings=settings), device="cpu")
        for kind in kinds:
            rows = embeddings.of(kind, Choice(size, weighting, context, 0.02))
            for row, asked in zip(rows, kind.regions, strict=True):
                due = slow.embed_regions(features[asked.photo], [asked.region])[0]
                torch.testing.assert_close(row, due, rtol=1e-5, atol=1e-5)


def test_crops_are_mixed_into_small_regions_only(
    model: Patchioner, kinds: tuple[KindSamples, ...], data: Path, tmp_path: Path
) -> None:
    """By hand: cut out with a margin, encoded alone, both of unit length."""
    small, large = (
        Sample(f"{n}", "000000000001.jpg", Box(*box), ("a dog",), 0, 1, share)
        for n, (box, share) in enumerate([((4, 4, 8, 8), 0.02), ((0, 0, 30, 20), 0.75)])
    )
    kind = KindSamples("box", (small, large))
    embeddings = _embeddings(model, (kind,), data, tmp_path)
    choice = replace(START, crop_share=0.5, crop_below=max(CROP_AREAS))
    plain, mixed = embeddings.of(kind, START), embeddings.of(kind, choice)
    assert torch.equal(mixed[1], plain[1])
    assert crop_size(model) == 32
    encoder: Any = resized(model, crop_size(model))
    photo = load_image(str(data / "photos" / small.photo))
    crop = encoder.embed_regions(encoder.encode(photo.crop((3, 3, 9, 9))), [WholeImage()])[0]
    due = plain[0] / plain[0].norm() + 0.5 * crop / crop.norm()
    torch.testing.assert_close(mixed[0], due, rtol=1e-5, atol=1e-5)


def test_features_are_made_once_and_belong_to_their_backbone(
    model: Patchioner, data: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []
    image = load_image(str(data / "photos" / "000000000001.jpg"))
    first = FeatureCache(tmp_path, _counted(model, seen)).of(image)
    second = FeatureCache(tmp_path, _counted(model, seen)).of(image)
    assert len(seen) == 1
    for name in ("tokens", "cls", "attention"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.geometry == second.geometry
    other = Patchioner(tiny_parts(seed=3), device="cpu")
    assert FeatureCache(tmp_path, other).folder != FeatureCache(tmp_path, model).folder
    assert FeatureCache(tmp_path, resized(model, 96)).folder != FeatureCache(tmp_path, model).folder


def test_the_input_size_changes_without_touching_the_model(model: Patchioner) -> None:
    """The other shares the weights; what has one size only says so."""
    other: Any = resized(model, 96)
    assert other.parts.backbone.preprocessing.size == 96
    assert model.parts.backbone.config["preprocessing"]["size"] == 64
    assert other.parts.backbone.vit is model.parts.backbone.vit  # type: ignore[attr-defined]
    assert resized(model, 64) is model and resized(model, None) is model
    with pytest.raises(OptionError, match="try 80 or 96"):
        resized(model, 90)
    with pytest.raises(OptionError, match="input size"):
        resized(object(), 90)  # type: ignore[arg-type]


# --- answers ---


def test_captions_and_values_are_those_of_a_model_with_the_setting(
    model: Patchioner, kinds: tuple[KindSamples, ...], data: Path, tmp_path: Path
) -> None:
    choice = Choice(64, Weighting("gaussian", variance=0.5), 0.2, 0.05)
    sweeper = Sweeper(model, kinds, data / "photos", tmp_path, [START])
    settings = replace(model.settings, weighting=choice.weighting, context=0.2, temperature=0.05)
    plain = Patchioner(replace(model.parts, settings=settings), device="cpu")
    for kind in kinds:
        found = sweeper.measure(kind, choice)
        due = [plain.caption(str(data / "photos" / s.photo), [s.region])[0] for s in kind.samples]
        assert found.captions == tuple(caption.text for caption in due)
        assert found.scores == pytest.approx([caption.score for caption in due], abs=1e-4)
        expected = {"trace": "wins", "region_set": "wins", "box": "naming", "whole_image": "r1"}
        assert set(found.values) - {"naming_small"} == {"cider", "stem_f", expected[kind.kind]}
        for name, values in found.values.items():
            assert len(values) == len(kind.photos(name))


def test_an_answer_is_made_once_and_a_line_cut_off_is_made_again(
    model: Patchioner, kinds: tuple[KindSamples, ...], data: Path, tmp_path: Path
) -> None:
    kind = kinds[0]

    def sweeper() -> Sweeper:
        return Sweeper(model, kinds, data / "photos", tmp_path, [START])

    first = sweeper()
    due = [first.measure(kind, START), first.measure(kind, replace(START, context=0.0))]
    path = tmp_path / ANSWERS_FILE
    whole = path.read_bytes()
    assert sweeper().measure(kind, START) == due[0]
    path.write_bytes(whole[:-20])  # killed while writing
    again = sweeper()
    assert [again.measure(kind, START), again.measure(kind, replace(START, context=0.0))] == due
    assert again.asked == 1
    assert path.read_bytes() == whole
    other = Patchioner(tiny_parts(seed=3), device="cpu")
    assert Sweeper(other, kinds, data / "photos", tmp_path, [START]).measure(kind, START) != due[0]


# --- space ---


def test_one_factor_at_a_time() -> None:
    tried = list(one_at_a_time(START, [64, 96], crops=True))
    assert len({choice for _, choice in tried}) == len(tried)
    for name, choice in tried:
        changed = {
            f.name for f in fields(choice) if getattr(choice, f.name) != getattr(START, f.name)
        }
        assert len(changed) == 1 or changed == {"crop_share", "crop_below"}, name
    assert [name for name, _ in tried if "px" in name] == ["96 px"]


def test_a_grid_holds_its_start_and_no_cls() -> None:
    odd = replace(START, context=0.42, weighting=Weighting("gaussian", variance=3.0))
    assert odd in grid(odd)
    assert replace(START, context=0.9) in grid(START, [(Weighting(), 0.9)])
    assert all(choice.weighting.kind != "cls" for choice in grid(START))


def test_smoothing_by_hand() -> None:
    """A peak that stands alone loses to a plateau."""
    places = [replace(START, context=c) for c in (0.0, 0.1, 0.2, 0.35, 0.5)]
    scores = dict(zip(places, [6.0, 0.0, 4.0, 4.0, 4.0], strict=True))
    found = smoothed(scores)
    assert [found[p] for p in places] == pytest.approx([4.0, 2.5, 3.0, 4.0, 4.0])
    sharp, flat = (replace(START, weighting=w) for w in GAUSSIANS[:2])
    alone = replace(START, weighting=Weighting("attention"))
    by_variance = smoothed({sharp: 3.0, flat: 0.0, alone: 9.0})
    assert by_variance == {sharp: 2.0, flat: 1.0, alone: 9.0}


# --- choosing ---

PHOTOS = [f"{n}.jpg" for n in range(60)]


def _kind(name: str) -> KindSamples:
    samples = [
        Sample(photo, photo, WholeImage(), ("a dog",), row, 0, 1.0)
        for row, photo in enumerate(PHOTOS)
    ]
    return KindSamples(name, tuple(samples))


def _grids(gain: Callable[[str, Choice], float]) -> dict[str, dict[Choice, Measured]]:
    """Noise of its own for each setting, plus what the setting is truly worth to the kind."""
    generator = np.random.default_rng(0)
    return {
        name: {
            choice: Measured(
                (), (), {"cider": tuple(generator.normal(gain(name, choice), 1.0, 60))}
            )
            for choice in grid(START)
        }
        for name in ("trace", "whole_image")
    }


def _chosen(gain: Callable[[str, Choice], float]) -> dict[str, Any]:
    kinds = [_kind("trace"), _kind("whole_image")]
    starts = {"trace": START, "whole_image": START}
    return choose(kinds, _grids(gain), starts, splits=10, seed=0)


def _good(choice: Choice, weighting: Weighting) -> bool:
    return choice.weighting == weighting and choice.context >= 0.5


def test_what_helps_all_kinds_is_shared() -> None:
    found = _chosen(lambda name, choice: 2.0 * _good(choice, Weighting("attention")))
    assert {one.why for one in found.values()} == {"shared"}
    assert {one.choice.weighting.kind for one in found.values()} == {"attention"}
    assert all(one.held_out_shared.wins == 1.0 for one in found.values())


def test_a_kind_gets_its_own_where_that_holds_up() -> None:
    wanted = {"trace": Weighting("attention"), "whole_image": GAUSSIANS[0]}
    found = _chosen(lambda name, choice: 3.0 * _good(choice, wanted[name]))
    assert {one.choice.weighting for one in found.values()} == set(wanted.values())
    assert "own" in {one.why for one in found.values()}


def test_luck_is_not_chosen() -> None:
    """Of pure noise the best looks good on the photos that chose it, and worth nothing on the others."""
    below = {name: 0.5 for name in ("trace", "whole_image")}
    found = _chosen(lambda name, choice: below[name] * (choice == START))
    for name, one in found.items():
        grid_of = _grids(lambda name, choice: 0.5 * (choice == START))[name]
        best = max(index(_kind(name), m, grid_of[START]) for m in grid_of.values())
        assert one.held_out_own.mean < best or best == 0
        assert one.why == "present" and one.choice == START


def test_halves_share_no_photo_and_come_again() -> None:
    found = list(halves(PHOTOS + PHOTOS, splits=5, seed=1))
    assert all(not left & right and len(left | right) == 60 for left, right in found)
    assert found == list(halves(PHOTOS, splits=5, seed=1))
    assert found != list(halves(PHOTOS, splits=5, seed=2))


# --- measures ---


def test_index_counts_standard_deviations_on_the_photos_asked_for() -> None:
    kind = _kind("trace")
    start = Measured((), (), {"cider": (0.0, 2.0) * 30, "stem_f": (5.0,) * 60})
    better = Measured((), (), {"cider": (1.0, 2.0) * 30, "stem_f": (5.0,) * 60})
    assert index(kind, start, start) == 0.0
    assert index(kind, better, start) == pytest.approx(50.0)  # +0.5, deviation 1; stem-F has none
    assert index(kind, better, start, PHOTOS[::2]) == pytest.approx(100.0)
    assert index(kind, better, start, PHOTOS[1::2]) == 0.0


def test_one_caption_for_all_regions_wins_half(kinds: tuple[KindSamples, ...]) -> None:
    kind = kinds[0]
    same = measure_captions(kind, ["a red thing here"] * len(kind.samples), [0.0] * 6)
    assert same.mean("wins") == 50.0
    right = measure_captions(kind, [s.references[0] for s in kind.samples], [0.0] * 6)
    assert right.mean("wins") == 100.0
    assert differences(kind, right, same, rounds=20, seed=0)["wins"].value == 50.0


def test_boxes_have_the_dense_map(kinds: tuple[KindSamples, ...]) -> None:
    kind = next(kind for kind in kinds if kind.kind == "box")
    right = measure_captions(kind, [s.references[0] for s in kind.samples], [3.0, 2.0, 1.0])
    wrong = measure_captions(kind, ["nothing"] * 3, [3.0, 2.0, 1.0])
    assert list(means(kind, right)) == ["cider", "stem_f", "map"]
    found = differences(kind, right, wrong, rounds=20, seed=0)["map"]
    assert found.value == pytest.approx(means(kind, right)["map"] - means(kind, wrong)["map"])
    assert found.value > 0
    assert difference_cell(found).startswith(("**+", "+"))


def test_polygons_and_points_are_named_only(model: Patchioner, data: Path, tmp_path: Path) -> None:
    """Large and small apart; crowds, and photos that nobody asks about, are left out."""
    assert read_uncaptioned(data, []) == ()
    others = read_uncaptioned(data, ["000000000001.jpg"])
    assert [kind.kind for kind in others] == ["polygon", "point"]
    for kind in others:
        assert [(one.name, one.area_share) for one in kind.named] == [("red", 0.1), ("green", 0.01)]
        found = Sweeper(model, others, data / "photos", tmp_path, [START]).measure(kind, START)
        assert found.captions == ()
        assert {name: len(values) for name, values in found.values.items()} == {
            "naming": 1, "naming_small": 1,
        }  # fmt: skip
    assert others[1].named[0].region == Point(10.0, 7.0)


def test_naming_by_hand(kinds: tuple[KindSamples, ...]) -> None:
    kind = next(kind for kind in kinds if kind.kind == "box")
    names = np.eye(len(kind.names), dtype=np.float32)
    due = np.array([kind.names.index(one.name) for one in kind.named])
    found = name_regions(kind, names[due], names)
    assert set(found["naming"]) == set(found["naming_small"]) == {100.0}
    assert len(found["naming"]) + len(found["naming_small"]) == len(kind.named)
    assert set(name_regions(kind, names[(due + 1) % len(names)], names)["naming"]) == {0.0}


# --- the command ---


def _arguments(data: Path, out: Path, *more: str) -> list[str]:
    return [
        "--data", str(data), "--out", str(out), "--sizes", "64", "--splits", "2", "--rounds", "5",
        *more,
    ]  # fmt: skip


def test_the_command_proposes_and_a_second_run_repeats_it(
    model: Patchioner, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    seen: list[Any] = []
    given = ["--weighting", "gaussian", "--variance", "3", "--context", "0.4", "--size", "96"]
    arguments = _arguments(data, out, *given, "--temperature", "0.05")
    assert main(arguments, load_model=lambda *_: _counted(model, seen)) == 0
    first = capsys.readouterr().out
    assert (out / "sweep.md").read_text() == first
    for kind in ("trace", "box", "region_set", "whole_image", "polygon", "point"):
        assert f"### {kind}" in first
    assert "present: 96 px, Gaussian 3, context 0.4, temperature 0.05" in first
    assert "size 64 px" in first and "temperature 0.004" in first and "crop" in first
    proposal = json.loads((out / "proposal.json").read_text())
    assert set(proposal) == {"trace", "box", "region_set", "whole_image"}
    assert set(proposal["box"]) == {"size", "weighting", "context", "temperature"}
    answers, count = (out / ANSWERS_FILE).read_bytes(), len(seen)
    assert main(arguments, load_model=lambda *_: _counted(model, seen)) == 0
    assert capsys.readouterr().out == first
    assert (out / ANSWERS_FILE).read_bytes() == answers
    assert len(seen) == count


def test_a_model_without_settings_is_refused(
    data: Path, tmp_path: Path, colour_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(data, tmp_path / "s"), load_model=lambda *_: colour_model) == 1
    assert "cannot be changed" in capsys.readouterr().err
