"""The captioner: batches, context, projection, threads, explanations, and files that give the same captions."""

import copy
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner import Batching, Box, Patchioner, Weighting, WholeImage, as_supervision
from patchioner.backbones import PatchFeatures as Features
from patchioner.base import errors
from patchioner.base.errors import ImageError, OptionError, PatchionerError, RegionError, TextError
from patchioner.embedding import project
from patchioner.regions import Mask, Patch, Point, Region, RegionSet, Trace, pool_regions
from tests.support import Log, MonkeyPatch
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

REGIONS: list[Region] = [
    WholeImage(), Box(0, 0, 20, 20), Box(30, 10, 90, 60), Point(70, 50), Patch(0, 1),
    Trace([(5, 60), (40, 60), (60, 40)]), RegionSet([Box(0, 40, 20, 64), Point(90, 5)]),
]  # fmt: skip
LABELS = ("a red cat", "a blue bus", "a green boat at night", "a yellow kite")


def build(**settings: Any) -> Patchioner:
    parts = tiny_parts()
    return Patchioner(replace(parts, settings=replace(parts.settings, **settings)), device="cpu")


@pytest.fixture(scope="module")
def features(model: Patchioner) -> Features:
    return model.encode(noise_photo())


def words(captions: Sequence[Any]) -> list[str]:
    return [caption.text for caption in captions]


def test_a_photo_and_its_features(model: Patchioner, features: Features, tmp_path: Path) -> None:
    photo, path = noise_photo(), tmp_path / "photo.png"
    photo.save(path)
    captions = model.caption(features, REGIONS)
    assert [caption.region for caption in captions] == REGIONS
    assert len(set(words(captions))) > 2  # the tiny model does tell regions apart
    assert words(model.caption(features, REGIONS[::-1])) == words(captions)[::-1]
    for source in (photo, np.asarray(photo), path, str(path)):
        assert model.caption(source, REGIONS) == captions
    assert words(model.caption(features)) == words(captions[:1])
    found: Any = model.caption_many([(features, [WholeImage()]), (features, [])])
    assert (len(found), [len(captions) for captions in found]) == (2, [1, 0])
    assert model.caption(features, []) == [] and "memory bank of 30 rows" in repr(model)


def test_a_stream_keeps_the_order_however_it_is_cut(model: Patchioner, tmp_path: Path) -> None:
    names = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, name in enumerate(names):
        noise_photo(seed=seed).save(name)
    items: list[Any] = [(names[0], REGIONS), (names[1], None), (names[2], REGIONS[2:4])]
    items += [(model.encode(noise_photo(seed=3)), REGIONS[:3]), (noise_photo(seed=4), None)]
    plain = [model.caption(photo, regions) for photo, regions in items]
    photos: Any = [noise_photo(seed=4), noise_photo(seed=3)]
    assert list(model.caption_many([])) == model.encode(photos[2:]) == []
    one, two = model.encode(photos)
    assert torch.equal(two.tokens, items[3][0].tokens) and not torch.equal(one.tokens, two.tokens)
    for cut in (None, Batching(2, 1, 0, 1, False), Batching(3, 4, 2, 2), Batching(5, 99)):
        stream = model.caption_stream(iter(items), batching=cut)
        for captions, expected in zip(stream, plain, strict=True):
            assert words(captions) == words(expected)
            assert [one.region for one in captions] == [one.region for one in expected]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda item: model.caption(*item), items)) == plain


def test_large_jpegs_may_be_read_at_a_reduced_scale(tmp_path: Path) -> None:
    path, box = tmp_path / "large.jpg", [Box(0, 0, 700, 1000), WholeImage()]
    noise_photo(48, 32).resize((1536, 1024)).save(path, quality=95)
    whole = Patchioner(tiny_parts(), device="cpu")
    reduced = Patchioner(tiny_parts(), device="cpu", reduce_jpegs=True)
    full, small = (model.encode(path) for model in (whole, reduced))
    assert small.geometry == full.geometry and not torch.equal(small.tokens, full.tokens)
    close = F.cosine_similarity(whole.embed_regions(full, box), whole.embed_regions(small, box))
    assert float(close.min()) > 0.99
    # Crops are cut from the photo itself, which is then read whole.
    kept = reduced.encode(path, keep_image=True)
    assert kept.image and kept.image.size == (1536, 1024) and torch.equal(kept.tokens, full.tokens)


def test_features_are_not_changed_by_use(model: Patchioner) -> None:
    features = model.encode(noise_photo())
    kept = copy.deepcopy(features)
    model.caption(features, REGIONS, weighting=Weighting("attention"))
    model.explain(features, REGIONS[1])
    for name in ("tokens", "cls", "attention"):
        assert torch.equal(getattr(kept, name), getattr(features, name))
    frozen: Any
    for frozen, name in ((features, "cls"), (model.caption(features)[0], "text")):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, name, None)


def test_context_projection_and_top_k_against_plain_code(features: Features) -> None:
    pooled, rows = pool_regions(features, REGIONS), build().embed_regions(features, REGIONS)
    assert torch.equal(build(context=0.0).embed_regions(features, REGIONS), pooled)
    assert torch.equal(build().embed_regions(replace(features, cls=None), REGIONS), pooled)
    bank: Any = tiny_parts().bank
    values, cosines = bank.embeddings(), F.normalize(rows, dim=1) @ bank.units().T
    plain, nearest = (cosines / 0.02).softmax(1) @ values, values[cosines.argmax(1)]
    for settings, wanted in (
        ({}, plain), ({"top_k": 30}, plain), ({"top_k": 1}, nearest), ({"projection": "none"}, rows),
    ):  # fmt: skip
        model = build(**settings)
        found = project(rows, model.settings, model.parts.bank)
        torch.testing.assert_close(found, F.normalize(wanted, dim=1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(F.normalize(plain, dim=1), F.normalize(nearest, dim=1))


def test_an_explanation_has_texts_and_weights(model: Patchioner, features: Features) -> None:
    region, bank = REGIONS[1], model.parts.bank
    explanation = model.explain(features, region, k=4)
    own, texts = model.embed_regions(features, [region]), model.embed_text(TEXTS)
    best = F.cosine_similarity(own, texts).topk(4)
    assert explanation.texts == tuple(TEXTS[row] for row in best.indices.tolist())
    assert explanation.similarities == pytest.approx(best.values.tolist(), abs=1e-5)
    assert explanation.weights.dtype == np.float32
    np.testing.assert_array_equal(explanation.weights, region.patch_weights(features.geometry))
    with pytest.raises(OptionError, match="k is 31"):
        model.explain(features, region, k=31)
    assert bank is not None
    mute = Patchioner(model.parts.with_bank(bank.with_texts(None)), device="cpu")
    with pytest.raises(OptionError, match="'tiny' has no memory texts"):
        mute.explain(features, region)


def test_a_saved_model_captions_alike(model: Patchioner, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, storage="fp32")
    loaded = Patchioner.from_pretrained(tmp_path, device="cpu")
    assert loaded.settings == model.settings
    expected = words(model.caption(noise_photo(), REGIONS))
    assert words(loaded.caption(noise_photo(), REGIONS)) == expected
    loaded.save_pretrained(tmp_path, storage="fp32")
    again = Patchioner.from_pretrained(tmp_path, device="cpu")
    for one in (loaded, again):  # the memory-mapped bank of the first is still readable
        assert words(one.caption(noise_photo(), REGIONS)) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_tokens_that_are_not_finite(model: Patchioner, features: Features, value: float) -> None:
    broken = replace(features, tokens=features.tokens.clone())
    broken.tokens[0, 0, 3] = value
    for kind in ("memory", "none"):
        with pytest.raises((errors.MemoryBankError, errors.DecoderError), match="not finite"):
            build(projection=kind).caption(broken)
    with pytest.raises(PatchionerError):
        model.label(broken, None, LABELS)


def test_a_label_is_the_softmax_of_cosines(model: Patchioner, features: Features) -> None:
    found = model.label(features, REGIONS, LABELS, temperature=0.05)
    regions = F.normalize(model.embed_regions(features, REGIONS).double(), dim=1)
    texts = F.normalize(model.embed_text(LABELS).double(), dim=1)
    shares = (regions @ texts.T / 0.05).softmax(1)
    for label, region, share in zip(found, REGIONS, shares.tolist(), strict=True):
        assert label.probabilities == pytest.approx(share, abs=1e-5)
        assert (label.text, label.region) == (LABELS[share.index(max(share))], region)
        assert label.probability == max(label.probabilities)
    assert len({label.text for label in found}) > 1
    curve = {"slope": 4.0, "offset": -1.0, "threshold": 0.5}
    calibrated = build(calibration={"label": curve})
    for label in calibrated.label(features, REGIONS, LABELS):
        sure = 1 / (1 + np.exp(1.0 - 4.0 * max(label.cosines)))
        assert label.probability == pytest.approx(sure)
        assert label.text == (LABELS[int(np.argmax(label.cosines))] if sure >= 0.5 else None)
    assert all(one.text for one in calibrated.label(features, REGIONS, LABELS, threshold=0.0))
    assert not any(one.text for one in model.label(features, REGIONS, LABELS, threshold=1.0))


def test_labels_of_many_photos_and_what_is_refused(model: Patchioner, features: Features) -> None:
    items: list[Any] = [(features, REGIONS[:3]), (noise_photo(seed=4), None)]
    together = list(model.label_many(items, LABELS))
    assert together == [model.label(photo, regions, LABELS) for photo, regions in items]
    assert together[1][0].region == WholeImage()
    assert list(model.label_many([], LABELS)) == []
    assert model.embed_text([]).shape == (0, features.dim)
    for texts, says in (([], "two"), (["a"], "two"), (["a", " "], "text 1"), ("a", "in a list")):
        with pytest.raises(TextError, match=says):
            model.label(features, None, texts)
    asking: Any = partial(model.label, features, None, LABELS)
    for name, values in (("temperature", (0.0, -1.0, math.nan, math.inf)), ("threshold", (1.5,))):
        for value in values:
            with pytest.raises(OptionError, match=f"{name} is {value}"):
                asking(**{name: value})
    deaf = Patchioner(replace(tiny_parts(), tower=None), device="cpu")
    for ask in (deaf.embed_text, partial(deaf.label, features, None)):
        with pytest.raises(OptionError, match="'tiny' has no text tower"):
            ask(LABELS)


def test_siblings_share_parts_and_change_nothing_of_one_another(features: Features) -> None:
    parts = tiny_parts()
    modules: Any = (parts.backbone, parts.text_tower)
    weights = [copy.deepcopy(dict(module.state_dict())) for module in modules]
    first = Patchioner(parts, device="cpu")
    before = words(first.caption(features, REGIONS))
    bank = MemoryBank(first.embed_text(TEXTS[:2]), TEXTS[:2])
    sibling, half = Patchioner(parts.with_bank(bank), device="cpu"), first.to(dtype="bfloat16")
    assert words(sibling.caption(features, REGIONS)) != before
    half.caption(noise_photo(), REGIONS)
    assert words(first.caption(features, REGIONS)) == before
    assert (half.dtype, first.dtype, half.parts) == (torch.bfloat16, torch.float32, parts)
    for module, state in zip(modules, weights, strict=True):
        torch.testing.assert_close(dict(module.state_dict()), state, rtol=0, atol=0)


def test_features_are_saved(model: Patchioner, features: Features, tmp_path: Path) -> None:
    holding, path = model.encode(noise_photo(), keep_image=True), tmp_path / "f.safetensors"
    for one in (features, replace(features, cls=None, attention=None), holding):
        one.save(path)
        read = Features.load(path)
        assert model.caption(read, REGIONS) == model.caption(one, REGIONS)
        assert read.geometry == one.geometry
        assert (read.cls is None, read.image is None) == (one.cls is None, one.image is None)
    crops = (model.embed_regions(one, REGIONS, crop=True) for one in (read, holding))
    assert torch.equal(*crops)
    (tmp_path / "bad").write_bytes(b"{}")
    for name in ("bad", "gone"):
        with pytest.raises(errors.CheckpointError, match=name):
            Features.load(tmp_path / name)


def test_what_fails(model: Patchioner, features: Features, tmp_path: Path, caplog: Log) -> None:
    off, missing = Box(900, 900, 999, 999), tmp_path / "gone.jpg"
    items: list[Any] = [(features, [REGIONS[0], off, REGIONS[1]]), (missing, None)]
    items += [(features, [off]), (noise_photo(seed=1), None)]
    first, gone, none, last = model.caption_many(items, on_error="return")
    assert isinstance(gone, ImageError) and isinstance(none, RegionError)
    good = model.caption(features, REGIONS[:2])
    assert words([first[0], first[2]]) == words(good) and isinstance(first[1], RegionError)
    assert words(last) == words(model.caption(noise_photo(seed=1)))
    skipped = list(model.caption_many(items, on_error="skip"))
    assert [words(one) for one in skipped] == [words(good), words(last)]
    assert len(caplog.records) == 3 and "gone.jpg" in caplog.text
    assert [len(one) for one in model.label_many(items, LABELS, on_error="skip")] == [2, 1]
    stream = model.caption_stream([(features, None), *items[1:]])
    assert words(next(stream)) == words(model.caption(features))
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        next(stream)
    for region in (off, Patch(99, 0)):
        with pytest.raises(RegionError):
            model.caption(features, [WholeImage(), region])
    with pytest.raises(OptionError, match="'ignore'"):
        model.caption_many(items, on_error="ignore")


def test_results_for_others(model: Patchioner, features: Features, monkeypatch: MonkeyPatch) -> None:
    captions = model.caption(features, REGIONS[:2])
    score = pytest.approx(captions[1].score, abs=1e-6)
    due = {"region": {"box": [0, 0, 20, 20]}, "text": captions[1].text, "score": score}
    assert json.loads(json.dumps(captions[1].to_dict())) == due
    assert replace(captions[0], score=math.nan).to_dict()["score"] is None
    (label,) = model.label(features, [REGIONS[1]], LABELS)
    names = {"region", "text", "probability", "cosines", "probabilities"}
    assert set(json.loads(json.dumps(label.to_dict()))) == names
    stand_in = SimpleNamespace(Detections=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    found = as_supervision(captions, features.geometry)
    assert found.xyxy.shape == (2, 4) and found.mask is None
    assert found.xyxy[1].tolist() == [0, 0, 20, 20]
    assert found.data["caption"].tolist() == words(captions)
    masks = [Mask(np.eye(64, 96, dtype=bool)), Mask(np.ones((64, 96), bool))]
    drawn = as_supervision(model.caption(features, masks), features.geometry)
    assert drawn.mask.shape == (2, 64, 96)
    assert as_supervision([], features.geometry).xyxy.shape == (0, 4)
