"""One photo in, one paragraph with its provenance out; and many photos, in a file that survives every stop."""

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from patchioner import Box, Patchioner
from patchioner.base import errors
from patchioner.base.files import held
from patchioner.detail import FORMAT, DetailedCaption, FusedSentence, Photo, Statement, Support, batch, to_json
from tests.patchioner.detail.conftest import CASES
from tests.support import Log, MonkeyPatch
from tests.support.tiny import noise_photo

TEXTS = {"global": ["A dog sits. A unicorn flies."], "spatial-1": ["A red kite.", "A dog."]}
UNICORNS = {"global": ["A unicorn.", "Two unicorns."]}
GREY = Image.new("RGB", (448, 448), "gray")


def described(texts: Any, photo: Image.Image, **stages: Any) -> DetailedCaption:
    """By stand-ins: one says the texts, one believes in all but unicorns."""

    def describe(photo: Photo, regions: Any, *, seed: int) -> list[Statement]:
        return [Statement(name, *one) for name in texts for one in enumerate(texts[name])]

    def score(photo: Photo, sentences: Any) -> list[Support]:
        return [Support(0.9 * ("unicorn" not in text)) for _, text in sentences]

    said: Any = SimpleNamespace(settings={"describer": "fake"}, describe=describe)
    scorer: Any = SimpleNamespace(settings={}, threshold=0.5, score=score)
    settings = batch.preset("careful", {"filter.share": 0.0, "fuse.new_share": 1.0})
    stages |= {"describer": said, "scorer": scorer, "settings": settings}
    return batch.DetailCaptioner(None, **stages).describe(photo, seed=2)


@pytest.mark.parametrize(("claim", "region"), [("c9", "global"), ("c1", "nowhere")])
def test_a_fuser_that_speaks_of_what_is_not_there_is_refused(claim: str, region: str) -> None:
    fused: Any = [FusedSentence("A.", (claim,), (region,))], []
    with pytest.raises(errors.DetailError, match="c9|nowhere"):
        described(TEXTS, noise_photo(), fuser=SimpleNamespace(settings={}, fuse=lambda *_: fused))


@pytest.mark.parametrize(("texts", "photo", "text", "reasons", "why"), [
    (TEXTS, noise_photo(), "A dog sits. A red kite.", [None, "unsupported", None, "duplicate"], ""),
    (UNICORNS, noise_photo(), "", ["unsupported"] * 2, "none of 2 sentences could be kept: 2 unsupported"),
    ({}, noise_photo(), "", [], "nothing was said of the photo"), (TEXTS, GREY, "", [], "one colour"),
])  # fmt: skip
def test_every_claim_is_accounted_for_once(
    texts: Any, photo: Image.Image, text: str, reasons: list[str | None], why: str
) -> None:
    caption = described(texts, photo)
    verdicts = sorted((one.claim.id, one.reason) for one in (*caption.kept, *caption.dropped))
    assert verdicts == [(f"c{n}", reason) for n, reason in enumerate(reasons, 1)]
    kept = [one.claim.id for one in caption.kept]
    assert [one.claim_ids for one in caption.sentences] == [(name,) for name in kept]
    assert caption.text == text and why in (caption.reason or "")
    assert (caption.image_size, len(caption.regions)) == (photo.size, 14)
    assert caption.settings["seed"] == 2


def test_settings_are_changed_by_name_and_stages_may_need_a_model() -> None:
    new = batch.preset("published", {"fuse.max_words": 60, "divide.rows": 4})
    assert (new.fuse.max_words, new.divide.rows, new.divide.merge_iou) == (60, 4, 0.3)
    for parts in ({"scorer": None}, {"describer": SimpleNamespace(settings={})}):
        with pytest.raises(errors.OptionError, match=r"scorer=|describer="):
            batch.DetailCaptioner(None, **parts)
    with pytest.raises(errors.UnknownNameError, match="published"):
        batch.preset("publishd")
    for wrong in ("fuse.max_word", "fuses.max_words", "fuse.max_words.x"):
        with pytest.raises(errors.UnknownNameError, match=r"did you mean '?.*fuse\.max_words"):
            batch.preset("careful", {wrong: 1})


@pytest.mark.parametrize(("name", "value"), CASES["settings"])
def test_settings_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(errors.OptionError, match=name.partition(".")[2]):
        batch.preset("careful", {name: value})


@pytest.mark.parametrize("name", ["full", "published"])
def test_all_parts_together(model: Patchioner, name: str) -> None:
    captioner = batch.DetailCaptioner(model, scorer=None, settings=name)
    one, two = (captioner.describe(noise_photo(), seed=3) for _ in range(2))
    assert one.text == " ".join(sentence.text for sentence in one.sentences)
    assert bool(one.text) == (one.reason is None)
    assert to_json(one, "x") == to_json(two, "x")


PHOTOS, OUT = [f"{number}.png" for number in range(5)], Path("out.jsonl")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """The photos, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(PHOTOS):
        noise_photo(12, 8, seed=number).save(name)


class Fake:
    """Tells the photo's digest; raises what `trouble` has for its name."""

    def __init__(self, trouble: Mapping[str, BaseException] | None = None, n: int = 1) -> None:
        self.trouble, self.asked = trouble or {}, list[str]()
        self.settings: dict[str, object] = {"describer": {"n": n}}

    def describe(self, photo: Photo, regions: Any = None, *, seed: int = 0) -> DetailedCaption:
        self.asked.append(photo.name)
        if photo.name in self.trouble:
            raise self.trouble[photo.name]
        text = f"{photo.sha256[:8]} {seed} {len(regions or ())}."
        settings = {**self.settings, "seed": seed}
        return DetailedCaption(text, (), (), (), (), photo.size, None, settings)


def run(captioner: Any, photos: Any = PHOTOS, out: Path = OUT, **how: Any) -> batch.BatchResult:
    return batch.describe_many(captioner, photos, out, **how)


def lines(field: str = "photo") -> list[Any]:
    held = OUT.read_text() if OUT.exists() else ""
    return [json.loads(line)[field] for line in held.splitlines()]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stop", [0, 2, 4])
def test_a_line_per_photo_in_order_after_a_stop_as_without(workers: int, stop: int) -> None:
    whole, again = Path("whole.jsonl"), Fake()
    result = run(Fake(), out=whole)
    assert result.complete and (result.described, result.known, result.failed) == (5, 0, ())
    with pytest.raises(KeyboardInterrupt):
        run(Fake({PHOTOS[stop]: KeyboardInterrupt()}), workers=workers)
    written = lines()
    run(again, workers=workers)
    assert not set(written) & set(again.asked)
    assert OUT.read_bytes() == whole.read_bytes()
    assert lines() == PHOTOS == [name for name, _ in batch.read_captions(OUT, result.names)]


def test_a_photo_that_fails_is_reported_and_tried_again() -> None:
    Path("1.png").write_bytes(b"no picture")
    told, again = list[str](), Fake()
    ill = Fake({"3.png": errors.DetailError("the server is ill")})
    result = run(ill, on_error=lambda name, _: told.append(name))
    assert not result.complete and result.stopped is None
    assert told == [name for name, _ in result.failed] == ["1.png", "3.png"]
    assert lines() == PHOTOS[::2]
    noise_photo(12, 8, seed=1).save("1.png")
    assert run(again).complete
    assert again.asked == ["1.png", "3.png"] and sorted(lines()) == PHOTOS


@pytest.mark.parametrize("kind", [errors.FutileError, errors.HubError, errors.OptionError])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_of_all(kind: type[Exception], workers: int) -> None:
    captioner = Fake({"2.png": kind("spent")})
    result = run(captioner, workers=workers)
    assert isinstance(result.stopped, kind) and not result.complete
    assert "4.png" not in captioner.asked or workers > 1
    assert {"0.png", "1.png"} <= set(lines())


def test_a_photo_is_known_by_pixels_regions_and_settings() -> None:
    run(Fake(), ["0.png"])
    Image.open("0.png").save("new.bmp")
    again = Fake()
    assert run(again, ["new.bmp", "0.png", "new.bmp"]).known == 3
    assert again.asked == [] and lines() == ["0.png", "new.bmp"]
    assert len(set(lines("text"))) == 1
    for bottom in (4, 5, 4):
        given: Any = partial(lambda boxes, size: boxes, [Box(0, 0, 4, bottom)])
        run(again, [batch.PhotoJob("0.png", partial(Image.open, "0.png"), given)])
    assert len(again.asked) == 2
    before = OUT.read_bytes()
    for captioner, seed, changed in ((Fake(n=2), 0, r"describer\.n"), (again, 1, "seed")):
        with pytest.raises(errors.OptionError, match=rf"other settings \({changed}\)"):
            run(captioner, seed=seed)
    with held(OUT), pytest.raises(errors.OptionError, match="another process"):
        run(again)
    assert OUT.read_bytes() == before


NAMES = [("k1", "a"), ("k2", "b"), ("k2", "c")]


def test_cut_or_damaged_anywhere_whole_lines_stay(caplog: Log) -> None:
    made = batch.LineFile("out.jsonl")
    for key, photo in NAMES:
        made.append((key, photo), json.dumps({"format": FORMAT, "key": key, "photo": photo}))
    path, whole = made.path, made.path.read_bytes()
    parts = whole.splitlines(keepends=True)
    ends = [len(b"".join(parts[:n])) for n in range(len(parts) + 1)]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(end <= length for end in ends[1:])
        assert list(batch.LineFile(path).places) == NAMES[:kept]
        assert path.read_bytes() == whole[: ends[kept]]
    path.write_bytes(whole + b"\0" * 100)  # as a power cut leaves it
    assert list(batch.LineFile(path).places) == NAMES and path.read_bytes() == whole
    path.write_bytes(parts[0] + parts[1][:30] + b"\n" + parts[2])
    with caplog.at_level(logging.WARNING):
        assert list(batch.LineFile(path).places) == [NAMES[0], NAMES[2]]
    assert "line 2" in caplog.text


@pytest.mark.parametrize(
    "text", ["dear diary\n", "dear diary", '{"a": 1}\n', f'{{"format": "{FORMAT}"}}\n', "\x89PNG\r\n\x1a\n"]
)  # fmt: skip
def test_somebody_elses_file_is_not_touched(text: str) -> None:
    OUT.write_bytes(text.encode())
    with pytest.raises(errors.OptionError, match="left as it is"):
        batch.LineFile(OUT)
    assert OUT.read_bytes() == text.encode()
