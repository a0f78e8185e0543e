"""How fast a batch could be at best: the backbone alone, on photos that are read already."""

from __future__ import annotations

import time
from itertools import islice

from patchioner.base.errors import PatchionerError
from patchioner.batch.sources import Reading, open_source
from patchioner.images import load_image


def backbone_rate(
    source: str, reading: Reading, model: str, device: str | None = None, photos: int = 32
) -> float:
    """Photos per second that the backbone encodes, of the first ones of a source that can be read."""
    from patchioner.model import Patchioner

    loaded = Patchioner.from_pretrained(model, device=device)
    opened, images = open_source(source, reading), []
    for sample in islice(opened.samples(opened.keys()), photos):
        try:
            images.append(load_image(sample.image))
        except PatchionerError:
            continue
    loaded.encode(images[:1])  # what is done once
    started = time.perf_counter()
    loaded.encode(images)
    return len(images) / (time.perf_counter() - started)
