"""The quality table of a model: `python -m benchmarks.quality --data FOLDER`; the same command, the same figures."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmarks import command
from benchmarks.command import CIDER_WARNING, markdown_table
from benchmarks.data import task_named
from benchmarks.metrics import cider
from benchmarks.regional import LARGE, TASKS, Answer, ask
from benchmarks.run import load_pretrained, machine, versions
from benchmarks.scoring import Interval, bootstrap_ratio, finite
from patchioner.base.files import file_sha256, write_json

PROMPTS = ("a photo of a {name}",)
PARTS = ("images", "sets", "traces", "boxes")
SETS = (("sets", "region_sets", "region sets"), ("traces", "traces", "traces"))
NAMING = {
    "box_naming": ("box naming, % of boxes", "named"),
    "box_naming_whole": ("box naming by the whole-image embedding, %", "named_whole"),
}


class Target(NamedTuple):
    """What a measure must reach and what it aims at; `strict`: equal to `must` is not enough."""

    must: float
    aim: float
    strict: bool = False


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
        """Whether the must is reached (a NaN never does); None without a target."""
        if self.target is None:
            return None
        must, value = self.target.must, self.interval.value
        return value > must if self.target.strict else value >= must

    def cells(self) -> list[str]:
        """A row of the Markdown table."""
        digits = 3 if self.key.endswith("_ratio") else 1
        ends = (self.interval.value, self.interval.low, self.interval.high)
        value, low, high = (f"{end:.{digits}f}" for end in ends)
        must = aim = ""
        if self.target is not None:
            must = f"{'> ' * self.target.strict}{self.target.must:g}"
            aim = f"{self.target.aim:g}"
        verdict = {True: "yes", False: "NO", None: ""}[self.passed]
        counts = f"{self.samples} ({self.photos})"
        return [self.label, must, aim, value, f"{low} to {high}", verdict, counts]


def measure(answers: Mapping[str, list[Answer]], *, rounds: int = 2000, seed: int = 0) -> list[Measure]:
    """The rows of the quality table, of what `benchmarks.regional.ask` gives; a part without answers gives none."""
    rows: list[Measure] = []

    def add(key: str, label: str, of: Sequence[Answer], above: ArrayLike, below: ArrayLike) -> None:
        photos = [answer["photo"] for answer in of]
        interval = bootstrap_ratio(above, below, photos, rounds=rounds, seed=seed)
        rows.append(Measure(key, label, interval, len(of), len(set(photos)), TARGETS.get(key)))

    def add_mean(key: str, label: str, of: Sequence[Answer], values: ArrayLike) -> None:
        add(key, label, of, values, np.ones(len(of)))

    images = answers.get("images", [])
    if images:
        add_mean("image_cider", "image captioning, CIDEr", images, _cider(images, "caption"))
    for part, key, label in SETS:
        if found := answers.get(part):
            own, whole = (_cider(found, text) for text in ("caption", "whole"))
            add_mean(f"{key}_cider", f"{label}, CIDEr", found, own)
            told = f"{label}, CIDEr of the whole-image caption"
            add_mean(f"{key}_whole_cider", told, found, whole)
            add(f"{key}_ratio", f"{label}, region / whole image", found, own, whole)
    if boxes := [box for box in answers.get("boxes", ()) if box["share"] > LARGE]:
        for key, (label, which) in NAMING.items():
            add_mean(key, label, boxes, [100.0 * box[which] for box in boxes])
    asked = [(image, rank) for image in images for rank in image["ranks"]]
    for k in (1, 5) if asked else ():
        hits = [100.0 * (rank <= k) for _, rank in asked]
        add_mean(f"retrieval_r{k}", f"text to image, R@{k} %", [one for one, _ in asked], hits)
    return rows


def _cider(answers: Sequence[Answer], which: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return cider([one[which] for one in answers], [one["references"] for one in answers])[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error or with `--check` when a must is missed."""
    parser = command.command_parser("quality", "Measure a model: the quality table.")
    command.add_model_and_data(parser)
    add = parser.add_argument
    add("--limit", type=command.positive, help="only the first N photos of each part")
    add("--rounds", type=command.positive, default=2000, help="bootstrap resamples")
    add("--seed", type=command.natural, default=0, help="of the bootstrap")
    add("--out", type=Path, help="write settings, measures and every caption as JSON")
    add("--check", action="store_true", help="exit status 1 when a must is missed")
    return command.run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    files = {part: task_named(TASKS[part]).files(arguments.data)[0] for part in PARTS}
    hashes = {part: file_sha256(path) for part, path in files.items()}
    model = load_pretrained(arguments.model, arguments.device)
    started = time.perf_counter()
    answers = ask(model, arguments.data, PARTS, limit=arguments.limit, prompts=PROMPTS)
    seconds = round(time.perf_counter() - started, 1)
    rows = measure(answers, rounds=arguments.rounds, seed=arguments.seed)
    head = ["measure", "must", "aim", "measured", "95 % interval", "pass", "samples (photos)"]
    sys.stdout.write(f"{markdown_table(head, [row.cells() for row in rows])}\n{CIDER_WARNING}\n")
    if arguments.out is not None:
        measures = [asdict(row) | {"interval": finite(row.interval), "passed": row.passed} for row in rows]
        found = {
            "settings": command.as_json(arguments), "versions": versions(), "machine": machine(arguments.device),
            "data_sha256": hashes, "measures": measures, "predictions": answers, "seconds": seconds,
        }  # fmt: skip
        write_json(arguments.out, found)
    missed = [row.key for row in rows if row.passed is False]
    if arguments.check and missed:
        sys.stderr.write(f"missed: {', '.join(missed)}\n")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
