"""Encoded photos by their content, the least recently used of which give way."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from patchioner.backbones import PatchFeatures


def content_id(data: bytes) -> str:
    """What a file is called: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A photo as its file and its features."""

    id: str
    data: bytes
    features: PatchFeatures

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright photo."""
        return self.features.geometry.image_size

    @property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        image, parts = self.features.image, vars(self.features).values()
        pixels = 0 if image is None else 3 * image.width * image.height
        tensors = sum(one.nbytes for one in parts if isinstance(one, Tensor))
        return len(self.data) + pixels + tensors


class PhotoCache:
    """At most so many bytes of encoded photos, for one thread; `bytes` is what they take, the rest is counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, Encoded] = OrderedDict()
        self.bytes = self.hits = self.misses = self.evicted = 0

    def get(self, name: str) -> Encoded | None:
        """A photo that is held, which becomes the most recently used."""
        found = self._held.get(name)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._held.move_to_end(name)
        return found

    def put(self, photo: Encoded) -> None:
        """Hold a photo; others give way, and itself where it is larger than the limit."""
        if photo.id in self._held:  # two clients sent it at once
            return
        self._held[photo.id] = photo
        self.bytes += photo.bytes
        while self.bytes > self._limit:
            _, gone = self._held.popitem(last=False)
            self.bytes -= gone.bytes
            self.evicted += 1

    def __len__(self) -> int:
        return len(self._held)
