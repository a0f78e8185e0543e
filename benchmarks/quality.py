"""Command: measures a model on a data folder and prints the quality table.

    python -m benchmarks.quality --model patchioner-mini --data FOLDER --out quality.json

One backbone pass a photo, whatever is asked about it. Offline, on the CPU unless told otherwise; the same command gives
the same figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import (
    CIDER_WARNING,
    as_json,
    command_parser,
    markdown_table,
    natural,
    positive,
    run_command,
)
from benchmarks.data import SAMPLE, Sample, read_folder, task_named
from benchmarks.metrics import cider
from benchmarks.metrics.regions import SYNONYMS
from benchmarks.run import load_pretrained, machine, versions
from benchmarks.scoring import PERSON, Interval, bootstrap_mean, bootstrap_ratio, finite
from patchioner import Patchioner
from patchioner.base.errors import PatchionerError
from patchioner.base.files import file_sha256, write_json
from patchioner.base.progress import progress
from patchioner.regions import WholeImage

PROMPT = "a photo of a {name}"
PHOTOS_A_BATCH = 16
TASKS = ("image", "region_set", "trace", "objects")

Floats = NDArray[np.float32]
Samples = tuple[Sample, ...]


@dataclass(frozen=True)
class QualitySets:
    """The samples that the quality table asks about, and the folder of their photos."""

    images: Samples
    region_sets: Samples
    traces: Samples
    boxes: Samples
    photos: Path

    @classmethod
    def read(cls, folder: Path, limit: int | None = None) -> QualitySets:
        """Read all sets, cut to the first `limit` photos of image captioning; boxes of people are left out."""
        images = read_folder(folder, "image")[:limit]
        kept = {sample.photo for sample in images}
        sets, traces, boxes = (
            tuple(s for s in read_folder(folder, task) if limit is None or s.photo in kept)
            for task in TASKS[1:]
        )
        boxes = tuple(sample for sample in boxes if sample.references[0] != PERSON)
        return cls(images, sets, traces, boxes, folder / "photos")


@dataclass(frozen=True)
class Answers:
    """What a model said: captions by photo or in the order of the samples, and unit embeddings (rows, dim).

    `name_embeddings` has a row per class name, `caption_embeddings` one per reference of the image samples.
    """

    whole_captions: dict[str, str]
    set_captions: list[str]
    trace_captions: list[str]
    whole_embeddings: dict[str, Floats]
    box_embeddings: Floats
    name_embeddings: Floats
    caption_embeddings: Floats


def ask(model: Patchioner, sets: QualitySets) -> Answers:
    """Let `model` caption and embed everything that `sets` asks about."""
    spoken, boxes = (*sets.region_sets, *sets.traces), sets.boxes
    every = dict.fromkeys(sample.photo for sample in (*sets.images, *spoken, *boxes))
    whole: dict[str, str] = {}
    captions: dict[int, str] = {}
    pooled: dict[str, Floats] = {}
    named: dict[int, Floats] = {}
    bar = progress(every, description="photos", total=len(every), unit="photo")
    while batch := list(islice(bar, PHOTOS_A_BATCH)):
        items = []
        for photo in batch:
            features = model.encode(str(sets.photos / photo))
            of_photo = [index for index, box in enumerate(boxes) if box.photo == photo]
            asked = [WholeImage(), *(boxes[index].region for index in of_photo)]
            rows = unit_rows(model.embed_regions(features, asked), f"{photo}: region")
            pooled[photo], *rest = rows
            named.update(zip(of_photo, rest, strict=True))
            regions = [one.region for one in spoken if one.photo == photo]
            items.append((features, [WholeImage(), *regions]))
        answers = model.caption_many(items)
        for photo, said in zip(batch, answers, strict=True):
            whole[photo], *texts = [caption.text or "" for caption in said]
            of_photo = [index for index, one in enumerate(spoken) if one.photo == photo]
            captions.update(zip(of_photo, texts, strict=True))
    in_order = [captions[index] for index in range(len(spoken))]
    count = len(sets.region_sets)
    references = [text for sample in sets.images for text in sample.references]
    return Answers(
        whole, in_order[:count], in_order[count:], pooled,
        np.array([named[index] for index in range(len(boxes))], dtype=np.float32),
        embed_names(model, list(SYNONYMS), [PROMPT]), unit_rows(model.embed_text(references), "caption"),
    )  # fmt: skip


def unit_rows(embeddings: torch.Tensor, what: str) -> Floats:
    """Embeddings (n, dim) as L2-normalised float32 rows; PatchionerError names a row that is zero or not finite."""
    rows = embeddings.detach().to(device="cpu", dtype=torch.float32).numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        raise PatchionerError(
            f"the embedding of {what} {int(bad[0])} has norm {norms[bad[0], 0]}: the model cannot be measured"
        )
    return np.asarray(rows / norms, dtype=np.float32)


def embed_names(model: Patchioner, names: Sequence[str], prompts: Sequence[str]) -> Floats:
    """Unit embeddings (names, dim) of class names, averaged over the prompt templates."""
    mean = sum(
        unit_rows(model.embed_text([prompt.format(name=name) for name in names]), "class name")
        for prompt in prompts
    )
    rows = np.asarray(mean, dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class Target:
    """What a measure must reach and what it aims at; `strict`: equal to `must` is not enough."""

    must: float
    aim: float
    strict: bool = False

    def passed(self, value: float) -> bool:
        """Whether `value` reaches the must (a NaN never does)."""
        return value > self.must if self.strict else value >= self.must


TARGETS = {
    "image_cider": Target(50, 65),
    "region_sets_ratio": Target(1.03, 1.15, strict=True),
    "traces_ratio": Target(1.0, 1.15, strict=True),
    "box_naming": Target(45, 55),
    "retrieval_r1": Target(55, 62),
}


@dataclass(frozen=True)
class Measure:
    """One row of the table: a stable key, what a person reads, value and interval, what it was measured on."""

    key: str
    label: str
    interval: Interval
    samples: int
    photos: int
    target: Target | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the must is reached; None without a target."""
        return None if self.target is None else self.target.passed(self.interval.value)


def measure(
    sets: QualitySets, answers: Answers, *, rounds: int = 2000, seed: int = 0
) -> list[Measure]:
    """The rows of the quality table; a set without samples gives none."""
    how = {"rounds": rounds, "seed": seed}
    rows = caption_measures(sets, answers, how)
    if sets.boxes:
        photos = [sample.photo for sample in sets.boxes]
        names = list(SYNONYMS)
        wanted = np.array([names.index(sample.references[0]) for sample in sets.boxes])
        whole = np.stack([answers.whole_embeddings[photo] for photo in photos])
        for key, label, embedded in (
            ("box_naming", "box naming, % of boxes", answers.box_embeddings),
            ("box_naming_whole", "box naming by the whole-image embedding, %", whole),
        ):
            right = np.argmax(embedded @ answers.name_embeddings.T, axis=1) == wanted
            rows.append(_row(key, label, bootstrap_mean(100.0 * right, photos, **how), photos))
    if sets.images:
        gallery = np.stack([answers.whole_embeddings[sample.photo] for sample in sets.images])
        owner = np.repeat(np.arange(len(sets.images)), [len(s.references) for s in sets.images])
        photos = [sets.images[index].photo for index in owner]
        ranks = retrieval_ranks(answers.caption_embeddings @ gallery.T, owner)
        for k in (1, 5):
            interval = bootstrap_mean(100.0 * (ranks <= k), photos, **how)
            rows.append(_row(f"retrieval_r{k}", f"text to image, R@{k} %", interval, photos))
    return rows


def caption_measures(sets: QualitySets, answers: Answers, how: Mapping[str, int]) -> list[Measure]:
    """The rows that score captions by CIDEr: photos; region sets and traces beside whole photos."""
    rows: list[Measure] = []
    if sets.images:
        photos = [sample.photo for sample in sets.images]
        said = [answers.whole_captions[photo] for photo in photos]
        _, scores = cider(said, [sample.references for sample in sets.images])
        interval = bootstrap_mean(scores, photos, **how)
        rows.append(_row("image_cider", "image captioning, CIDEr", interval, photos))
    for key, label, samples, said in (
        ("region_sets", "region sets", sets.region_sets, answers.set_captions),
        ("traces", "traces", sets.traces, answers.trace_captions),
    ):
        if not samples:
            continue
        photos = [sample.photo for sample in samples]
        references = [sample.references for sample in samples]
        _, regional = cider(said, references)
        _, whole = cider([answers.whole_captions[photo] for photo in photos], references)
        ratio = bootstrap_ratio(regional, whole, photos, **how)
        region_mean, whole_mean = (bootstrap_mean(one, photos, **how) for one in (regional, whole))
        whole_label = f"{label}, CIDEr of the whole-image caption"
        rows.append(_row(f"{key}_cider", f"{label}, CIDEr", region_mean, photos))
        rows.append(_row(f"{key}_whole_cider", whole_label, whole_mean, photos))
        rows.append(_row(f"{key}_ratio", f"{label}, region / whole image", ratio, photos))
    return rows


def _row(key: str, label: str, interval: Interval, photos: Sequence[str]) -> Measure:
    return Measure(key, label, interval, len(photos), len(set(photos)), TARGETS.get(key))


def retrieval_ranks(similarities: Floats, owner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rank (from 1) of each query's own item: similarities (queries, items), owner (queries,) -> (queries,).

    Equal similarity counts against it, so that a model that embeds every photo the same is not rewarded.
    """
    own = np.take_along_axis(similarities, owner[:, None], axis=1)
    return np.asarray((similarities >= own).sum(axis=1), dtype=np.intp)


def table(rows: Sequence[Measure]) -> str:
    """The rows as a Markdown table."""
    body = []
    for row in rows:
        digits = 3 if row.key.endswith("_ratio") else 1
        ends = (row.interval.value, row.interval.low, row.interval.high)
        value, low, high = (f"{end:.{digits}f}" for end in ends)
        must = aim = ""
        if row.target is not None:
            must = f"{'> ' if row.target.strict else ''}{row.target.must:g}"
            aim = f"{row.target.aim:g}"
        verdict = {True: "yes", False: "NO", None: ""}[row.passed]
        counts = f"{row.samples} ({row.photos})"
        body.append([row.label, must, aim, value, f"{low} to {high}", verdict, counts])
    head = ["measure", "must", "aim", "measured", "95 % interval", "pass", "samples (photos)"]
    return markdown_table(head, body)


def _report(
    arguments: argparse.Namespace, sets: QualitySets, answers: Answers, rows: Sequence[Measure]
) -> dict[str, Any]:
    """Everything that a reader needs to get the same figures, and every caption."""
    whole = answers.whole_captions
    predictions = {
        name: [
            {"photo": sample.photo, "references": sample.references, "caption": caption,
             "whole_image_caption": whole[sample.photo]}
            for sample, caption in zip(samples, captions, strict=True)
        ]
        for name, samples, captions in (
            ("images", sets.images, [whole[sample.photo] for sample in sets.images]),
            ("region_sets", sets.region_sets, answers.set_captions),
            ("traces", sets.traces, answers.trace_captions),
        )
    }  # fmt: skip
    files = {task: task_named(task).files(arguments.data)[0] for task in TASKS}
    return {
        "settings": as_json(arguments),
        "versions": versions(),
        "machine": machine(arguments.device),
        "data_sha256": {task: file_sha256(path) for task, path in files.items()},
        "measures": [
            asdict(row) | {"interval": finite(row.interval), "passed": row.passed} for row in rows
        ],
        "predictions": predictions,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error or with `--check` when a must is missed."""
    parser = command_parser("quality", "Measure a model: the quality table.")
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--data", type=Path, default=SAMPLE, help="annotations/ and photos/ (the sample set)")
    add("--device", default="cpu")
    add("--limit", type=positive, help="only the first N photos (all measures shrink with it)")
    add("--rounds", type=positive, default=2000, help="bootstrap resamples")
    add("--seed", type=natural, default=0, help="of the bootstrap")
    add("--out", type=Path, help="write settings, measures and every caption as JSON")
    add("--check", action="store_true", help="exit status 1 when a must is missed")
    return run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    sets = QualitySets.read(arguments.data, arguments.limit)
    model = load_pretrained(arguments.model, arguments.device)
    started = time.perf_counter()
    answers = ask(model, sets)
    seconds = round(time.perf_counter() - started, 1)
    rows = measure(sets, answers, rounds=arguments.rounds, seed=arguments.seed)
    sys.stdout.write(f"{table(rows)}\n{CIDER_WARNING}\n")
    if arguments.out is not None:
        found = _report(arguments, sets, answers, rows)
        write_json(arguments.out, found | {"seconds": seconds})
    missed = [row.key for row in rows if row.passed is False]
    if arguments.check and missed:
        sys.stderr.write(f"missed: {', '.join(missed)}\n")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
