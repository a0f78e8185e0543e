"""One photo in, one paragraph with its provenance out; and many photos, in a file that survives every stop."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from patchioner import Box, Patchioner
from patchioner.base import errors
from patchioner.detail import batch, values
from patchioner.detail.describe import as_region
from tests.support.tiny import noise_photo

TEXTS = {"global": ["A dog sits. A unicorn flies."], "spatial-1": ["A red kite.", "A dog."]}


def described(
    texts: dict[str, list[str]], photo: Image.Image | None = None, **parts: Any
) -> values.DetailedCaption:
    """By stand-ins: one says these texts, one believes in all but unicorns."""

    def describe(photo: values.Photo, regions: Any, *, seed: int) -> list[values.Statement]:
        ids = [region.id for region in regions if region.id in texts]
        return [
            values.Statement(name, n, text) for name in ids for n, text in enumerate(texts[name])
        ]

    def score(photo: values.Photo, sentences: Any) -> list[values.Support]:
        return [values.Support(0.9 * ("unicorn" not in text)) for _, text in sentences]

    said: Any = SimpleNamespace(settings={"describer": "fake"}, describe=describe)
    scorer: Any = SimpleNamespace(settings={}, threshold=0.5, score=score)
    settings = batch.preset("careful", {"filter.share": 0.0, "fuse.new_share": 1.0})
    captioner = batch.DetailCaptioner(
        None, describer=said, scorer=scorer, settings=settings, **parts
    )
    return captioner.describe(photo or noise_photo(), seed=2)


def test_every_claim_is_accounted_for_once() -> None:
    caption = described(TEXTS)
    assert caption.text == "A dog sits. A red kite."
    assert [s.claim_ids for s in caption.sentences] == [("c1",), ("c3",)]
    verdicts = [(v.claim.id, v.reason) for v in (*caption.kept, *caption.dropped)]
    expected = [("c1", None), ("c2", "unsupported"), ("c3", None), ("c4", "duplicate")]
    assert sorted(verdicts) == expected
    assert (caption.image_size, caption.reason, caption.settings["seed"]) == ((96, 64), None, 2)


@pytest.mark.parametrize(("texts", "photo", "reason"), [
    ({"global": ["A unicorn.", "Two unicorns."]}, None, "none of 2 sentences could be kept: 2 unsupported"),
    ({}, None, "nothing was said of the photo"), (TEXTS, Image.new("RGB", (448, 448), "gray"), "one colour"),
])  # fmt: skip
def test_with_nothing_supported_nothing_is_said(texts: Any, photo: Any, reason: str) -> None:
    caption = described(texts, photo)
    assert (caption.text, caption.sentences, caption.kept) == ("", (), ())
    assert reason in (caption.reason or "")
    assert len(caption.regions) == 14


@pytest.mark.parametrize(("claim", "region"), [("c9", "global"), ("c1", "nowhere")])
def test_a_fuser_that_speaks_of_what_is_not_there_is_refused(claim: str, region: str) -> None:
    fused: Any = [values.FusedSentence("A.", (claim,), (region,))], []
    with pytest.raises(errors.DetailError, match="c9|nowhere"):
        described(TEXTS, fuser=SimpleNamespace(settings={}, fuse=lambda *_: fused))


def test_settings_are_changed_by_name_and_stages_may_need_a_model() -> None:
    new = batch.preset("published", {"fuse.max_words": 60, "divide.rows": 4})
    assert (new.fuse.max_words, new.divide.rows, new.divide.merge_iou) == (60, 4, 0.3)
    for parts in ({"scorer": None}, {"describer": SimpleNamespace(settings={})}):
        with pytest.raises(errors.OptionError, match=r"scorer=|describer="):
            batch.DetailCaptioner(None, **parts)  # type: ignore[arg-type]
    with pytest.raises(errors.UnknownNameError, match="published"):
        batch.preset("publishd")
    for wrong in ("fuse.max_word", "fuses.max_words", "fuse.max_words.x"):
        with pytest.raises(errors.UnknownNameError, match=r"did you mean '?.*fuse\.max_words"):
            batch.preset("careful", {wrong: 1})


@pytest.mark.parametrize(("name", "value"), [
    ("divide.spatial", "thirds"), ("divide.rows", 1.5), ("divide.merge_iou", math.nan), ("describe.jitter", 0.5),
    ("describe.scales", ()), ("describe.temperature", 0.0), ("filter.alike", 2), ("filter.whole_sentences", "some"),
    ("fuse.max_words", -1),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(errors.OptionError, match=name.partition(".")[2]):
        batch.preset("careful", {name: value})


@pytest.mark.parametrize("name", ["full", "published"])
def test_all_parts_together(model: Patchioner, name: str) -> None:
    captioner = batch.DetailCaptioner(model, scorer=None, settings=name)
    one, two = (captioner.describe(noise_photo(), seed=3) for _ in range(2))
    assert one.text == " ".join(sentence.text for sentence in one.sentences)
    assert bool(one.text) == (one.reason is None)
    assert values.to_json(one, "x") == values.to_json(two, "x")


class FakeCaptioner:
    """Tells the photo's digest; raises what `trouble` has for its name."""

    def __init__(self, trouble: Mapping[str, BaseException] | None = None, n: int = 1) -> None:
        self.trouble, self.asked = trouble or {}, list[str]()
        self.settings: dict[str, object] = {"describer": {"n": n}}

    def describe(
        self, photo: values.Photo, regions: Any = None, *, seed: int = 0
    ) -> values.DetailedCaption:
        self.asked.append(photo.name)
        if photo.name in self.trouble:
            raise self.trouble[photo.name]
        text = f"{photo.sha256[:8]} {seed} {len(regions or ())}."
        settings = {**self.settings, "seed": seed}
        return values.DetailedCaption(text, (), (), (), (), photo.size, None, settings)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    names = [str(tmp_path / f"{number}.png") for number in range(5)]
    for number, name in enumerate(names):
        noise_photo(12, 8, seed=number).save(name)
    return names


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def lines_of(out: Path, field: str = "photo") -> list[Any]:
    return [json.loads(line)[field] for line in out.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stop", [0, 2, 4])
def test_a_line_per_photo_in_order_after_a_stop_as_without_one(
    photos: list[str], out: Path, workers: int, stop: int
) -> None:
    whole = out.with_name("whole.jsonl")
    result = batch.describe_many(FakeCaptioner(), photos, whole)
    assert result.complete and (result.described, result.known, result.failed) == (5, 0, ())
    assert (
        lines_of(whole) == photos == [name for name, _ in batch.read_captions(whole, result.names)]
    )
    with pytest.raises(KeyboardInterrupt):
        first = FakeCaptioner({photos[stop]: KeyboardInterrupt()})
        batch.describe_many(first, photos, out, workers=workers)
    written, second = lines_of(out) if out.exists() else [], FakeCaptioner()
    batch.describe_many(second, photos, out, workers=workers)
    assert not set(written) & set(second.asked)
    assert out.read_bytes() == whole.read_bytes()


def test_a_photo_that_fails_is_reported_and_tried_again(photos: list[str], out: Path) -> None:
    Path(photos[1]).write_bytes(b"no picture")
    told: list[str] = []
    captioner = FakeCaptioner({photos[3]: errors.DetailError("the server is ill")})
    result = batch.describe_many(captioner, photos, out, on_error=lambda name, _: told.append(name))
    assert not result.complete and result.stopped is None
    assert told == [name for name, _ in result.failed] == [photos[1], photos[3]]
    assert lines_of(out) == photos[::2]
    noise_photo(12, 8, seed=1).save(photos[1])
    again = FakeCaptioner()
    assert batch.describe_many(again, photos, out).complete
    assert again.asked == [photos[1], photos[3]] and sorted(lines_of(out)) == photos


@pytest.mark.parametrize(
    "error", [errors.FutileError("spent"), errors.HubError("gone"), errors.OptionError("no such")]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_of_all(photos: list[str], out: Path, error: Exception, workers: int) -> None:
    captioner = FakeCaptioner({photos[2]: error})
    result = batch.describe_many(captioner, photos, out, workers=workers)
    assert result.stopped is error and not result.complete
    assert photos[4] not in captioner.asked or workers > 1
    assert {photos[0], photos[1]} <= set(lines_of(out))


def test_a_photo_is_known_by_pixels_regions_and_settings(photos: list[str], out: Path) -> None:
    batch.describe_many(FakeCaptioner(), photos[:1], out)
    renamed = str(out.with_name("new.bmp"))
    Image.open(photos[0]).save(renamed)
    again = FakeCaptioner()
    assert batch.describe_many(again, [renamed, photos[0], renamed], out).known == 3
    assert again.asked == [] and lines_of(out) == [photos[0], renamed]
    assert len(set(lines_of(out, "text"))) == 1
    for boxes in (Box(0, 0, 4, 4), Box(0, 0, 4, 5), Box(0, 0, 4, 4)):
        job = batch.PhotoJob.of(photos[0], lambda size, boxes=boxes: [boxes])  # type: ignore[misc]
        batch.describe_many(again, [job], out)
    assert len(again.asked) == 2
    before = out.read_bytes()
    other = FakeCaptioner(n=2)
    for captioner, seed, changed in ((other, 0, r"describer\.n"), (again, 1, "seed")):
        with pytest.raises(errors.OptionError, match=rf"other settings \({changed}\)"):
            batch.describe_many(captioner, photos, out, seed=seed)
    assert out.read_bytes() == before


NAMES = [("k1", "a"), ("k2", "b"), ("k2", "c")]


def test_cut_or_damaged_anywhere_whole_lines_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = batch.LineFile(tmp_path / "sub" / "out.jsonl")
    for key, photo in NAMES:
        made.append((key, photo), json.dumps({"format": values.FORMAT, "key": key, "photo": photo}))
    path, whole = made.path, made.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [len(b"".join(lines[:n])) for n in range(len(lines) + 1)]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(end <= length for end in ends[1:])
        assert list(batch.LineFile(path).places) == NAMES[:kept]
        assert path.read_bytes() == whole[: ends[kept]]
    path.write_bytes(whole + b"\0" * 100)  # as a power cut leaves it
    assert list(batch.LineFile(path).places) == NAMES and path.read_bytes() == whole
    path.write_bytes(lines[0] + lines[1][:30] + b"\n" + lines[2])
    with caplog.at_level(logging.WARNING):
        assert list(batch.LineFile(path).places) == [NAMES[0], NAMES[2]]
    assert "line 2" in caplog.text


@pytest.mark.parametrize(
    "text", ["dear diary\n", "dear diary", '{"a": 1}\n', f'{{"format": "{values.FORMAT}"}}\n', "\x89PNG\r\n\x1a\n"]
)  # fmt: skip
def test_somebody_elses_file_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(text.encode())
    with pytest.raises(errors.OptionError, match="left as it is"):
        batch.LineFile(path)
    assert path.read_bytes() == text.encode()


@pytest.mark.parametrize("content", [
    {}, [], "a.jpg", [3], [""], [{"regions": []}], [{"photo": "a", "region": []}], [{"photo": "a", "regions": 3}],
])  # fmt: skip
def test_other_forms_of_lists_are_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(errors.ImageError, match=r"list\.json"):
        batch.read_photo_list(tmp_path / "list.json")


def test_paths_start_at_the_list_and_regions_are_read(tmp_path: Path) -> None:
    (tmp_path / "10:30.jpg").write_bytes(b"")
    (tmp_path / "b.json").write_text('[{"box": [1, 2, 30, 40], "label": "bus"}]')
    entries = [
        "10:30.jpg", "scikit-image:coffee", {"photo": "b.jpg", "regions": "b.json"},
        {"photo": "c.jpg", "regions": [{"box": [5, 6, 7, 8]}]}, {"photo": "d.jpg", "regions": [{"circle": 3}]},
    ]  # fmt: skip
    (tmp_path / "list.json").write_text(json.dumps(entries))
    names, readers = zip(*batch.read_photo_list(tmp_path / "list.json"), strict=True)
    places = [str(tmp_path / name) for name in ("10:30.jpg", "b.jpg", "c.jpg", "d.jpg")]
    assert list(names) == [places[0], "scikit-image:coffee", *places[1:]]
    assert readers[:2] == (None, None)
    given = [[as_region(one, (64, 64)) for one in read((64, 64))] for read in readers[2:4]]
    assert [[(one.name, one.box) for one in several] for several in given] == [
        [("bus", (1, 2, 30, 40))], [(None, (5, 6, 7, 8))]
    ]  # fmt: skip
    with pytest.raises(errors.RegionFileError, match="entry 4"):
        readers[4]((64, 64))
