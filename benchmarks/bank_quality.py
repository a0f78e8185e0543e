"""Command: what a smaller or coarser bank costs in captions, on the development sets.

    python -m benchmarks.bank_quality --model patchioner-mini --data ../shared/data --rows 8000 4000 2000 1000

Knows: the ways to make a bank smaller, and how captions are scored. Does NOT know: how banks are made smaller.
Every photo is encoded once; its regions then go through each bank and the decoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.arguments import natural, positive
from benchmarks.captioner import Captioner, LoadModel, load_pretrained, parts_of
from benchmarks.metrics import cider
from benchmarks.readers import DevSets, ImageSample, RegionSetSample
from memory_bank import MemoryBank, compact
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import write_json
from patchioner.base.progress import progress
from patchioner.regions import Box, RegionSet, WholeImage

METHODS = ("k-means", "k-center", "importance")


@dataclass(frozen=True)
class Line:
    """What one bank makes of the development sets.

    Attributes:
        bank: what was done to the model's own bank.
        rows: what is left of it.
        bank_mb: keys in memory, MiB.
        images, region_sets: CIDEr x 100; None without samples.
        changed: share of captions that are not those of the whole bank.
    """

    bank: str
    rows: int
    bank_mb: float
    images: float | None
    region_sets: float | None
    changed: float


@dataclass(frozen=True)
class Questions:
    """The development sets as embeddings.

    Attributes:
        images, region_sets: the samples.
        embeddings: (images + region sets, dim), in this order.
    """

    images: tuple[ImageSample, ...]
    region_sets: tuple[RegionSetSample, ...]
    embeddings: Tensor

    @classmethod
    def of(cls, model: Captioner, sets: DevSets, limit: int | None = None) -> Questions:
        """Encode every photo once and embed what is asked about it.

        Example:
            >>> Questions.of(model, DevSets(Path("../shared/data")))  # doctest: +SKIP
        """
        images = sets.images()[:limit]
        kept = {sample.photo for sample in images}
        region_sets = tuple(s for s in sets.region_sets() if limit is None or s.photo in kept)
        samples: list[ImageSample | RegionSetSample] = [*images, *region_sets]
        found: dict[int, Tensor] = {}
        photos = dict.fromkeys(sample.photo for sample in samples)
        for photo in progress(photos, description="photos", total=len(photos), unit="photo"):
            asked = [number for number, sample in enumerate(samples) if sample.photo == photo]
            features = model.encode(str(sets.photo_path(photo)))
            embedded = model.embed_regions(features, [_region(samples[number]) for number in asked])
            found.update(zip(asked, embedded, strict=True))
        rows = torch.stack([found[number] for number in range(len(samples))])
        return cls(images, region_sets, rows)

    def scores(self, said: Sequence[str]) -> tuple[float | None, float | None]:
        """CIDEr x 100 of the images' captions and of the region sets'."""
        cut = len(self.images)
        groups = ((self.images, said[:cut]), (self.region_sets, said[cut:]))
        first, second = (
            cider(texts, [sample.references for sample in samples])[0] if samples else None
            for samples, texts in groups
        )
        return first, second


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model from (name, device); tests put a small one in.

    Returns:
        0, or 1 after an error.

    Example:
        >>> main(["--data", "../shared/data", "--rows", "1000"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    lines: list[Line] = []
    try:
        sys.stdout.write(HEADER)
        for line in _lines(arguments, load_model):
            lines.append(line)
            sys.stdout.write(table_row(line))
            sys.stdout.flush()
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if arguments.json is not None:
        write_json(arguments.json, {"lines": [asdict(line) for line in lines]})
    return 0


def _lines(arguments: argparse.Namespace, load_model: LoadModel) -> Iterator[Line]:
    model = load_model(arguments.model, "cpu")
    parts: Any = parts_of(model)
    if parts is None or parts.bank is None:
        raise OptionError(f"{arguments.model!r} has no memory bank to make smaller")
    bank = parts.bank if arguments.bank is None else MemoryBank.load(arguments.bank)
    questions = Questions.of(model, DevSets(arguments.data), arguments.limit)
    whole = _captions(parts, bank, questions.embeddings)
    yield _line("as it is", bank, whole, whole, questions)
    int8 = bank.to(dtype="int8")
    yield _line("int8", int8, _captions(parts, int8, questions.embeddings), whole, questions)
    for top_k in arguments.top_k:
        said = _captions(parts, bank, questions.embeddings, top_k)
        yield _line(f"{top_k} nearest rows", bank, said, whole, questions)
    for rows in arguments.rows:
        for method in arguments.method:
            small = compact(bank, rows, method=method, seed=arguments.seed)
            said = _captions(parts, small, questions.embeddings)
            yield _line(method, small, said, whole, questions)


def _captions(
    parts: Any, bank: MemoryBank, embeddings: Tensor, top_k: int | None = None
) -> list[str]:
    settings = parts.settings
    bridged = bank.project(embeddings, settings.temperature, settings.normalize, top_k=top_k)
    return [said.text for said in parts.decoder.generate(bridged, settings.decode)]


def _line(
    name: str, bank: MemoryBank, said: list[str], whole: list[str], questions: Questions
) -> Line:
    changed = sum(a != b for a, b in zip(said, whole, strict=True)) / len(whole)
    size = bank.keys.numel() * bank.keys.element_size() / 2**20
    return Line(name, len(bank), size, *questions.scores(said), changed)


HEADER = (
    "| bank | rows | MiB | images, CIDEr | region sets, CIDEr | captions changed |\n"
    "|---|---|---|---|---|---|\n"
)


def table_row(line: Line) -> str:
    """One line of the Markdown table.

    Example:
        >>> table_row(Line("k-means", 1000, 0.75, 50.0, None, 0.5))
        '| k-means | 1,000 | 0.8 | 50.0 |  | 50.0 % |\\n'
    """
    scores = ["" if score is None else f"{score:.1f}" for score in (line.images, line.region_sets)]
    cells = [line.bank, f"{line.rows:,}", f"{line.bank_mb:.1f}", *scores]
    return f"| {' | '.join(cells)} | {100 * line.changed:.1f} % |\n"


def _region(sample: ImageSample | RegionSetSample) -> Any:
    if isinstance(sample, ImageSample):
        return WholeImage()
    return RegionSet([Box(*box) for box in sample.boxes])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bank_quality",
        description="What does a smaller bank cost in captions?",
    )
    add: Any = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--bank", type=Path, metavar="DIR", help="in place of the model's own")
    add("--data", type=Path, default=Path("../shared/data"), help="holds annotations/ and photos/")
    add(
        "--rows",
        type=positive,
        nargs="*",
        default=[8000, 4000, 2000, 1000],
        help="sizes to compact to",
    )
    add("--method", choices=METHODS, nargs="+", default=list(METHODS))
    add("--top-k", type=positive, nargs="*", default=[256, 64, 16], help="nearest rows alone")
    add("--limit", type=positive, help="only the first N photos")
    add("--seed", type=natural, default=0)
    add("--json", type=Path, help="write the table as JSON as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
