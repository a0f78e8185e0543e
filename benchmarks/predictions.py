"""predictions.jsonl: one line per sample, appended as they come, never written twice.

The file holds the samples in one fixed order (by photo, then by row), so that "what is done" is a number of lines.
Lines reach the disk a group of photos at a time. A line that a kill cut off is cut away; the group it belongs to was
not written whole, so it is asked again as a group. Thus an interrupted run ends with the bytes of an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.answerers import Answer
from benchmarks.data import BenchmarkDataError, Sample

FILE = "predictions.jsonl"
SCORE_DIGITS = 5


@dataclass(frozen=True)
class Prediction:
    """One line of predictions.jsonl.

    Attributes:
        id, photo, row, box_count, area_share, references: as in `Sample`.
        region: the region as JSON.
        caption: None where the model could not answer.
        score: see `Answer`.
        skipped: the reason where there is no caption.
    """

    id: str
    photo: str
    row: int
    region: dict[str, Any]
    caption: str | None
    score: float | None
    references: tuple[str, ...]
    box_count: int
    area_share: float
    skipped: str | None = None

    @classmethod
    def of(cls, sample: Sample, answer: Answer) -> Prediction:
        """The line of a sample and its answer."""
        return cls(
            id=sample.id,
            photo=sample.photo,
            row=sample.row,
            region=sample.region.to_json(),
            caption=answer.text,
            # Rounded: the last bits of a float depend on how many captions were decoded together.
            score=None if answer.text is None else round(answer.score, SCORE_DIGITS),
            references=sample.references,
            box_count=sample.box_count,
            area_share=round(sample.area_share, 6),
            skipped=answer.skipped,
        )

    def line(self) -> bytes:
        """The line, with its end."""
        values = dict(vars(self))
        if self.skipped is None:
            del values["skipped"]
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"


class PredictionLog:
    """The file of one run, opened where an earlier one left off.

    Args:
        path: the file; made with its folder. A last line without its end is cut away.

    Attributes:
        ids: of the samples of its whole lines.

    Raises:
        BenchmarkDataError: a whole line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.is_file() else b""
        lines = content.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self.ids = [str(_parsed(line, path, n).get("id")) for n, line in enumerate(lines, start=1)]
        self._ends = [0]
        for line in lines:
            self._ends.append(self._ends[-1] + len(line))
        if len(content) != self._ends[-1]:
            os.truncate(path, self._ends[-1])

    def check_order(self, samples: Sequence[Sample]) -> None:
        """Raise BenchmarkDataError unless the lines are the first of `samples`."""
        if self.ids != [sample.id for sample in samples[: len(self.ids)]]:
            raise BenchmarkDataError(
                f"{self.path} holds other samples than this run asks about: choose another --out"
            )

    def cut_to(self, count: int) -> None:
        """Forget all lines after the first `count`."""
        if count < len(self.ids):
            os.truncate(self.path, self._ends[count])
            del self.ids[count:], self._ends[count + 1 :]

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Write the lines of a group of photos at once, and wait until they are on the disk."""
        lines = [prediction.line() for prediction in predictions]
        with self.path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        for prediction, line in zip(predictions, lines, strict=True):
            self.ids.append(prediction.id)
            self._ends.append(self._ends[-1] + len(line))


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions.jsonl, samples without a caption included; BenchmarkDataError if missing or damaged."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BenchmarkDataError(f"{path} cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        values = _parsed(line, path, number)
        try:
            found.append(Prediction(**(values | {"references": tuple(values["references"])})))
        except (KeyError, TypeError) as error:
            raise BenchmarkDataError(
                f"line {number} of {path} is no prediction: {error}"
            ) from error
    return found


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise BenchmarkDataError(
            f"line {number} of {path} is damaged: delete it and all after it, then --resume"
        ) from error
    if not isinstance(values, dict):
        raise BenchmarkDataError(f"line {number} of {path} is no prediction: {values!r:.60}")
    return values
