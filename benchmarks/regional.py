"""Command: is what a model says of a region about that region? One table, intervals over photos, two models paired.

    python -m benchmarks.regional --model patchioner-mini --data FOLDER --out new.json
    python -m benchmarks.regional --plain --data FOLDER --out plain.json --against new.json

A box is "large" above 2 % of its photo, "small" from 0.2 to 2 %; people are left out, since captions name them whatever
the region. `sets_f30k` and `boxes_more` are second sets of region sets and boxes, where the folder has them; photos of
the first boxes, and those whose captions were trained on, are left out of the second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import command
from benchmarks.command import CIDER_WARNING, markdown_table
from benchmarks.data import PhotoFolder, Sample, load_json, task_named
from benchmarks.metrics import cider
from benchmarks.metrics.cosine import unit_rows
from benchmarks.metrics.regions import SYNONYMS, fixed_cider, grounding, named_classes
from benchmarks.run import load_pretrained
from benchmarks.scoring import PERSON, bootstrap_statistic
from patchioner import Patchioner, WholeImage
from patchioner.base.files import write_json
from patchioner.base.progress import progress

Answer = dict[str, Any]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

TEMPLATES = (
    "a photo of a {name}.", "a {name} in the scene.", "there is a {name}.", "a close up of a {name}.",
)  # fmt: skip
LARGE, SMALL = 0.02, 0.002
BOXES = {"boxes": "", "boxes_more": ", second set"}
SECOND = {
    "sets_f30k": ("annotations/region_sets_f30k_dev.json", "f30k_dev"),
    "boxes_more": ("annotations/instances_dev.json", "photos"),
}
_SEEN = ("annotations/class_boxes_dev.json", "annotations/pairs_train.json")
TASKS = {
    "boxes": "objects", "boxes_more": "objects", "dense": "dense", "sets": "region_set",
    "sets_f30k": "region_set", "traces": "trace", "images": "image",
}  # fmt: skip
ROUNDS, BINS, _BATCH = 1000, 10, 16


def samples(data: Path, part: str, limit: int | None = None) -> Iterator[tuple[Path, Sample]]:
    """(photo, sample) of one part, of its first `limit` photos; nothing where the folder has no such file."""
    task = task_named(TASKS[part])
    path, photos = task.files(data)
    if part in SECOND:
        path, photos = (data / name for name in SECOND[part])
    if not path.is_file():
        return
    kept: set[str] = set()
    seen = _listed(data) if part == "boxes_more" else frozenset()
    how = {"min_area_share": SMALL} if part in BOXES else {}
    for sample in task.read(path, PhotoFolder(photos), **how).samples:
        if sample.photo in seen or (part in BOXES and sample.references[0] == PERSON):
            continue
        kept.add(sample.photo)
        if limit is None or len(kept) <= limit:
            yield photos / sample.photo, sample


def _listed(data: Path) -> frozenset[str]:
    files = (data / name for name in _SEEN)
    return frozenset(row["file_name"] for one in files if one.is_file() for row in load_json(one)[0])


def ask(
    model: Patchioner, data: Path, parts: Sequence[str] = tuple(TASKS), *, limit: int | None = None,
    prompts: Sequence[str] = TEMPLATES, how: Mapping[str, Any] | None = None,
) -> dict[str, list[Answer]]:  # fmt: skip
    """Let a model caption and name everything that a data folder asks about, one `encode` a photo.

    `how` are further arguments of `caption_many`; class names are embedded as the mean of their `prompts`.

    Returns:
        Per part one answer per sample, in file order: `photo`, `references`, `share`, `caption`, `sure`, `whole` (the
        photo's caption); boxes have `named` and `named_whole` (is the nearest of the 80 class names to the embedding of
        box and photo theirs?), photos `ranks` (their place for each of their captions).
    """
    answers: dict[str, list[Answer]] = {}
    asked: dict[Path, list[tuple[str, Answer, Sample]]] = {}
    for part in parts:
        for path, sample in samples(data, part, limit):
            answer: Answer = {"photo": sample.photo, "references": sample.references}
            answer["share"] = sample.area_share
            answers.setdefault(part, []).append(answer)
            asked.setdefault(path, []).append((part, answer, sample))
    names = embed_names(model, prompts)
    crop = {key: value for key, value in (how or {}).items() if key == "crop"}
    paths = list(asked)
    for start in progress(range(0, len(paths), _BATCH), description="photos", unit="batch"):
        items = []
        for path in paths[start : start + _BATCH]:
            regions = [WholeImage(), *(sample.region for *_, sample in asked[path])]
            features = model.encode(str(path), keep_image=bool(crop) or None)
            vectors = unit_rows(model.embed_regions(features, regions, **crop), f"{path}: region")
            nearest = [list(SYNONYMS)[index] for index in (vectors @ names.T).argmax(axis=1)]
            items.append((features, regions))
            for (part, answer, sample), name in zip(asked[path], nearest[1:], strict=True):
                if part == "images":
                    answer["vector"] = vectors[0]
                if part in BOXES:
                    answer["named"] = name == sample.references[0]
                    answer["named_whole"] = nearest[0] == sample.references[0]
        said = model.caption_many(items, **(how or {}))
        for path, (whole, *captions) in zip(paths[start:], said, strict=False):
            for (_, answer, _), caption in zip(asked[path], captions, strict=True):
                sure = caption.score if caption.confidence is None else caption.confidence
                answer["caption"], answer["whole"] = caption.text or "", whole.text or ""
                answer["sure"] = sure
    if images := answers.get("images"):
        _rank(model, images, np.stack([answer.pop("vector") for answer in images]))
    return answers


def embed_names(model: Patchioner, prompts: Sequence[str]) -> Floats:
    """Unit embeddings (80, dim) of the class names, averaged over the prompt templates."""
    each = [model.embed_text([one.format(name=name) for name in SYNONYMS]) for one in prompts]
    return unit_rows(np.mean([unit_rows(rows, "class name") for rows in each], axis=0), "class name")


def _rank(model: Patchioner, answers: list[Answer], gallery: Floats) -> None:
    """Text to image: where a caption's own photo comes among all photos."""
    owner = np.repeat(np.arange(len(answers)), [len(answer["references"]) for answer in answers])
    texts = unit_rows(model.embed_text([t for a in answers for t in a["references"]]), "caption")
    ranks = retrieval_ranks(texts @ gallery.T, owner)
    for index, answer in enumerate(answers):
        answer["ranks"] = ranks[owner == index].tolist()


def retrieval_ranks(similarities: NDArray[Any], owner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rank (from 1) of each query's own item: similarities (queries, items), owner (queries,) -> (queries,).

    Equal similarity counts against it, so that a model that embeds every photo the same is not rewarded.
    """
    own = np.take_along_axis(similarities, owner[:, None], axis=1)
    return np.asarray((similarities >= own).sum(axis=1), dtype=np.intp)


# ---- the table


@dataclass(frozen=True)
class Row:
    """One measure, for any weights of its photos, so that photos can be resampled for one model or for two together.

    `value` takes how often each of `photos` counts.
    """

    key: str
    label: str
    photos: tuple[str, ...]
    value: Callable[[Counts], float]


def measure(answers: Mapping[str, list[Answer]]) -> list[Row]:
    """The rows of all parts that were asked."""
    rows: list[Row] = []
    for part, which in BOXES.items():
        if boxes := answers.get(part):
            rows += [replace(one, key=one.key + which, label=one.label + which) for one in _boxes(boxes)]
    if dense := answers.get("dense"):
        rows.append(_cider("dense", "referring phrases, CIDEr", dense))
    sets = {"sets": "region sets", "sets_f30k": "region sets, Flickr30k", "traces": "traces"}
    for part, label in sets.items():
        if found := answers.get(part):
            rows += [_wins(part, label, found), _cider(part, f"{label}, CIDEr", found)]
    if images := answers.get("images"):
        first = [100.0 * float(np.mean([rank == 1 for rank in one["ranks"]])) for one in images]
        rows.append(_cider("images", "image CIDEr", images))
        rows.append(_mean("retrieval", "text to image, R@1", images, first))
    return rows


def _boxes(boxes: Sequence[Answer]) -> Iterator[Row]:
    for label, low, high in (("over 2 %", LARGE, 1.1), ("0.2 to 2 %", SMALL, LARGE)):
        if chosen := [box for box in boxes if low < box["share"] <= high]:
            named = [100.0 * box["named"] for box in chosen]
            hits = [100.0 * hit(box) for box in chosen]
            yield _mean(f"naming {label}", f"naming boxes by embedding, {label}", chosen, named)
            yield _mean(f"says {label}", f"caption names its box, {label}", chosen, hits)
    yield from (_same_caption(boxes), _ranking(boxes), *_calibration(boxes))


def hit(box: Answer) -> bool:
    """Whether the caption names the class of its box."""
    return box["references"][0] in named_classes(box["caption"])


def _ratio(key: str, label: str, owners: Sequence[str], above: Any, below: Any) -> Row:
    """A ratio of two sums over samples, of the photos `owners`."""
    photos, groups = np.unique(np.asarray(owners), return_inverse=True)
    sums = np.bincount(groups, np.asarray(above, np.float64), len(photos))
    sizes = np.bincount(groups, np.asarray(below, np.float64), len(photos))
    value = lambda often: float(often @ sums / (often @ sizes))  # noqa: E731
    return Row(key, label, tuple(photos.tolist()), value)


def _mean(key: str, label: str, answers: Sequence[Answer], values: Sequence[float]) -> Row:
    return _ratio(key, label, [a["photo"] for a in answers], values, np.ones(len(values)))


def _cider(part: str, label: str, answers: Sequence[Answer]) -> Row:
    _, values = cider([a["caption"] for a in answers], [a["references"] for a in answers])
    return _mean(f"{part} CIDEr", label, answers, values.tolist())


def _wins(part: str, label: str, answers: Sequence[Answer]) -> Row:
    """Own references against those of another region of the photo."""
    due = [a["references"] for a in answers]
    photos = [a["photo"] for a in answers]
    found = grounding([a["caption"] for a in answers], due, photos, fixed_cider(due))
    chosen = [answers[index] for index in found.samples]
    return _mean(f"{part} wins", f"{label}, grounding wins", chosen, (100 * found.wins).tolist())


def _same_caption(boxes: Sequence[Answer]) -> Row:
    """Pairs of boxes of one photo that hold different things and have the same caption, %."""
    pairs = [
        (one["photo"], 100.0 * (one["caption"] == other["caption"]))
        for one, other in combinations(boxes, 2)
        if one["photo"] == other["photo"] and one["references"] != other["references"]
    ]
    owners, same = zip(*pairs, strict=True) if pairs else ((boxes[0]["photo"],), (0.0,))
    return _ratio("same", "pairs of boxes with the same caption", owners, same, np.ones(len(same)))


def _grouped(boxes: Sequence[Answer]) -> tuple[tuple[str, ...], Any, Any, Any]:
    """Photos, whose each box is, whether its caption is right, and how sure it is."""
    photos, groups = np.unique([box["photo"] for box in boxes], return_inverse=True)
    sure = np.array([box["sure"] for box in boxes])
    return tuple(photos.tolist()), groups, np.array([hit(box) for box in boxes]), sure


def _ranking(boxes: Sequence[Answer]) -> Row:
    """Area under ROC: does confidence rank captions that name their box before those that do not?"""
    photos, groups, right, sure = _grouped(boxes)
    above = (sure[right][:, None] > sure[~right]) + 0.5 * (sure[right][:, None] == sure[~right])

    def value(often: Counts) -> float:
        weights = often[groups].astype(np.float64)
        total = weights[right].sum() * weights[~right].sum()
        return float(100.0 * (weights[right] @ above @ weights[~right]) / total) if total else 50.0

    return Row("confidence", "confidence, area under ROC", photos, value)


def _calibration(boxes: Sequence[Answer]) -> list[Row]:
    """Expected calibration error of confidences in 0..1, over equally filled bins; none for mere scores."""
    photos, groups, right, sure = _grouped(boxes)
    if sure.min() < 0.0 or sure.max() > 1.0:
        return []
    gaps = right - sure
    bins = np.array_split(np.argsort(sure, kind="stable"), BINS)

    def value(often: Counts) -> float:
        weights = often[groups].astype(np.float64)
        return float(100.0 * sum(abs(weights[b] @ gaps[b]) for b in bins) / weights.sum())

    return [Row("calibration", "confidence, calibration error", photos, value)]


def scores(rows: Sequence[Row], other: Sequence[Row] = ()) -> list[dict[str, Any]]:
    """Value and interval of each row, and what another model has more on the same resamples."""
    others = {row.key: row for row in other}
    found = []
    for row in rows:
        entry = {"key": row.key, "label": row.label, **asdict(_interval(row.value, row))}
        second = others.get(row.key)
        if second is not None and second.photos == row.photos:
            gain = lambda often, one=row, two=second: one.value(often) - two.value(often)  # noqa: E731
            entry["gain"] = asdict(_interval(gain, row))
        found.append(entry)
    return found


def _interval(value: Callable[[Counts], float], row: Row) -> Any:
    return bootstrap_statistic(value, row.photos, rounds=ROUNDS)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The scores as a Markdown table."""
    rows = []
    for entry in found:
        cells = [entry["label"], f"{entry['value']:.1f}", _ends(entry), "", ""]
        if gain := entry.get("gain"):
            cells[3:] = [f"{gain['value']:+.1f}", _ends(gain, "+")]
        rows.append(cells)
    head = ["measure", "value", "95 % interval", "gain", "95 % interval"]
    return f"{markdown_table(head, rows)}\n{CIDER_WARNING}\n"


def _ends(entry: Mapping[str, float], sign: str = "") -> str:
    return f"{entry['low']:{sign}.1f} to {entry['high']:{sign}.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    parser = command.command_parser("regional", "Measure whether captions are about their regions.")
    command.add_model_and_data(parser)
    add = parser.add_argument
    add("--plain", action="store_true", help="the likeliest captions, not chosen among candidates")
    add("--crop", help="as the model takes it")
    add("--style", choices=["phrase", "sentence"], help="of captions (default: the model's)")
    add("--limit", type=command.positive, help="the first N photos of each part")
    add("--against", type=Path, help="a report of this command: gains over it, photos paired")
    add("--out", type=Path, help="write measures and all answers as JSON")
    return command.run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> None:
    model = load_pretrained(arguments.model, arguments.device)
    how: dict[str, Any] = {"plain": True} if arguments.plain else {}
    how |= {key: getattr(arguments, key) for key in ("crop", "style") if getattr(arguments, key)}
    answers = ask(model, arguments.data, limit=arguments.limit, how=how)
    other = []
    if arguments.against is not None:
        other = measure(json.loads(arguments.against.read_text(encoding="utf-8"))["answers"])
    found = scores(measure(answers), other)
    sys.stdout.write(table(found))
    if arguments.out is not None:
        write_json(arguments.out, {"measures": found, "answers": answers})


if __name__ == "__main__":
    sys.exit(main())
