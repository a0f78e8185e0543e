"""The suite "gpu": our engine alone on a CUDA device, networks in bfloat16, the whole bank resident in half precision.

Knows: which figures say whether the backbone is what the time goes to. Does NOT know how the engine works, nor the
published way (which is compared on the CPU). `measure_engine` itself runs on any device, so that it can be tested.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional

from benchmarks.speed.contest import OPTIONS, Ours
from benchmarks.speed.floor import backbone_work
from benchmarks.speed.machine import about_machine, measure_rates, synchronizer
from benchmarks.speed.scene import make_photo, random_boxes
from benchmarks.speed.shapes import SHAPES, Shapes, write_bank
from benchmarks.speed.targets import Line, Target, missed, target_table
from benchmarks.speed.units import duration, plain
from benchmarks.timing import Timing
from patchioner.base.errors import OptionError
from patchioner.base.files import write_json

ROUNDS, REGIONS = 5, 16
_IMAGES = {"published": 32, "tiny": 2}
SHARE, MATRIX_RATE = Target(None, 0.8), Target(None, 1.5, larger=False)


@dataclass(frozen=True)
class Engine:
    """Figures of one device.

    Attributes:
        images: photos in one call, each with `REGIONS` boxes.
        whole: seconds of captioning them all, from Pillow images.
        backbone: seconds of encoding them all.
        step: seconds of one decoding step of all their captions.
        product: multiply-adds a second of a large matrix product in the networks' precision.
        least: seconds that the backbone's multiply-adds take at that rate.
    """

    images: int
    whole: Timing
    backbone: Timing
    step: Timing
    product: float
    least: float

    def lines(self) -> list[Line]:
        """The figures beside what is hoped for.

        Example:
            >>> one = Timing("", (1.0,))
            >>> [line.verdict for line in Engine(32, one, one, one, 1e12, 0.5).lines()]
            ['aim', 'report']
        """
        whole, backbone = duration(self.whole.median), duration(self.backbone.median)
        share = self.backbone.median / self.whole.median
        over = self.backbone.median / self.least
        least = duration(self.least)
        return [
            Line("share of time in the backbone", backbone, whole, share, SHARE, "the whole"),
            Line("backbone, times its floor", backbone, least, over, MATRIX_RATE, "matrix rate"),
        ]

    def summary(self) -> str:
        """The figures that have no target, as a sentence."""
        captions = self.images * REGIONS
        return (
            f"{self.images / self.whole.median:,.1f} images/s and {captions / self.whole.median:,.0f} captions/s at "
            f"{REGIONS} regions an image; a decoding step of {captions:,} captions takes {duration(self.step.median)}; "
            f"measured matrix product: {2 * self.product / 1e12:,.2f} TFLOP/s."
        )


def run_gpu_suite(arguments: argparse.Namespace) -> int:
    """Measure, print, write JSON where it is asked for.

    Returns:
        0; 1 with --check where a target is missed.

    Raises:
        OptionError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise OptionError(
            "--suite gpu needs a CUDA device and a torch built for it, and torch finds none here; "
            "--suite cpu compares on the CPU"
        )
    shapes = SHAPES[arguments.shapes]
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_bank(shapes, work)
        engine = measure_engine(
            shapes,
            work,
            device="cuda",
            dtype=torch.bfloat16,
            images=_IMAGES[arguments.shapes],
            rounds=arguments.rounds or ROUNDS,
        )
    lines = engine.lines()
    machine = {"card": torch.cuda.get_device_name(), **about_machine()}
    sys.stdout.write(f"{target_table(lines)}\n{engine.summary()}\n")
    sys.stdout.write(", ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
    if arguments.json is not None:
        settings = {key: plain(value) for key, value in vars(arguments).items()}
        write_json(
            arguments.json, {"settings": settings, "machine": machine, "engine": asdict(engine)}
        )
    return 1 if arguments.check and missed(lines) else 0


def measure_engine(
    shapes: Shapes,
    work: Path,
    *,
    device: str,
    dtype: torch.dtype,
    images: int,
    rounds: int,
) -> Engine:
    """Caption `images` photos with `REGIONS` boxes each, over and over.

    Args:
        shapes: sizes; the bank is in `work` (`write_bank`).
        work: folder.
        device: where networks and bank are.
        dtype: of the networks.
        images: photos in a call, equal in size and all different.
        rounds: measured, after one to warm up.

    Example:
        >>> measure_engine(shapes, work, device="cuda", dtype=torch.bfloat16, images=32, rounds=5)  # doctest: +SKIP
    """
    ours = Ours(shapes, work, precision="float16", device=device, dtype=dtype)
    photos = [_photo(work / "photo.jpg", seed) for seed in range(images)]
    items = [
        (photo, random_boxes(REGIONS, photo.size, seed=seed)) for seed, photo in enumerate(photos)
    ]
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(images * REGIONS, shapes.dim, generator=generator)
    vectors = functional.normalize(vectors, dim=1).to(device)
    synchronize = synchronizer(device)

    def timed(label: str, work: Callable[[], object], share: int = 1) -> Timing:
        return _synchronized(label, work, synchronize, rounds=rounds, share=share)

    rates = measure_rates(device, dtype, side=8192 if device == "cuda" else 64, elements=2**16)
    grid = ours.model.parts.backbone.geometry(photos[0].size).grid
    adds = backbone_work(ours.model.parts.backbone, grid[0] * grid[1]).multiply_adds
    return Engine(
        images,
        timed("whole", lambda: list(ours.model.caption_many(items))),
        timed("backbone", lambda: ours.model.encode(list(photos))),
        timed("step", lambda: ours.decoder.generate(vectors, OPTIONS), share=OPTIONS.max_tokens),
        rates.product,
        images * adds / rates.product,
    )


def _photo(path: Path, seed: int) -> Image.Image:
    with Image.open(make_photo(path, seed=seed)) as opened:
        return opened.convert("RGB")


def _synchronized(
    label: str,
    work: Callable[[], object],
    synchronize: Callable[[], None],
    *,
    rounds: int,
    share: int,
) -> Timing:
    """Seconds of `rounds` calls after one to warm up, divided by `share`; the device has finished before and after."""
    seconds = []
    for _ in range(rounds + 1):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        seconds.append((time.perf_counter() - started) / share)
    return Timing(label, tuple(seconds[1:]))
