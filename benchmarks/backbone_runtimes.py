"""Command: one backbone in torch (float32, bfloat16), ONNX Runtime and OpenVINO: time, and captions that change.

    python -m benchmarks.backbone_runtimes --data ../shared/data --photos 60
    python -m benchmarks.backbone_runtimes --architecture vit_base_patch14_reg4_dinov2 --size 518

Every photo goes through every variant before the next photo does, so a disturbance of the machine meets all alike.
The second form times random weights of a network's true shape; there are no captions to count.

Knows: which variants there are, how they are timed and compared. Does NOT know: how a backbone is exported.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.arguments import positive
from benchmarks.readers import DevSets
from patchioner import Patchioner
from patchioner.backbones import Backbone, PatchFeatures, TimmViT
from patchioner.base.errors import PatchionerError
from patchioner.base.files import write_json
from patchioner.base.packed import pack
from patchioner.export import export_backbone
from patchioner.export.check import trial_pictures, trial_regions
from patchioner.export.network import exportable
from patchioner.geometry import Preprocessing
from patchioner.images import load_image

VARIANTS = (
    "torch fp32",
    "torch bf16",
    "onnx fp32",
    "onnx int8",
    "openvino fp32",
    "openvino bf16",
    "openvino int8",
    "openvino int8-bf16",
)


@dataclass(frozen=True)
class RuntimeRow:
    """One variant.

    Attributes:
        variant: runtime and precision.
        seconds: of each photo, preprocessing included.
        cosine: mean cosine of its patch tokens with the first variant's.
        difference: largest absolute difference from them.
        changed, captions: captions that differ from the first variant's, and of how many; 0 of 0 without a model.
    """

    variant: str
    seconds: tuple[float, ...]
    cosine: float
    difference: float
    changed: int = 0
    captions: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error.

    Example:
        >>> main(["--photos", "10"])  # doctest: +SKIP
    """
    options = _parser().parse_args(argv)
    muted = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the quantisers' advice
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = _run(options, Path(folder))
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:
        logging.disable(muted)
    sys.stdout.write(table(rows))
    if options.json is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        write_json(options.json, {"settings": settings, "rows": [asdict(row) for row in rows]})
    return 0


def _run(options: argparse.Namespace, folder: Path) -> list[RuntimeRow]:
    model = None
    if options.architecture is None:
        model = Patchioner.from_pretrained(options.model, device="cpu")
        backbone = model.parts.backbone
    else:
        torch.manual_seed(0)
        backbone = TimmViT(options.architecture, Preprocessing("stretch", options.size, 14))
    made = {name: make_variant(backbone, name, folder) for name in options.variants}
    return measure(made, _photos(options), model)


def _photos(options: argparse.Namespace) -> list[Callable[[], Image.Image]]:
    if options.data is None:
        pictures = trial_pictures()
        return [
            lambda index=index: pictures[index % len(pictures)]  # type: ignore[misc]
            for index in range(options.photos)
        ]
    sets = DevSets(options.data)
    paths = [sets.photo_path(sample.photo) for sample in sets.images()[: options.photos]]
    return [lambda path=path: load_image(path) for path in paths]  # type: ignore[misc]


def make_variant(backbone: Backbone, name: str, folder: Path) -> Backbone:
    """One of `VARIANTS` of a backbone, which is left as it is.

    Args:
        backbone: in float32 on the CPU.
        name: runtime and precision.
        folder: exported networks go into folders of it, and run from there.

    Example:
        >>> make_variant(backbone, "openvino int8", Path("networks"))  # doctest: +SKIP
    """
    runtime, precision = name.split()
    if runtime == "torch":
        twin = exportable(backbone)
        twin.place(torch.device("cpu"), torch.bfloat16 if precision == "bf16" else torch.float32)
        pack(twin)  # as a model's own backbone is when it is placed
        return twin
    place = folder / name.replace(" ", "-")
    place.mkdir()
    kinds: Any = {"format": runtime, "precision": precision}
    return export_backbone(copy.deepcopy(backbone), place, **kinds)[0]


def measure(
    variants: dict[str, Backbone],
    photos: Sequence[Callable[[], Image.Image]],
    model: Patchioner | None,
) -> list[RuntimeRow]:
    """Time all variants on all photos, interleaved, and compare each with the first.

    Args:
        variants: by name; the first is what the others are compared with.
        photos: read when their turn comes.
        model: captions the features; None where there is nothing to caption with.

    Example:
        >>> measure({"torch fp32": backbone, "onnx fp32": exported}, [load], model)  # doctest: +SKIP
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    cosines: dict[str, list[float]] = {name: [] for name in variants}
    gaps, changed, captions = dict.fromkeys(variants, 0.0), dict.fromkeys(variants, 0), 0
    for number, load in enumerate(photos):
        photo = load()
        if number == 0:  # networks are opened and buffers made at the first call
            for backbone in variants.values():
                backbone.encode([photo])
        found = {}
        for name, backbone in variants.items():
            started = time.perf_counter()
            found[name] = backbone.encode([photo])[0]
            seconds[name].append(time.perf_counter() - started)
        right = next(iter(found.values())).tokens
        for name, features in found.items():
            cosine = torch.nn.functional.cosine_similarity(features.tokens, right, dim=2)
            cosines[name].append(float(cosine.mean()))
            gaps[name] = max(gaps[name], float((features.tokens - right).abs().max()))
        if model is not None:
            said = {name: _captions(model, features, photo) for name, features in found.items()}
            reference = next(iter(said.values()))
            captions += len(reference)
            for name, texts in said.items():
                changed[name] += sum(one != two for one, two in zip(texts, reference, strict=True))
    return [
        RuntimeRow(
            name,
            tuple(seconds[name]),
            statistics.mean(cosines[name]),
            gaps[name],
            changed[name],
            captions,
        )
        for name in variants
    ]


def _captions(model: Patchioner, features: PatchFeatures, photo: Image.Image) -> list[str]:
    return [caption.text for caption in model.caption(features, trial_regions(photo.size))]


def table(rows: Sequence[RuntimeRow]) -> str:
    """Return the rows as a Markdown table; gains are medians over photos of the ratio to the first row.

    Example:
        >>> table([RuntimeRow("torch fp32", (0.5, 0.7), 1.0, 0.0)]).splitlines()[-1]
        '| torch fp32 | 0.600 s | 1.00 | 1.00000 | 0 |  |'
    """
    lines = [
        "| backbone | median per photo | times as fast | cosine of tokens | largest difference | captions changed |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = [one / two for one, two in zip(rows[0].seconds, row.seconds, strict=True)]
        share = ""
        if row.captions:
            share = f"{row.changed} of {row.captions} ({row.changed / row.captions:.1%})"
        lines.append(
            f"| {row.variant} | {statistics.median(row.seconds):.3f} s | {statistics.median(ratios):.2f} "
            f"| {row.cosine:.5f} | {row.difference:.2g} | {share} |"
        )
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backbone_runtimes",
        description="Time one backbone in several runtimes; count captions that change.",
    )
    add = parser.add_argument
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--architecture", metavar="NAME", help="random weights of timm's NAME instead of a model")
    add("--size", type=positive, default=518, help="input size of --architecture")
    add("--data", type=Path, help="folder with annotations/ and photos/; default: made-up pictures")
    add("--photos", type=positive, default=60, help="how many of the dev photos")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    add("--threads", type=positive, help="of all runtimes; default: torch's")
    add("--json", type=Path, help="write settings and every photo's seconds as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
