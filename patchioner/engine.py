"""The work behind `Patchioner`: groups of photos to features, regions to embeddings, embeddings to captions.

Knows: how backbone, aggregator, memory bank and decoder follow one another, and the settings that say how. Does not
know: checkpoints, names of models, the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions
from memory_bank import MemoryBank
from patchioner.aggregate import Weighting
from patchioner.backbones import Encodable, PatchFeatures
from patchioner.base.errors import RegionError
from patchioner.checkpoints.parts import Parts
from patchioner.images import ImageSource, load_image
from patchioner.pipeline import Batching, Steps, chunks, map_ahead, run
from patchioner.profiling import measure
from patchioner.reduced_photos import load_reduced
from patchioner.region_embedding import embed_crops, embed_pooled
from patchioner.regions import Region
from patchioner.requests import EmbeddedRegions, Request, open_request
from patchioner.results import Caption

Answer = TypeVar("Answer")
Item: TypeAlias = "tuple[ImageSource | PatchFeatures, Sequence[Region] | None]"


class CaptionEngine:
    """The parts of a captioner at work; it holds no photo, so threads may share it.

    Args:
        parts: on their device.
        bank: the memory bank on that device, or None.
        reduce_jpegs: decode JPEGs much larger than needed at a reduced scale.
    """

    def __init__(
        self, parts: Parts, bank: MemoryBank | None, *, reduce_jpegs: bool = False
    ) -> None:
        self._parts = parts
        self._bank = bank
        self._reduce_jpegs = reduce_jpegs

    def read(self, source: ImageSource, keep_image: bool | None) -> Encodable:
        """A photo as the backbone takes it, by any thread; whole where the features are to hold it."""
        backbone = self._parts.backbone
        with measure("read"):
            if self._keeps(keep_image):
                return load_image(source)
            if not self._reduce_jpegs:
                return backbone.prepare(load_image(source))
            return backbone.prepare(load_reduced(source, backbone.needed_size))

    def _keeps(self, keep_image: bool | None) -> bool:
        return self._parts.settings.crop if keep_image is None else keep_image

    def encode(self, photos: Sequence[Encodable], keep_image: bool | None) -> list[PatchFeatures]:
        """Features of a group of photos, holding them if `keep_image`, or if None and the settings cut regions out."""
        with measure("backbone", len(photos)):
            found = self._parts.backbone.encode(photos)
        if not self._keeps(keep_image):
            return found
        return [
            replace(one, image=photo) if isinstance(photo, Image.Image) else one
            for one, photo in zip(found, photos, strict=True)
        ]

    def encode_stream(
        self, sources: Iterable[ImageSource], keep_image: bool | None, cut: Batching
    ) -> Iterator[PatchFeatures]:
        """Features of any number of photos, which are read ahead and encoded in groups."""
        photos = map_ahead(
            lambda source: self.read(source, keep_image),
            sources,
            workers=cut.readers,
            ahead=cut.ahead,
        )
        for group in chunks(photos, lambda group: len(group) == cut.photos):
            yield from self.encode(group, keep_image)

    @torch.inference_mode()
    def embed(
        self,
        features: PatchFeatures,
        regions: Sequence[Region],
        weighting: Weighting | None,
        crop: bool | None,
    ) -> Tensor:
        """See `Patchioner.embed_regions`."""
        if isinstance(regions, Region):
            raise RegionError(f"give a list of regions, as in [{regions!r:.80}]")
        if not regions:
            raise RegionError(
                "the list of regions is empty: give at least one, or none at all for the whole image"
            )
        parts = self._parts
        with measure("regions", len(regions)):
            if parts.settings.crop if crop is None else crop:
                return embed_crops(parts.backbone, features, regions, parts.settings, weighting)
            return embed_pooled(features, regions, parts.settings, weighting)

    @torch.inference_mode()
    def bridge(self, embeddings: Tensor) -> Tensor:
        """See `Patchioner.bridge`."""
        settings = self._parts.settings
        if settings.projection == "raw":
            return embeddings
        if settings.projection == "none" or self._bank is None:
            return F.normalize(embeddings, dim=1)
        with measure("memory bank", len(embeddings)):
            return self._bank.project(
                embeddings,
                temperature=settings.temperature,
                normalize=settings.normalize,
                top_k=settings.top_k,
            )

    @torch.inference_mode()
    def caption(
        self, embedded: Sequence[EmbeddedRegions], options: DecodeOptions | None
    ) -> list[Caption]:
        """One caption per region of these photos, all through bank and decoder as one matrix."""
        regions = [region for one in embedded for region in one.regions]
        bridged = self.bridge(torch.cat([one.rows for one in embedded]))
        with measure("decoder", len(regions)):
            decoded = self._parts.decoder.generate(bridged, options or self._parts.settings.decode)
        return [
            Caption(answer.text, answer.score, region)
            for answer, region in zip(decoded, regions, strict=True)
        ]

    def run(
        self,
        items: Iterable[Item],
        answer: Callable[[Sequence[EmbeddedRegions]], list[Answer]],
        weighting: Weighting | None,
        crop: bool | None,
        cut: Batching,
    ) -> Iterator[list[Answer]]:
        """Read, encode and embed many photos, and `answer` their regions in shared batches; see `pipeline.run`."""

        def embed(group: Sequence[Request]) -> list[EmbeddedRegions]:
            return self._embed_group(group, weighting, crop)

        def read(item: Item) -> Request:
            return open_request(item, lambda source: self.read(source, crop))

        return run(items, Steps(read, embed, answer), cut, length=len)

    def _embed_group(
        self, group: Sequence[Request], weighting: Weighting | None, crop: bool | None
    ) -> list[EmbeddedRegions]:
        photos = [one.photo for one in group if not isinstance(one.photo, PatchFeatures)]
        encoded = iter(self.encode(photos, crop) if photos else ())
        found = []
        for asked in group:
            features = asked.photo
            if not isinstance(features, PatchFeatures):
                features = next(encoded)
            rows = self.embed(features, asked.regions, weighting, crop)
            found.append(EmbeddedRegions(asked.regions, rows))
        return found
