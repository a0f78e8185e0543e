"""Part "did": DID-Bench on what a 7-billion-parameter model said, fused by us, beside controls of equal length.

Knows: which texts are compared, and the bar. Does NOT know: how texts are made (`patchioner.detail`, `controls`) or
scored (`did`).

The references of this set are machine-written too (by larger models); there are no COCO annotations of its photos.
Objects are therefore counted against those that the reference names: a proxy, and the same for all texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from benchmarks.detail.controls import SHIFTS
from benchmarks.detail.did import DidPhoto, DidScores, did_scores, read_did
from benchmarks.detail.did_run import control_texts, fused_text
from benchmarks.detail.objects import ObjectScores, object_scores
from benchmarks.detail.part import PartResult, Setup, figure, markdown_table, percent, plain
from benchmarks.metrics import Meteor
from benchmarks.metrics.class_names import named_classes
from patchioner.detail import DetailSettings, Photo, Verdict, open_photo, preset
from patchioner.detail.filter import DenseScorer, FilterSettings, filter_statements
from patchioner.detail.line_file import LineFile
from patchioner.detail.stages import Scorer
from patchioner_base.progress import progress

OURS = "ours: rules and fusion"
MOOD = "ours, sentences of mood left in"
SEEN = "ours, and filtered by the photo"
UNFILTERED = "ours, without any filter"
PUBLISHED = "published constants, no language model"
EXTRACTIVE, SAME, AGAIN, ALONE = (
    "extractive",
    "extractive, same sentences",
    "global again",
    "global alone",
)
WRONG = "another photo's, shift"
RIVALS = {UNFILTERED: (EXTRACTIVE, SAME, AGAIN, ALONE), OURS: (SAME, AGAIN, ALONE)}
"""Which texts each of ours has to beat: those that choose among the same sentences, and the caption of the whole photo.

The filter takes hedges and mood out, of which the references are full, so that "extractive" of everything that was said
keeps words that match. What the filter gains is not in these scores."""
BAR = ("meteor", "cider")
EQUAL = 0.05
_OPENING = '{"format": "patchioner-benchmark-fused"'
_METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider")
_NAMES = {
    "meteor": "METEOR",
    "cider": "CIDEr",
    "rouge_l": "ROUGE-L",
    **{f"bleu{order}": f"BLEU-{order}" for order in range(1, 5)},
}


@dataclass(frozen=True, eq=False)
class Scored:
    """Texts of all photos with what was measured of them.

    Attributes:
        texts: one per photo.
        did: scores of DID-Bench.
        objects: against the objects that the references name.
    """

    texts: Sequence[str]
    did: DidScores
    objects: ObjectScores


Block = Mapping[str, Scored]
"""One of our texts, first, and what it is compared with, each as long as it."""


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
    texts, kept = fused_texts(photos, setup)
    blocks = {name: _block(name, photos, texts, kept[name], setup) for name in RIVALS}
    missed = [bar for name, block in blocks.items() for bar in missed_bars(block, RIVALS[name])]
    others = {
        name: score_texts(photos, texts[name], setup.meteor) for name in (MOOD, SEEN, PUBLISHED)
    }
    blocks[OURS] = {**blocks[OURS], **others}
    return PartResult(
        "DID-Bench on the words of a 7-billion-parameter model",
        _text(blocks, setup, len(photos)),
        {
            "photos": len(photos),
            **{name: as_json(block, seed=setup.seed) for name, block in blocks.items()},
        },
        tuple(missed),
    )


def _block(
    name: str,
    photos: Sequence[DidPhoto],
    texts: Mapping[str, Sequence[str]],
    kept: Sequence[Sequence[Verdict]],
    setup: Setup,
) -> Block:
    lengths = [max(1, len(text.split())) for text in texts[name]]
    shifts = [shift for shift in SHIFTS if shift % max(1, len(photos))]
    all_texts = {name: texts[name], **control_texts(photos, kept, lengths, shifts)}
    return {one: score_texts(photos, found, setup.meteor) for one, found in all_texts.items()}


def fused_texts(
    photos: Sequence[DidPhoto], setup: Setup
) -> tuple[dict[str, list[str]], dict[str, list[list[Verdict]]]]:
    """Paragraphs of all photos by kind, of the same statements in different ways; and the verdicts of two kinds."""
    changes = {"fuse.max_words": setup.words, "fuse.new_share": 0.0}
    ours, published = preset("default", changes), preset("published", changes)
    nothing = replace(ours, filter=FilterSettings(rules=False, contradictions=False))
    seen = _Seen(setup, {SEEN: ours, PUBLISHED: published})
    moody = ours.changed({"filter.mood": False})
    found: dict[str, list[str]] = {name: [] for name in (OURS, MOOD, SEEN, UNFILTERED, PUBLISHED)}
    kept: dict[str, list[list[Verdict]]] = {OURS: [], UNFILTERED: []}
    for photo in progress(photos, description="fusing", unit="photo"):
        unseen = Photo(photo.name, Image.new("RGB", photo.size), "")  # its size is all that counts
        for name, settings in ((OURS, ours), (UNFILTERED, nothing)):
            kept[name].append(_filtered(photo, unseen, settings))
            found[name].append(fused_text(photo, kept[name][-1], settings.fuse))
        found[MOOD].append(fused_text(photo, _filtered(photo, unseen, moody), moody.fuse))
        for name, text in seen.texts(photo).items():
            found[name].append(text)
    return found, kept


class _Seen:
    """Paragraphs that need a look at the photo; kept in a file, since that takes seconds per photo.

    Args:
        setup: model and folders.
        settings: by kind of text.
    """

    def __init__(self, setup: Setup, settings: Mapping[str, DetailSettings]) -> None:
        self._setup, self._settings = setup, settings
        self._scorer = DenseScorer(setup.model)
        values = [setup.model_name, self._scorer.settings, [s.to_json() for s in settings.values()]]
        run = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        path = setup.out / "photos" / f"describe_run-{run}.jsonl"
        if setup.fresh:
            path.unlink(missing_ok=True)
        self._lines = LineFile(path, _OPENING)

    def texts(self, photo: DidPhoto) -> dict[str, str]:
        """Kind -> paragraph of a photo."""
        known = self._lines.under(photo.name)
        if known is not None:
            return dict(known["texts"])
        opened = open_photo(self._setup.data / "did" / "photos" / photo.name, self._setup.model)
        texts = {
            name: fused_text(photo, _filtered(photo, opened, settings, self._scorer), settings.fuse)
            for name, settings in self._settings.items()
        }
        rest = json.dumps(
            {"key": photo.name, "photo": photo.name, "texts": texts}, ensure_ascii=False
        )
        self._lines.append((photo.name, photo.name), f"{_OPENING}, {rest[1:]}")
        return texts


def _filtered(
    photo: DidPhoto, opened: Photo, settings: DetailSettings, scorer: Scorer | None = None
) -> list[Verdict]:
    return filter_statements(
        opened, photo.regions, photo.statements, scorer=scorer, settings=settings.filter
    )


def score_texts(photos: Sequence[DidPhoto], texts: Sequence[str], meteor: Meteor | None) -> Scored:
    """Score one text per photo; METEOR is left out where there is none."""
    references = [photo.references for photo in photos]
    named = [frozenset().union(*map(named_classes, photo.references)) for photo in photos]
    return Scored(texts, did_scores(texts, references, meteor=meteor), object_scores(texts, named))


def missed_bars(block: Block, rivals: Sequence[str]) -> tuple[str, ...]:
    """Where the first text of a block is not better than a rival, or a rival is not as long."""
    missed = []
    name, own = next(iter(block.items()))
    for rival in rivals:
        other = block[rival].did
        ratio = float(other.words.mean() / max(1.0, own.did.words.mean()))
        if rival != ALONE and abs(ratio - 1) > EQUAL:
            missed.append(
                f"{rival} has {ratio:.2f} of the words of {name!r}: not within {EQUAL:.0%}"
            )
        missed += [
            f"{_NAMES[metric]} {own.did.values[metric]:.2f} ({name}), {other.values[metric]:.2f} ({rival})"
            for metric in BAR
            if metric in own.did.values and own.did.values[metric] <= other.values[metric]
        ]
    return tuple(missed)


def did_table(scored: Block) -> str:
    """All metrics of all texts; the wrong texts' as their mean."""
    metrics = [name for name in _METRICS if name in next(iter(scored.values())).did.values]
    wrong = [one.did for name, one in scored.items() if name.startswith(WRONG)]
    rows = [
        [name, f"{one.did.words.mean():.0f}", *(f"{one.did.values[m]:.2f}" for m in metrics)]
        for name, one in scored.items()
        if not name.startswith(WRONG)
    ]
    if wrong:
        means = [f"{np.mean([one.values[metric] for one in wrong]):.2f}" for metric in metrics]
        words = f"{np.mean([one.words.mean() for one in wrong]):.0f}"
        rows.append([f"another photo's text, mean of {len(wrong)}", words, *means])
    return markdown_table(["text", "words", *(_NAMES[metric] for metric in metrics)], rows)


def gains_table(scored: Block, *, seed: int = 0) -> str:
    """Paired differences of the single texts' scores: the first minus each other."""
    ours = next(iter(scored))
    own = scored[ours].did
    metrics = [name for name in (*BAR, "rouge_l", "bleu4") if name in own.values]
    rows = []
    for name, other in scored.items():
        if name != ours and (not name.startswith(WRONG) or name.endswith("shift 1")):
            gains = [own.gain_over(other.did, metric, seed=seed) for metric in metrics]
            ratio = f"{100 * (other.did.words.mean() / max(own.words.mean(), 1) - 1):+.1f} %"
            cells = [figure(g.value, g.low, g.high, signed=True, digits=2) for g in gains]
            rows.append([name, ratio, *cells])
    head = [f'"{ours}" minus', "its words", *(_NAMES[metric] for metric in metrics)]
    return markdown_table(head, rows)


def objects_table(scored: Block, *, seed: int = 0) -> str:
    """Objects named, precision, recall and clean texts, with intervals."""
    rows = [
        [
            name,
            f"{one.objects.words.mean():.0f}",
            f"{one.objects.named.mean():.1f}",
            *(percent(one.objects.interval(metric, seed=seed)) for metric in ("precision", "recall", "clean")),
        ]
        for name, one in scored.items()
        if not name.startswith(WRONG) or name.endswith("shift 1")
    ]  # fmt: skip
    return markdown_table(["text", "words", "objects", "precision", "recall", "clean"], rows)


def as_json(scored: Block, *, seed: int = 0) -> list[dict[str, object]]:
    """All figures, ready for JSON."""
    ours = next(iter(scored))
    own = scored[ours].did
    return [
        {
            "text": name,
            "words": float(one.did.words.mean()),
            "scores": {metric: round(value, 4) for metric, value in one.did.values.items()},
            "ours minus this": {
                metric: plain(own.gain_over(one.did, metric, seed=seed))
                for metric in BAR
                if metric in own.values and name != ours
            },
            "objects": {
                metric: plain(one.objects.interval(metric, seed=seed))
                for metric in ("precision", "recall", "clean")
            },
        }
        for name, one in scored.items()
    ]


def _text(blocks: Mapping[str, Block], setup: Setup, count: int) -> str:
    parts = [
        f"{count} photos; raw strings, times 100; one budget of {setup.words} words for all, declared beforehand. "
        "Every control is as long as our text of the same photo, but the global text alone."
        + ("" if setup.meteor else " METEOR was left out (no Java)."),
        "Differences are of single texts, paired, with 95 % of bootstrap rounds over photos; BLEU and METEOR of a set "
        "pool their counts, so that differences of sets are a little different.",
    ]
    for name, block in blocks.items():
        parts += [f"### {name}", did_table(block), gains_table(block, seed=setup.seed)]
    parts += [
        "### Objects against those that the reference names",
        "A proxy: these photos have no annotations, and the reference leaves things out.",
        objects_table({**blocks[UNFILTERED], **blocks[OURS]}, seed=setup.seed),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"
