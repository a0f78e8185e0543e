"""Command: calibrate a checkpoint's support on photos with captions.

    python -m patchioner.detail.calibrate --model FOLDER --pairs pairs.json --photos photos/ --write

For every true caption a caption of another photo, and the caption with one thing exchanged for one that no caption of
the photo names, are the distractors. Measures are fitted by logistic regression; a threshold is where the chosen share
of distractors passes. Use photos that nothing is later measured on. The same command gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from decoders.scene_graph import noun_phrases
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.base.files import read_json, write_json
from patchioner.base.progress import guarded, progress
from patchioner.detail import prose, score
from patchioner.detail.score import Calibration, View
from patchioner.guidance import Captioned, FloatArray, fit_logistic, read_pairs
from patchioner.regions import WholeImage

Texts = Sequence[str]
SENTENCE_RATE, OBJECT_RATE = 0.50, 0.10
"""Shares that pass: of true sentences with one thing exchanged, and of things that are not there."""


def calibrate_model(model: Patchioner, pairs: Sequence[Captioned], *, seed: int = 0) -> Calibration:
    """Fit the measures of a model with a text tower on (photo, true captions): 100 at least, a few hundred are better.
    `OptionError`: too few photos, or no text tower."""
    if len(pairs) < 2:
        raise OptionError(f"{len(pairs)} photos are too few: give a hundred or more with captions")
    evidence, generator = score.Evidence(model), random.Random(seed)
    said: list[tuple[str, View, str, FloatArray]] = []  # kind, view, text, measures of its things
    rows: list[FloatArray] = []
    truth: list[bool] = []
    for place, (photo, captions) in enumerate(progress(pairs, description="calibrating", unit="photo")):
        others = [one for at, (_, one) in enumerate(pairs) if at != place]
        # The memory may hold these very captions; of another photo it would not.
        view = evidence.view(model.encode(photo), WholeImage(), without=captions)
        for caption in captions:
            foreign = generator.choice(generator.choice(others))
            swapped = swap_thing(caption, _names(others, captions, generator), generator)
            texts = {"true": caption, "other": foreign}
            texts |= {"swap": swapped[0]} if swapped else {}
            for kind, text in texts.items():
                said.append((kind, view, text, evidence.object_rows(view, prose.things(text))))
            true = said[-len(texts)][3]
            false = evidence.object_rows(view, [swapped[1]] if swapped else [])
            rows += [*true, *false]
            truth += [True] * len(true) + [False] * len(false)
    values = np.array(rows).reshape(-1, len(evidence.object_inputs))
    objects = fit_logistic(evidence.object_inputs, values, truth)
    absent = objects(values)[~np.array(truth)]
    objects = replace(objects, threshold=float(np.quantile(absent, 1 - OBJECT_RATE)))
    rated = [evidence.sentence_row(view, text, rows, objects) for _, view, text, rows in said]
    measures = np.array(rated)
    kinds = np.array([kind for kind, *_ in said])
    sentences = fit_logistic(score.SENTENCE_INPUTS, measures, kinds == "true")
    scores = sentences(measures)
    threshold = float(np.quantile(scores[kinds == "swap"], 1 - SENTENCE_RATE))
    measured: dict[str, float] = {"photos": len(pairs)}
    for kind in ("true", "other", "swap"):
        accepted = scores[kinds == kind] >= threshold
        measured[f"accepted {kind}"] = round(float(accepted.mean()), 4)
    return Calibration(replace(sentences, threshold=threshold), objects, measured)


def swap_thing(caption: str, names: Iterator[str], draw: random.Random) -> tuple[str, str] | None:
    """(The caption with one of its things exchanged for the next of `names`, that name); None where it has none."""
    phrases = [phrase for phrase in noun_phrases(caption) if phrase.name in prose.things(caption)]
    name = next(names, None)
    if not phrases or name is None:
        return None
    phrase = draw.choice(phrases)
    return f"{caption[: phrase.start]}{prose.with_article(name)}{caption[phrase.end :]}", name


def _names(others: Sequence[Texts], own: Texts, generator: random.Random) -> Iterator[str]:
    """Things in captions of other photos that no own caption names, at random."""
    named = frozenset().union(*map(prose.content_words, own))
    for _ in range(50):
        for name in prose.things(generator.choice(generator.choice(others))):
            if prose.canonical(name.rpartition(" ")[2]) not in named:
                yield name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=score.COMMAND, description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="name or folder of the checkpoint")
    add("--pairs", type=Path, required=True, help='JSON: [{"file_name", "captions"}, ...]')
    add("--photos", type=Path, required=True, help="folder of the photos")
    add("--limit", type=int, default=300, help="photos, drawn by the seed (default 300)")
    add("--seed", type=int, default=0)
    add("--write", action="store_true", help="into the model's folder; else only print")
    options = parser.parse_args(argv)

    def work() -> None:
        sys.stdout.write(json.dumps(_fitted(options), indent=2) + "\n")

    return guarded(work)


def _fitted(options: argparse.Namespace) -> dict[str, Any]:
    config = Path(options.model) / "config.json"
    if options.write and not config.is_file():
        told = f"--write needs a checkpoint's folder, {options.model!r} is none"
        raise OptionError(f"{told}: make one with patchioner convert")
    pairs = read_pairs(options.pairs, options.photos, limit=options.limit, seed=options.seed)
    model = Patchioner.from_pretrained(options.model)
    found = calibrate_model(model, pairs, seed=options.seed).to_json()
    if options.write:
        held = read_json(config)
        own = {**held.get("calibration", {}), score.KEY: found}
        write_json(config, {**held, "calibration": own})
    return found


if __name__ == "__main__":
    sys.exit(main())
