"""Command: measures a model on the development sets and prints the quality table.

    python -m benchmarks.quality --model patchioner-mini --data ../shared/data --out quality.json

Knows: arguments, the order of the work, the table and the JSON report. Does NOT know: how a measure
is made (`benchmarks.measures`) or how a model is asked (`benchmarks.answers`).
Offline, on the CPU unless told otherwise; the same command gives the same figures.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.answers import Answers, QualitySets, ask
from benchmarks.arguments import name_template, natural, positive
from benchmarks.captioner import LoadModel, load_pretrained
from benchmarks.measures import Bootstrap, Measure, caption_measures, measure
from benchmarks.metrics import bleu, java_available, official_cider, rouge_l
from benchmarks.readers import Captioned, DevSets
from benchmarks.runner.provenance import machine, versions
from patchioner.base.errors import MissingExtraError, PatchionerError
from patchioner.base.files import write_json

DEFAULT_PROMPT = "a photo of a {name}"


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model from (name, device); tests put a small one in.

    Returns:
        0; 1 after an error, or with `--check` when a must is missed.

    Example:
        >>> main(["--data", "../shared/data", "--limit", "10"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    arguments.prompt = arguments.prompt or [DEFAULT_PROMPT]
    try:
        rows = _run(arguments, load_model)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    missed = [row.key for row in rows if row.passed is False]
    if arguments.check and missed:
        sys.stderr.write(f"missed: {', '.join(missed)}\n")
        return 1
    return 0


def _run(arguments: argparse.Namespace, load_model: LoadModel) -> list[Measure]:
    sets = DevSets(arguments.data)
    samples = QualitySets.read(sets, arguments.limit)
    model = load_model(arguments.model, arguments.device)
    started = time.perf_counter()
    answers = ask(
        model,
        samples,
        sets,
        weighting=_weighting(arguments),
        options=_decode_options(arguments),
        prompts=arguments.prompt,
    )
    seconds = time.perf_counter() - started
    bootstrap = Bootstrap(arguments.rounds, arguments.seed)
    rows = measure(samples, answers, bootstrap=bootstrap)
    rows += _official_rows(samples, answers, bootstrap, arguments.official)
    sys.stdout.write(table(rows))
    if arguments.out is not None:
        write_json(arguments.out, _report(arguments, sets, samples, answers, rows, seconds))
    return rows


def table(rows: Sequence[Measure]) -> str:
    """Return the rows as a Markdown table.

    Example:
        >>> table([]).splitlines()[0]
        '| measure | must | aim | measured | 95 % interval | pass | samples (photos) |'
    """
    lines = [
        "| measure | must | aim | measured | 95 % interval | pass | samples (photos) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        digits = 3 if row.key.endswith("_ratio") else 1
        value, low, high = (
            f"{number:.{digits}f}"
            for number in (row.interval.value, row.interval.low, row.interval.high)
        )
        must = aim = ""
        if row.target is not None:
            must = f"{'> ' if row.target.strict else ''}{row.target.must:g}"
            aim = f"{row.target.aim:g}"
        verdict = {True: "yes", False: "NO", None: ""}[row.passed]
        size = f"{row.samples} ({row.photos})"
        lines.append(
            f"| {row.label} | {must} | {aim} | {value} | {low} to {high} | {verdict} | {size} |"
        )
    return "\n".join(lines) + "\n"


def _official_rows(
    samples: QualitySets, answers: Answers, bootstrap: Bootstrap, wanted: str
) -> list[Measure]:
    """The caption rows again by the official CIDEr; they inform, the targets stay with ours."""
    if wanted == "no" or (wanted == "auto" and not java_available()):
        return []
    try:
        rows = caption_measures(samples, answers, bootstrap=bootstrap, metric=official_cider)
    except MissingExtraError as error:
        if wanted == "yes":
            raise
        sys.stderr.write(f"no official CIDEr: {error}\n")
        return []
    return [
        Measure(
            f"official_{row.key}", f"{row.label} (official)", row.interval, row.samples, row.photos
        )
        for row in rows
    ]


def _report(
    arguments: argparse.Namespace,
    sets: DevSets,
    samples: QualitySets,
    answers: Answers,
    rows: Sequence[Measure],
    seconds: float,
) -> dict[str, Any]:
    """Everything that a reader needs to get the same figures, and every caption."""
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in vars(arguments).items()}
    return {
        "settings": settings,
        "versions": versions(),
        "machine": machine(arguments.device),
        "data_sha256": sets.fingerprints(),
        "seconds": round(seconds, 1),
        "measures": [_as_json(row) for row in rows],
        "other_metrics": _other_metrics(samples, answers),
        "predictions": {
            "images": [
                asdict(sample) | {"caption": answers.whole_captions[sample.photo]}
                for sample in samples.images
            ],
            "region_sets": _said(samples.region_sets, answers.set_captions, answers),
            "traces": _said(samples.traces, answers.trace_captions, answers),
        },
    }


def _as_json(row: Measure) -> dict[str, Any]:
    """A row as JSON, where an undefined number (a ratio to zero) is null."""
    interval = {
        key: number if math.isfinite(number) else None
        for key, number in asdict(row.interval).items()
    }
    return asdict(row) | {"interval": interval, "passed": row.passed}


def _said(
    samples: Sequence[Captioned], captions: Sequence[str], answers: Answers
) -> list[dict[str, Any]]:
    return [
        {
            "photo": sample.photo,
            "references": sample.references,
            "caption": caption,
            "whole_image_caption": answers.whole_captions[sample.photo],
        }
        for sample, caption in zip(samples, captions, strict=True)
    ]


def _other_metrics(samples: QualitySets, answers: Answers) -> dict[str, dict[str, float]]:
    """BLEU-4 and ROUGE-L of the captions, for comparison with other papers' tables."""
    tasks: dict[str, tuple[Sequence[Captioned], Sequence[str]]] = {
        "images": (samples.images, [answers.whole_captions[s.photo] for s in samples.images]),
        "region_sets": (samples.region_sets, answers.set_captions),
        "traces": (samples.traces, answers.trace_captions),
    }
    scores = {}
    for name, (group, said) in tasks.items():
        if group:
            references = [sample.references for sample in group]
            corpus, _ = bleu(said, references)
            scores[name] = {"bleu4": float(corpus[3]), "rouge_l": rouge_l(said, references)[0]}
    return scores


def _weighting(arguments: argparse.Namespace) -> Any:
    if arguments.weighting is None:
        return None
    from patchioner.regions import Weighting

    return Weighting(arguments.weighting, variance=arguments.variance, rounding=arguments.rounding)


def _decode_options(arguments: argparse.Namespace) -> Any:
    if arguments.beam is None:
        return None
    from decoders import DecodeOptions

    if arguments.beam == 1:
        return DecodeOptions(strategy="greedy")
    return DecodeOptions(strategy="beam", beam_width=arguments.beam)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description="Measure a model on the development sets."
    )
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--data", type=Path, default=Path("../shared/data"), help="holds annotations/ and photos/")
    add("--device", default="cpu")
    add("--limit", type=positive, help="only the first N photos (all measures shrink with it)")
    add("--weighting", choices=["uniform", "gaussian", "attention"], help="default: the model's")
    add("--variance", type=float, default=1.0, help="of --weighting gaussian")
    add("--rounding", choices=["coverage", "reference"], default="coverage")
    add("--beam", type=positive, help="beam width, 1 = greedy; default: the model's")
    add("--prompt", action="append", type=name_template,
        help=f"of a class name, default {DEFAULT_PROMPT!r}; several: their mean")  # fmt: skip
    add("--official", choices=["auto", "yes", "no"], default="auto",
        help="also the official CIDEr: auto = where Java and pycocoevalcap are")  # fmt: skip
    add("--rounds", type=positive, default=2000, help="bootstrap resamples")
    add("--seed", type=natural, default=0, help="of the bootstrap")
    add("--out", type=Path, help="write settings, measures and every caption as JSON")
    add("--check", action="store_true", help="exit status 1 when a must is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
