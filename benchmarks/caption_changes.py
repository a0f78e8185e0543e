"""Command: counts the captions that change when a model computes in fewer bits or in another runtime.

    python -m benchmarks.caption_changes --variants decoder-int8 decoder-bf16 --data ../shared/data
    python -m benchmarks.caption_changes --variants networks-bf16 model:mini-openvino-int8

Whole photos, region sets and boxes of the development photos are captioned by the model as it is (float32) and by each
variant. The table has the share of captions that differ in any letter, and CIDEr before and after with a paired
interval over photos: few changed captions with an interval around zero is what one hopes for.

Knows: samples, the table of variants, how captions are compared. Does NOT know: how a network gets fewer bits.
A photo is encoded once for all variants that share the backbone, and its features are let go with its batch.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.arguments import positive
from benchmarks.bootstrap import Difference, bootstrap_difference
from benchmarks.captioner import Captioner, LoadModel, load_pretrained, parts_of
from benchmarks.metrics import cider
from benchmarks.readers import DenseSample, DevSets, ImageSample, RegionSetSample
from benchmarks.runner.provenance import machine, versions
from patchioner.base.errors import OptionError, PatchionerError, UnknownNameError
from patchioner.base.files import write_json
from patchioner.base.progress import progress
from patchioner.regions import Box, RegionSet, WholeImage

PHOTOS_A_BATCH = 16
OTHER_MODEL = "model:"

Asked = ImageSample | RegionSetSample | DenseSample
Change = Callable[[Captioner], Captioner]


@dataclass(frozen=True)
class Variant:
    """A change of a model.

    Attributes:
        change: makes the changed model of the reference, which it leaves untouched.
        encodes: whether photos come out of its backbone differently, so that it must encode them itself.
    """

    change: Change
    encodes: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        variant, task: what was changed, and where it was measured.
        samples, photos: how many captions, of how many photos.
        changed: of the captions, those that differ.
        reference, score: CIDEr of the model as it is, and of the variant.
        difference: of the two, paired over photos.
    """

    variant: str
    task: str
    samples: int
    photos: int
    changed: int
    reference: float
    score: float
    difference: Difference


def with_decoder(model: Captioner, change: Callable[[Any], Any]) -> Captioner:
    """The same model with another decoder.

    Raises:
        OptionError: a stand-in without parts.
    """
    parts = _parts(model)
    return _captioner(replace(parts, decoder=change(parts.decoder)), model)


def _quantized(precision: str) -> Change:
    def change(decoder: Any) -> Any:
        if not hasattr(decoder, "quantized"):
            raise OptionError(
                f"a {type(decoder).__name__} has no {precision} form; choose a model with a prefix_gpt2 decoder"
            )
        return decoder.quantized(precision)

    return lambda model: with_decoder(model, change)


def _half_networks(model: Captioner) -> Captioner:
    return _captioner(copy.deepcopy(_parts(model)), model, dtype=torch.bfloat16)


# Exported backbones are models of their own (`patchioner export`): ask for them as `model:NAME`.
VARIANTS: dict[str, Variant] = {
    "decoder-int8": Variant(_quantized("int8")),
    "decoder-bf16": Variant(_quantized("bf16")),
    "networks-bf16": Variant(_half_networks, encodes=True),
}
"""Name on the command line -> variant."""


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model from (name, device); tests put a small one in.

    Returns:
        0, or 1 after an error.

    Example:
        >>> main(["--variants", "decoder-int8", "--limit", "10"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        variants = {
            name: find_variant(name, load_model, arguments.device) for name in arguments.variants
        }
        model = load_model(arguments.model, arguments.device)
        rows = compare(model, variants, DevSets(arguments.data), limit=arguments.limit)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(table(rows))
    if arguments.json is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
        report = {"settings": settings, "versions": versions(), "rows": [asdict(r) for r in rows]}
        write_json(arguments.json, report | {"machine": machine(arguments.device)})
    return 0


def find_variant(name: str, load_model: LoadModel, device: str) -> Variant:
    """The variant of a name: one of `VARIANTS`, or `model:NAME` for another checkpoint of the same model.

    Raises:
        UnknownNameError: neither.
    """
    if name.startswith(OTHER_MODEL):
        other = name.removeprefix(OTHER_MODEL)
        return Variant(lambda _: load_model(other, device), encodes=True)
    if name not in VARIANTS:
        raise UnknownNameError.among("variant", name, [*VARIANTS, f"{OTHER_MODEL}NAME"])
    return VARIANTS[name]


def compare(
    model: Captioner,
    variants: dict[str, Variant],
    sets: DevSets,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> list[Row]:
    """Caption everything with the model and its variants, and compare.

    Args:
        model: the reference.
        variants: what to compare with it, by name.
        sets: the development sets.
        limit: only the first so many photos.
        seed: of the intervals.

    Returns:
        For each variant a row per task.
    """
    asked = _asked(sets, limit)
    changed = {name: variant.change(model) for name, variant in variants.items()}
    said: dict[str, dict[int, str]] = {name: {} for name in ("", *changed)}
    names = list(asked)
    starts = range(0, len(names), PHOTOS_A_BATCH)
    for start in progress(starts, description="photos", unit="batch"):
        photos = names[start : start + PHOTOS_A_BATCH]
        paths = [str(sets.photo_path(photo)) for photo in photos]
        features = [model.encode(path) for path in paths]
        for name, other in (("", model), *changed.items()):
            own = bool(name) and variants[name].encodes
            seen = [other.encode(path) for path in paths] if own else features
            items = [
                (one, [region for _, region in asked[photo]])
                for one, photo in zip(seen, photos, strict=True)
            ]
            for photo, captions in zip(photos, other.caption_many(items), strict=True):
                places = (place for place, _ in asked[photo])
                said[name] |= {p: c.text for p, c in zip(places, captions, strict=True)}
    samples = _samples(sets)
    return [row for name in changed for row in _rows(name, samples, said[""], said[name], seed)]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table.

    Example:
        >>> table([]).splitlines()[0]
        '| variant | captions of | captions (photos) | changed | CIDEr, as it is | variant | difference (95 %) |'
    """
    lines = [
        "| variant | captions of | captions (photos) | changed | CIDEr, as it is | variant | difference (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gap = row.difference
        lines.append(
            f"| {row.variant} | {row.task} | {row.samples} ({row.photos}) | {row.changed / row.samples:.1%} "
            f"| {row.reference:.1f} | {row.score:.1f} | {gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f}) |"
        )
    return "\n".join(lines) + "\n"


def _rows(
    variant: str,
    samples: dict[str, list[tuple[int, Asked]]],
    before: dict[int, str],
    after: dict[int, str],
    seed: int,
) -> Iterator[Row]:
    for task, all_pairs in samples.items():
        pairs = [(place, sample) for place, sample in all_pairs if place in before]
        if not pairs:
            continue
        photos = [sample.photo for _, sample in pairs]
        references = [sample.references for _, sample in pairs]
        scores: list[NDArray[np.float64]] = [
            cider([said[place] for place, _ in pairs], references)[1] for said in (before, after)
        ]
        yield Row(
            variant,
            task,
            len(pairs),
            len(set(photos)),
            sum(before[place] != after[place] for place, _ in pairs),
            float(scores[0].mean()),
            float(scores[1].mean()),
            bootstrap_difference(scores[0], scores[1], photos, seed=seed),
        )


def _samples(sets: DevSets) -> dict[str, list[tuple[int, Asked]]]:
    """Every sample with a number of its own, by task."""
    groups: dict[str, Sequence[Asked]] = {
        "whole photos": sets.images(),
        "region sets": sets.region_sets(),
        "boxes": sets.dense(),
    }
    numbers = iter(range(sum(map(len, groups.values()))))
    return {task: [(next(numbers), sample) for sample in group] for task, group in groups.items()}


def _asked(sets: DevSets, limit: int | None) -> dict[str, list[tuple[int, Any]]]:
    """Photo -> number and region of everything that is asked about it."""
    asked: dict[str, list[tuple[int, Any]]] = {}
    for pairs in _samples(sets).values():
        for place, sample in pairs:
            asked.setdefault(sample.photo, []).append((place, _region(sample)))
    return dict(list(asked.items())[:limit])


def _region(sample: Asked) -> Any:
    if isinstance(sample, RegionSetSample):
        return RegionSet([Box(*box) for box in sample.boxes])
    return Box(*sample.box) if isinstance(sample, DenseSample) else WholeImage()


def _parts(model: Captioner) -> Any:
    parts = parts_of(model)
    if parts is None:
        raise OptionError(f"a {type(model).__name__} has no parts to change; load a checkpoint")
    return parts


def _captioner(parts: Any, model: Captioner, dtype: torch.dtype | None = None) -> Captioner:
    from patchioner import Patchioner

    made: Captioner = Patchioner(parts, device=getattr(model, "device", None), dtype=dtype)
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.caption_changes",
        description="Count the captions that change in fewer bits or another runtime; report only.",
    )
    add = parser.add_argument
    known = ", ".join(VARIANTS)
    add("--variants", nargs="+", required=True, metavar="NAME", help=f"{known}, or model:NAME")
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--device", default="cpu")
    add(
        "--data",
        type=Path,
        default=Path("../shared/data"),
        help="folder with annotations/ and photos/",
    )
    add("--limit", type=positive, help="only the first so many photos")
    add("--json", type=Path, help="write the rows as JSON as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
