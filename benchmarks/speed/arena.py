"""Where both sides meet: one photo, one set of weights, one record of timings.

Knows: what the works of the suite "cpu" share. Does NOT know which works there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.speed.contest import Ours, Published, check_equal
from benchmarks.speed.machine import Rates
from benchmarks.speed.scene import random_boxes
from benchmarks.speed.shapes import Shapes, build_random_backbone, build_random_decoder
from benchmarks.timing import Timing, take_turns
from patchioner.regions import Box


class Arena:
    """Both sides on one bank, and on backbones and decoders of one seed.

    Args:
        shapes: sizes.
        work: folder of the bank.
        photo: upright RGB.
        rounds: of every timing.
        most_chunks: see `Published`.
        rates: of the machine.

    Attributes:
        ours, other: the two sides, with captions that never end early.
        ours_ending, other_ending: the same with captions of COCO's length.
        boxes: as many as the largest count, all different.
        compared: captions whose tokens were found equal so far.
        timings: every timing so far, by what it is of.
    """

    def __init__(
        self,
        shapes: Shapes,
        work: Path,
        photo: Image.Image,
        *,
        rounds: int,
        most_chunks: int,
        rates: Rates,
    ) -> None:
        self.shapes, self.photo, self.rates = shapes, photo, rates
        self._rounds = rounds
        # Of one seed, but one each: ours packs its weights, which the published way does not.
        self.backbone = build_random_backbone(shapes)
        self.boxes: list[Box] = random_boxes(max(shapes.counts), photo.size, seed=0)
        decoder = build_random_decoder(shapes)
        self.other = Published(
            shapes, work, backbone=self.backbone, decoder=decoder, most_chunks=most_chunks
        )
        self.ours = Ours(shapes, work, decoder=decoder)
        ending = build_random_decoder(shapes, ends=True)
        self.other_ending = self.other.with_decoder(ending)
        self.ours_ending = Ours(
            shapes, work, backbone=self.ours.model.parts.backbone, decoder=ending
        )
        self.compared = 0
        self.timings: dict[str, Timing] = {}

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.backbone.geometry(self.photo.size).grid

    def turns(self, label: str, clocks: Mapping[str, Callable[[], float]]) -> dict[str, Timing]:
        """Take turns, and keep the timings for the record as `label: side`."""
        found = take_turns(clocks, rounds=self._rounds)
        self.timings |= {f"{label}: {side}": timing for side, timing in found.items()}
        return found

    def see_equal(self, label: str, ours: Sequence[Any], other: Sequence[Any]) -> None:
        """Count captions with equal tokens; PatchionerError where they are not equal."""
        self.compared += check_equal(ours, other, label)
