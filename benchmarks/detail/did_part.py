"""Part "did": DID-Bench on what a 7-billion-parameter model said, fused by us, beside controls of equal length.

Knows: which texts are compared. Does NOT know: how texts are made (`patchioner.detail`, `controls`) or scored (`did`),
what they have to beat (`did_bar`).

The references of this set are machine-written too (by larger models); there are no COCO annotations of its photos.
Objects are therefore counted against those that the reference names: a proxy, and the same for all texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from PIL import Image

from benchmarks.detail.controls import SHIFTS, extractive_of
from benchmarks.detail.did import DidPhoto, read_did
from benchmarks.detail.did_bar import (
    DEMANDED,
    MOOD,
    NO_METEOR,
    OURS,
    RIVALS,
    SAME,
    SEEN,
    UNFILTERED,
    bar_json,
    bar_lines,
    bar_table,
    missed_bars,
)
from benchmarks.detail.did_run import fused_text, raw_controls
from benchmarks.detail.did_tables import (
    Block,
    as_json,
    did_table,
    gains_table,
    objects_table,
    score_texts,
)
from benchmarks.detail.part import PartResult, Setup
from patchioner.base.progress import progress
from patchioner.detail import DetailSettings, Photo, open_photo, preset
from patchioner.detail.batch import LineFile
from patchioner.detail.judge import FilterSettings, filter_statements
from patchioner.detail.score import DenseScorer
from patchioner.detail.values import Scorer

PUBLISHED = "published constants, no language model"
_OPENING = '{"format": "patchioner-benchmark-fused"'


def run_did(setup: Setup) -> PartResult:
    """Compare our fusion of `describe_run.json` with its controls.

    Raises:
        BenchmarkDataError: a file of DID-Bench is missing or damaged.
        OptionError: the model is not calibrated.

    Example:
        >>> run_did(setup).missed  # doctest: +SKIP
        ()
    """
    photos = [photo for photo in read_did(setup.data / "did") if photo.references][: setup.limit]
    texts = fused_texts(photos, setup)
    blocks = {name: _block(name, photos, texts[name], setup) for name in RIVALS}
    published = [one.text for one in texts[PUBLISHED]]
    beside = {**blocks[OURS], PUBLISHED: score_texts(photos, published, setup.meteor)}
    missed = [] if setup.meteor else [NO_METEOR]
    for name, block in blocks.items():
        missed += missed_bars(block, DEMANDED.get(name, ()), seed=setup.seed)
    shown = {**blocks, OURS: beside}
    return PartResult(
        "DID-Bench on the words of a 7-billion-parameter model",
        _text(shown, setup, len(photos)),
        {
            "photos": len(photos),
            "bar": bar_json(blocks, seed=setup.seed),
            **{name: as_json(block, seed=setup.seed) for name, block in shown.items()},
        },
        tuple(missed),
    )


def _block(name: str, photos: Sequence[DidPhoto], fused: Sequence[Fused], setup: Setup) -> Block:
    # What another photo's text is worth is much the same at any of our lengths: told for two of them.
    shifts = SHIFTS if name in (UNFILTERED, OURS) else ()
    fitting = [shift for shift in shifts if shift % max(1, len(photos))]
    texts = {
        name: [one.text for one in fused],
        SAME: [one.same for one in fused],
        **raw_controls(photos, [one.length for one in fused], fitting),
    }
    return {one: score_texts(photos, found, setup.meteor) for one, found in texts.items()}


@dataclass(frozen=True)
class Fused:
    """A paragraph, and its nearest rival.

    Attributes:
        text: fused of what a filter kept.
        same: sentences of the same, chosen without fusing, as long as `text`.
    """

    text: str
    same: str

    @property
    def length(self) -> int:
        """How many words a control of it may have."""
        return max(1, len(self.text.split()))


def fused_texts(photos: Sequence[DidPhoto], setup: Setup) -> dict[str, list[Fused]]:
    """Paragraphs of all photos by kind, of the same statements in different ways."""
    changes = {"fuse.max_words": setup.words, "fuse.new_share": 0.0}
    ours, published = preset("default", changes), preset("published", changes)
    blind = {
        OURS: ours,
        MOOD: ours.changed({"filter.mood": False}),
        UNFILTERED: replace(ours, filter=FilterSettings(rules=False)),
    }
    seen = _Seen(setup, {SEEN: ours, PUBLISHED: published})
    found: dict[str, list[Fused]] = {name: [] for name in (*blind, SEEN, PUBLISHED)}
    for photo in progress(photos, description="fusing", unit="photo"):
        unseen = Photo(photo.name, Image.new("RGB", photo.size), "")  # its size is all that counts
        for name, settings in blind.items():
            found[name].append(_fused(photo, unseen, settings))
        for name, one in seen.texts(photo).items():
            found[name].append(one)
    return found


def _fused(
    photo: DidPhoto, opened: Photo, settings: DetailSettings, scorer: Scorer | None = None
) -> Fused:
    verdicts = filter_statements(
        opened, photo.regions, photo.statements, scorer=scorer, settings=settings.filter
    )
    text = fused_text(photo, verdicts, settings.fuse)
    return Fused(text, extractive_of(verdicts, max(1, len(text.split()))))


class _Seen:
    """Paragraphs that need a look at the photo; kept in a file, since that takes seconds per photo.

    Args:
        setup: model and folders.
        settings: by kind of text.
    """

    def __init__(self, setup: Setup, settings: Mapping[str, DetailSettings]) -> None:
        self._setup, self._settings = setup, settings
        self._scorer = DenseScorer(setup.model)
        each = [asdict(one) for one in settings.values()]
        values = [setup.model_name, self._scorer.settings, each, sorted(Fused.__annotations__)]
        run = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        path = setup.out / "photos" / f"describe_run-{run}.jsonl"
        if setup.fresh:
            path.unlink(missing_ok=True)
        self._lines = LineFile(path, _OPENING)

    def texts(self, photo: DidPhoto) -> dict[str, Fused]:
        """Kind -> paragraph of a photo."""
        known = self._lines.under(photo.name)
        if known is not None:
            return {name: Fused(**one) for name, one in known["texts"].items()}
        opened = open_photo(self._setup.data / "did" / "photos" / photo.name, self._setup.model)
        texts = {
            name: _fused(photo, opened, settings, self._scorer)
            for name, settings in self._settings.items()
        }
        plain = {name: asdict(one) for name, one in texts.items()}
        rest = json.dumps(
            {"key": photo.name, "photo": photo.name, "texts": plain}, ensure_ascii=False
        )
        self._lines.append((photo.name, photo.name), f"{_OPENING}, {rest[1:]}")
        return texts


def _text(blocks: Mapping[str, Block], setup: Setup, count: int) -> str:
    parts = [
        f"{count} photos; raw strings, times 100; one budget of {setup.words} words for all, declared beforehand. "
        "Every control is as long as our text of the same photo, but the global text alone."
        + ("" if setup.meteor else " METEOR was left out (no Java)."),
        "Differences are of single texts, paired, with 95 % of bootstrap rounds over photos; BLEU and METEOR of a set "
        "pool their counts, so that differences of sets are a little different.",
        "### The bar",
        "At equal length better than extractive de-duplication and than the global text, on METEOR and CIDEr. "
        '"Better" goes by the scores of the set; "within noise": the interval of the paired difference has zero in it. '
        "Demanded of what is fused without a filter against the raw text, of the rest against the same sentences.",
        bar_lines(blocks),
        bar_table(blocks, seed=setup.seed),
    ]
    for name, block in blocks.items():
        parts += [f"### {name}", did_table(block), gains_table(block, seed=setup.seed)]
    first = {name: next(iter(block.values())) for name, block in blocks.items()}
    parts += [
        "### Objects against those that the reference names",
        "A proxy: these photos have no annotations, and the reference leaves things out.",
        objects_table({**blocks[UNFILTERED], **blocks[OURS], **first}, seed=setup.seed),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"
