"""Scores by CLIP: how well a caption fits the photo with its region drawn in, and its references.

Knows: how a region is drawn for it, and the names of the scores. Does NOT know: the formulas (`benchmarks.metrics`).

As published for regional tasks, the image is the photo with the boxes or the trace drawn on it in red; the published
line width is not known, ours is a hundredth of the photo's longer side. Nothing is cached, so nothing can be stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.metrics import (
    MetricResult,
    Provenance,
    best_reference_cosine,
    clip_s,
    pac_s,
    with_references,
)
from benchmarks.metrics.clip_space import ClipSpace
from benchmarks.metrics.text_cosine import PROMPT
from benchmarks.runner.predictions import Prediction
from patchioner.base.errors import OptionError
from patchioner.images import load_image

RED = (255, 0, 0)
_AT_ONCE = 32


def load_space(given: str, device: str) -> ClipSpace:
    """The space of "ARCHITECTURE=FILE", as the command line names it.

    Raises:
        OptionError: it is not of that form.
        MissingExtraError, UnknownNameError, CheckpointError: see `ClipSpace.load`.

    Example:
        >>> load_space("ViT-B-32-quickgelu=ViT-B-32.pt", "cpu")  # doctest: +SKIP
    """
    architecture, equals, path = given.partition("=")
    if not (architecture and equals and path):
        raise OptionError(f"{given!r} is no ARCHITECTURE=FILE, such as ViT-B-32-quickgelu=B32.pt")
    return ClipSpace.load(architecture, path, device=device)


def image_text_scores(
    said: Sequence[Prediction], images: Path, space: ClipSpace, *, kind: str, source: str
) -> dict[str, MetricResult]:
    """Three scores in one space.

    Args:
        said: predictions with captions.
        images: folder of the photos.
        space: embeds texts and images.
        kind: "clip" or "pac", which sets the weight and the names.
        source: what to call the space in `made`.

    Returns:
        For "clip": "clip_s", "ref_clip_s" and "clip_text_cosine"; for "pac" the same with "pac". The text cosine is
        what the published tables call "P" or RefPAC-S (there in the space of the PAC-S checkpoint).

    Example:
        >>> image_text_scores(said, Path("photos"), space, kind="clip", source="B/32")  # doctest: +SKIP
    """
    captions = [prediction.caption or "" for prediction in said]
    pictures: list[Any] = []
    for start in range(0, len(said), _AT_ONCE):
        group = said[start : start + _AT_ONCE]
        drawn = [draw_region(load_image(images / p.photo), p.region) for p in group]
        pictures.append(space.embed_images(drawn))
    texts = space.embed_text([PROMPT + caption for caption in captions])
    score = clip_s if kind == "clip" else pac_s
    mean, scores = score(np.concatenate(pictures), texts)
    references = [prediction.references for prediction in said]
    text_mean, cosines = best_reference_cosine(captions, references, space.embed_text)
    both_mean, both = with_references(scores, cosines)
    made = Provenance(f"open_clip {source}", note="image: the photo with its region drawn in red")
    found = {
        f"{kind}_s": (mean, scores),
        f"ref_{kind}_s": (both_mean, both),
        f"{kind}_text_cosine": (text_mean, cosines),
    }
    return {
        name: MetricResult(name, value, tuple(values.tolist()), made)
        for name, (value, values) in found.items()
    }


def draw_region(image: Image.Image, region: Mapping[str, Any]) -> Image.Image:
    """A copy of the photo with a region (as JSON) drawn in red; a whole photo stays as it is.

    Example:
        >>> draw_region(Image.new("RGB", (40, 20)), {"box": [5, 5, 30, 15]}).getpixel((5, 10))
        (255, 0, 0)
    """
    drawn = image.copy()
    pencil = ImageDraw.Draw(drawn)
    width = max(1, round(max(image.size) / 100))
    for member in region.get("set", [region]):
        if "box" in member:
            pencil.rectangle(member["box"], outline=RED, width=width)
        if "trace" in member:
            pencil.line(_pixels(member, image.size), fill=RED, width=width, joint="curve")
    return drawn


def _pixels(trace: Mapping[str, Any], size: tuple[int, int]) -> list[tuple[float, float]]:
    scale = size if trace.get("normalized") else (1, 1)
    points = [(x * scale[0], y * scale[1]) for x, y in trace["trace"]]
    return points if len(points) > 1 else points * 2  # a line needs two ends
