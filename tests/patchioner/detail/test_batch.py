"""One photo in, one paragraph with its provenance out; and many photos, in a file that survives every stop."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from patchioner import Box, Patchioner
from patchioner.base import errors
from patchioner.detail.batch import (
    DetailCaptioner,
    LineFile,
    PhotoJob,
    describe_many,
    preset,
    read_captions,
    read_photo_list,
)
from patchioner.detail.describe import as_region
from patchioner.detail.values import (
    FORMAT,
    DetailedCaption,
    DetailRegion,
    FusedSentence,
    Photo,
    Statement,
    Support,
    to_json,
)
from tests.support.tiny import noise_photo

TEXTS = {"global": ["A dog sits.", "A unicorn flies."], "spatial-1": ["A red kite.", "A dog."]}


@dataclass
class FakeDescriber:
    texts: dict[str, list[str]]
    settings: dict[str, object] = field(default_factory=lambda: {"describer": "fake"})
    seeds: list[int] = field(default_factory=list)

    def describe(self, photo: Photo, regions: Any, *, seed: int = 0) -> list[Statement]:
        self.seeds.append(seed)
        texts = {region.id: self.texts.get(region.id, []) for region in regions}
        return [Statement(name, n, text) for name in texts for n, text in enumerate(texts[name])]


class NoUnicorns:
    """A scorer that believes in all but these."""

    settings: dict[str, object] = {}
    threshold = 0.5

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        return [Support(0.9 * ("unicorn" not in text)) for _, text in sentences]


def described(texts: dict[str, list[str]], **parts: Any) -> DetailedCaption:
    settings = preset("careful", {"filter.share": 0.0, "fuse.new_share": 1.0})
    parts = {"describer": FakeDescriber(texts), "scorer": NoUnicorns(), **parts}
    return DetailCaptioner(None, settings=settings, **parts).describe(noise_photo())


def test_every_claim_is_accounted_for_once() -> None:
    caption = described(TEXTS)
    assert caption.text == "A dog sits. A red kite."
    assert [s.claim_ids for s in caption.sentences] == [("c1",), ("c3",)]
    verdicts = [(v.claim.id, v.reason) for v in (*caption.kept, *caption.dropped)]
    expected = [("c1", None), ("c2", "unsupported"), ("c3", None), ("c4", "duplicate")]
    assert sorted(verdicts) == expected
    assert (caption.image_size, caption.reason) == ((96, 64), None)


def test_with_nothing_supported_nothing_is_said() -> None:
    caption = described({"global": ["A unicorn.", "Two unicorns."]})
    assert (caption.text, caption.sentences) == ("", ())
    assert caption.reason == "none of 2 sentences could be kept: 2 unsupported"
    assert described({}).reason == "nothing was said of the photo"


def test_of_a_photo_that_shows_nothing_nothing_is_asked() -> None:
    describer = FakeDescriber(TEXTS)
    captioner = DetailCaptioner(None, describer=describer, scorer=None)
    caption = captioner.describe(Image.new("RGB", (448, 448), "gray"), seed=2)
    assert (caption.text, caption.sentences, caption.kept, caption.dropped) == ("", (), (), ())
    assert "one colour" in (caption.reason or "")
    assert len(caption.regions) == 14 and caption.settings["seed"] == 2
    assert describer.seeds == []


@pytest.mark.parametrize(("claim", "region"), [("c9", "global"), ("c1", "nowhere")])
def test_a_fuser_that_speaks_of_what_is_not_there_is_refused(claim: str, region: str) -> None:
    fused: Any = [FusedSentence("A.", (claim,), (region,))], []
    with pytest.raises(errors.DetailError, match="c9|nowhere"):
        described(TEXTS, fuser=SimpleNamespace(settings={}, fuse=lambda *_: fused))


def test_settings_are_changed_by_name_and_stages_may_need_a_model() -> None:
    new = preset("published", {"fuse.max_words": 60, "divide.rows": 4})
    assert (new.fuse.max_words, new.divide.rows, new.divide.merge_iou) == (60, 4, 0.3)
    with pytest.raises(errors.OptionError, match="describer="):
        DetailCaptioner(None, scorer=None)
    with pytest.raises(errors.OptionError, match="scorer="):
        DetailCaptioner(None, describer=FakeDescriber({}))
    with pytest.raises(errors.UnknownNameError, match="published"):
        DetailCaptioner(None, settings="publishd")
    for wrong in ("fuse.max_word", "fuses.max_words", "fuse.max_words.x"):
        with pytest.raises(errors.UnknownNameError, match=r"did you mean '?.*fuse\.max_words"):
            preset("careful", {wrong: 1})


@pytest.mark.parametrize(("name", "value"), [
    ("divide.spatial", "thirds"), ("divide.objects", "all"), ("divide.rows", 1.5), ("divide.columns", 0),
    ("divide.merge_iou", math.nan), ("describe.samples", 0), ("describe.jitter", 0.5), ("describe.scales", ()),
    ("describe.sampled", "some"), ("describe.temperature", 0.0), ("describe.top_p", 1.5), ("filter.alike", 2),
    ("filter.trusted_agreement", -1), ("filter.whole_sentences", "some"), ("fuse.max_words", -1),
    ("fuse.duplicate", -1), ("fuse.new_share", -1),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(errors.OptionError, match=name.partition(".")[2]):
        preset("careful", {name: value})


@pytest.mark.parametrize("name", ["careful", "full", "published"])
def test_all_parts_together(model: Patchioner, name: str) -> None:
    captioner = DetailCaptioner(model, scorer=None, settings=name)
    one, two = (captioner.describe(noise_photo(), seed=3) for _ in range(2))
    assert one.text == " ".join(sentence.text for sentence in one.sentences)
    assert bool(one.text) == (one.reason is None)
    assert to_json(one, "x") == to_json(two, "x")


@dataclass
class FakeCaptioner:
    """Tells the photo's digest; raises what `trouble` has for its name."""

    trouble: Mapping[str, BaseException] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=lambda: {"describer": {"n": 1}})
    asked: list[str] = field(default_factory=list)

    def describe(self, photo: Photo, regions: Any = None, *, seed: int = 0) -> DetailedCaption:
        self.asked.append(photo.name)
        if photo.name in self.trouble:
            raise self.trouble[photo.name]
        text = f"{photo.sha256[:8]} {seed} {len(regions or ())}."
        whole = DetailRegion("global", "global", (0, 0, *photo.size))
        sentence = FusedSentence(text, ("c1",), ("global",))
        settings = {**self.settings, "seed": seed}
        return DetailedCaption(text, (sentence,), (), (), (whole,), photo.size, None, settings)


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
def test_a_line_per_photo_in_order(photos: list[str], out: Path, workers: int) -> None:
    result = describe_many(FakeCaptioner(), photos, out, workers=workers)
    assert result.complete and (result.described, result.known, result.failed) == (5, 0, ())
    assert lines_of(out) == photos == [name for name, _ in read_captions(out, result.names)]
    assert len(set(lines_of(out, "text"))) == 5
    before, again = out.read_bytes(), FakeCaptioner()
    assert describe_many(again, photos, out, workers=workers).known == 5
    assert again.asked == [] and out.read_bytes() == before


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stop", [0, 2, 4])
def test_going_on_after_a_stop(photos: list[str], out: Path, workers: int, stop: int) -> None:
    whole = out.with_name("whole.jsonl")
    describe_many(FakeCaptioner(), photos, whole)
    with pytest.raises(KeyboardInterrupt):
        first = FakeCaptioner({photos[stop]: KeyboardInterrupt()})
        describe_many(first, photos, out, workers=workers)
    written, second = lines_of(out) if out.exists() else [], FakeCaptioner()
    describe_many(second, photos, out, workers=workers)
    assert not set(written) & set(second.asked)
    assert out.read_bytes() == whole.read_bytes()


def test_a_photo_that_fails_is_reported_and_tried_again(photos: list[str], out: Path) -> None:
    Path(photos[1]).write_bytes(b"no picture")
    told: list[str] = []
    captioner = FakeCaptioner({photos[3]: errors.DetailError("the server is ill")})
    result = describe_many(captioner, photos, out, on_error=lambda name, _: told.append(name))
    assert not result.complete and result.stopped is None
    assert told == [name for name, _ in result.failed] == [photos[1], photos[3]]
    assert lines_of(out) == photos[::2]
    noise_photo(12, 8, seed=1).save(photos[1])
    again = FakeCaptioner()
    assert describe_many(again, photos, out).complete
    assert again.asked == [photos[1], photos[3]] and sorted(lines_of(out)) == photos


@pytest.mark.parametrize(
    "error", [errors.FutileError("spent"), errors.HubError("gone"), errors.OptionError("no such")]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_of_all(photos: list[str], out: Path, error: Exception, workers: int) -> None:
    captioner = FakeCaptioner({photos[2]: error})
    result = describe_many(captioner, photos, out, workers=workers)
    assert result.stopped is error and not result.complete
    assert photos[4] not in captioner.asked or workers > 1
    assert {photos[0], photos[1]} <= set(lines_of(out))


def test_a_photo_is_known_by_its_pixels_and_its_regions(photos: list[str], out: Path) -> None:
    describe_many(FakeCaptioner(), photos[:1], out)
    renamed = str(out.with_name("new.bmp"))
    Image.open(photos[0]).save(renamed)
    again = FakeCaptioner()
    assert describe_many(again, [renamed, photos[0], renamed], out).known == 3
    assert again.asked == [] and lines_of(out) == [photos[0], renamed]
    assert len(set(lines_of(out, "text"))) == 1
    for boxes in (Box(0, 0, 4, 4), Box(0, 0, 4, 5), Box(0, 0, 4, 4)):
        job = PhotoJob.of(photos[0], lambda size, boxes=boxes: [boxes])  # type: ignore[misc]
        describe_many(again, [job], out)
    assert len(again.asked) == 2


def test_other_settings_need_another_file(photos: list[str], out: Path) -> None:
    describe_many(FakeCaptioner(), photos, out)
    before = out.read_bytes()
    with pytest.raises(errors.OptionError, match=r"other settings \(describer\.n\)"):
        describe_many(FakeCaptioner(settings={"describer": {"n": 2}}), photos, out)
    with pytest.raises(errors.OptionError, match=r"other settings \(seed\)"):
        describe_many(FakeCaptioner(), photos, out, seed=1)
    assert out.read_bytes() == before


NAMES = [("k1", "a"), ("k2", "b"), ("k2", "c")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = LineFile(tmp_path / "sub" / "out.jsonl")
    for key, photo in NAMES:
        lines.append((key, photo), json.dumps({"format": FORMAT, "key": key, "photo": photo}))
    return lines.path


def test_cut_anywhere_whole_lines_stay(path: Path) -> None:
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(end <= length for end in ends)
        assert list(LineFile(path).places) == NAMES[:kept]
        assert path.read_bytes() == whole[: ([0, *ends])[kept]]


def test_zeros_at_the_end_are_cut_off_and_a_damaged_line_is_passed_over(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 100)
    assert list(LineFile(path).places) == NAMES and path.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:30] + b"\n" + lines[2])
    with caplog.at_level(logging.WARNING):
        assert list(LineFile(path).places) == [NAMES[0], NAMES[2]]
    assert "line 2" in caplog.text


@pytest.mark.parametrize(
    "text", ["dear diary\n", "dear diary", '{"a": 1}\n', f'{{"format": "{FORMAT}"}}\n', "\x89PNG\r\n\x1a\n"]
)  # fmt: skip
def test_somebody_elses_file_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(text.encode())
    with pytest.raises(errors.OptionError, match="left as it is"):
        LineFile(path)
    assert path.read_bytes() == text.encode()


@pytest.mark.parametrize("content", [
    {}, [], "a.jpg", [3], [""], [{"regions": []}], [{"photo": "a", "region": []}], [{"photo": "a", "regions": 3}],
])  # fmt: skip
def test_other_forms_of_lists_are_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(errors.ImageError, match=r"list\.json"):
        read_photo_list(tmp_path / "list.json")


def test_paths_start_at_the_list_and_regions_are_read(tmp_path: Path) -> None:
    (tmp_path / "10:30.jpg").write_bytes(b"")
    (tmp_path / "b.json").write_text('[{"box": [1, 2, 30, 40], "label": "bus"}]')
    entries = [
        "10:30.jpg", "scikit-image:coffee", {"photo": "b.jpg", "regions": "b.json"},
        {"photo": "c.jpg", "regions": [{"box": [5, 6, 7, 8]}]}, {"photo": "d.jpg", "regions": [{"circle": 3}]},
    ]  # fmt: skip
    (tmp_path / "list.json").write_text(json.dumps(entries))
    names, readers = zip(*read_photo_list(tmp_path / "list.json"), strict=True)
    places = [str(tmp_path / name) for name in ("10:30.jpg", "b.jpg", "c.jpg", "d.jpg")]
    assert list(names) == [places[0], "scikit-image:coffee", *places[1:]]
    assert readers[:2] == (None, None)
    given = [[as_region(one, (64, 64)) for one in read((64, 64))] for read in readers[2:4]]
    assert [[(one.name, one.box) for one in several] for several in given] == [
        [("bus", (1, 2, 30, 40))], [(None, (5, 6, 7, 8))]
    ]  # fmt: skip
    with pytest.raises(errors.RegionFileError, match="entry 4"):
        readers[4]((64, 64))
