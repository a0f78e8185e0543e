"""What the command writes.

Knows: standard output and error, the two layouts (text and JSON lines). Does not know: models, files.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from patchioner.drawing import cluster_captions
from patchioner.regions import Region
from patchioner.results import Label


class CaptionLike(Protocol):
    """What the command needs to know of a caption; `patchioner.Caption` is one."""

    @property
    def text(self) -> str:
        """The caption."""
        ...

    @property
    def score(self) -> float:
        """Mean log-probability per token."""
        ...

    @property
    def region(self) -> Region:
        """What it describes."""
        ...


Answer: TypeAlias = CaptionLike | Label


@dataclass(frozen=True)
class PhotoResult:
    """All captions, or all labels, of one photo.

    Attributes:
        name: of the photo.
        size: (width, height) in pixels.
        grid: (rows, columns) of patches.
        captions: one per region, in order.
        labels: the regions' names, None where they have none.
        texts: what labels were chosen from.
    """

    name: str
    size: tuple[int, int]
    grid: tuple[int, int]
    captions: Sequence[Answer]
    labels: Sequence[str | None]
    texts: Sequence[str] = ()


def write_line(text: str) -> None:
    """One line on standard output; what its encoding lacks becomes a question mark."""
    if sys.stderr.isatty() and sys.stdout.isatty():
        sys.stderr.write("\r\x1b[K")  # wipe the progress bar; it draws itself again
        sys.stderr.flush()
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def report_error(message: str) -> None:
    """One line on standard error, whatever line breaks the message has."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    sys.stderr.write(f"patchioner: error: {' '.join(message.split())}\n")
    sys.stderr.flush()


def as_text(result: PhotoResult) -> str:
    """The result for people: a line for the photo, one for each caption."""
    width, height = result.size
    lines = [f"{result.name} ({width} x {height})"]
    pairs = zip(result.captions, result.labels, strict=True)
    for number, (caption, label) in enumerate(pairs, start=1):
        name = f"{caption.region.describe()} [{label}]" if label else caption.region.describe()
        lines.append(f"  {number}. {name}: {caption.text or 'none of these'}{_certainty(caption)}")
    return "\n".join(lines)


def _certainty(answer: Answer) -> str:
    if isinstance(answer, Label):
        return f"  ({100 * answer.probability:.0f} %)"
    return "" if math.isnan(answer.score) else f"  ({answer.score:.2f})"


def as_patch_text(result: PhotoResult) -> str:
    """The result of `--patches` for people: what the map's legend says."""
    width, height = result.size
    rows, columns = result.grid
    lines = [f"{result.name} ({width} x {height}), {rows} x {columns} patches"]
    for cluster in cluster_captions([caption.text for caption in result.captions]):
        lines.append(f"  {100 * cluster.share:5.1f} %  {cluster.text or 'other'}")
    return "\n".join(lines)


def as_json(result: PhotoResult) -> str:
    """The result for programs, on one line; the regions are written as `--regions` reads them."""
    captions = [
        {
            "region": caption.region.to_json(),
            "label": label,
            "text": caption.text,
            **_numbers(caption, result.texts),
        }
        for caption, label in zip(result.captions, result.labels, strict=True)
    ]
    content = {"photo": result.name, "size": result.size, "grid": result.grid, "captions": captions}
    return json.dumps(content, allow_nan=False)


def _numbers(answer: Answer, texts: Sequence[str]) -> dict[str, Any]:
    if not isinstance(answer, Label):
        return {"score": None if math.isnan(answer.score) else round(answer.score, 6)}
    shares = zip(texts, answer.probabilities, strict=True)
    return {
        "probability": round(answer.probability, 6),
        "probabilities": {text: round(share, 6) for text, share in shares},
    }
