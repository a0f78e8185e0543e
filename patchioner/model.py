"""`Patchioner`: photo and regions in, captions out.

Knows: how backbone, aggregator, memory bank and decoder work together. Does not know: files' layouts (`checkpoint`),
names and downloads (`hub`), the command line. It holds no current image; one model may serve several threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Self, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions
from patchioner.aggregate import Weighting, pool_regions, region_weights
from patchioner.backbones import PatchFeatures
from patchioner.checkpoint import Parts, read_checkpoint, write_checkpoint
from patchioner.hub import SHIPPED, find_model, upload
from patchioner.images import ImageSource, load_image
from patchioner.regions import Region, WholeImage
from patchioner.results import Caption, Explanation
from patchioner.settings import ModelSettings
from patchioner_base.errors import ImageError, OptionError, RegionError
from patchioner_base.weights import Storage


class Patchioner:
    """A zero-shot captioner of any part of a photo.

    Args:
        parts: backbone, decoder and, where there are, memory bank and text tower.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        dtype: precision of the networks, float32 if None. Half precisions may change captions.

    Example:
        >>> model = Patchioner.from_pretrained("patchioner-mini")
        >>> features = model.encode("photo.jpg")  # doctest: +SKIP
        >>> model.caption(features, [Box(10, 20, 200, 220)])[0].text  # doctest: +SKIP
        'a cat sitting on a chair'
    """

    def __init__(
        self,
        parts: Parts,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._parts = parts
        self.device = _device(device)
        precision = dtype or torch.float32
        parts.backbone.vit.to(self.device, precision)
        parts.backbone.head.to(self.device)
        parts.decoder.to(self.device, precision)
        if parts.text_tower is not None:
            parts.text_tower.to(self.device, precision)
        self._bank = None if parts.bank is None else parts.bank.to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = SHIPPED,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load a checkpoint.

        Args:
            name: the shipped "patchioner-mini", a folder, or a hub id ``owner/name``.
            device, dtype: see the class.
            revision: branch, tag or commit of a hub repository.

        Raises:
            UnknownNameError, HubError: the name leads nowhere (see `patchioner.hub.find_model`).
            CheckpointError, MemoryBankError: a file is missing, corrupt, a pickle, or does not fit.
        """
        return cls(
            read_checkpoint(find_model(str(name), revision=revision)), device=device, dtype=dtype
        )

    @property
    def settings(self) -> ModelSettings:
        """The checkpoint's defaults."""
        return self._parts.settings

    @property
    def parts(self) -> Parts:
        """Backbone, decoder, bank, tower: for training and conversion."""
        return self._parts

    @overload
    def encode(self, images: ImageSource) -> PatchFeatures: ...
    @overload
    def encode(self, images: list[ImageSource]) -> list[PatchFeatures]: ...
    def encode(
        self, images: ImageSource | list[ImageSource]
    ) -> PatchFeatures | list[PatchFeatures]:
        """Run the backbone once per image.

        Args:
            images: a path, Pillow image, numpy array, tensor (see `load_image`), or a list of them.

        Returns:
            `PatchFeatures`, or a list of them for a list.

        Raises:
            ImageError: an image cannot be read.
        """
        if isinstance(images, list):
            return [self.encode(image) for image in images]
        return self._parts.backbone.encode([load_image(images)])[0]

    @torch.inference_mode()
    def embed_regions(
        self, features: PatchFeatures, regions: Sequence[Region], weighting: Weighting | None = None
    ) -> Tensor:
        """Pool regions into embeddings, before the memory bank.

        Args:
            features: of `encode`.
            regions: n regions; one matrix product pools them all.
            weighting: the checkpoint's default if None.

        Returns:
            (n, dim) float32 in the space of `embed_text`. With a context in the checkpoint's settings, unit pooled
            tokens plus that share of the unit CLS token; else the pooled tokens.

        Raises:
            RegionError: a region is empty or off the image, or the list is empty.
        """
        if not regions:
            raise RegionError(
                "the list of regions is empty: give at least one, or none at all for the whole image"
            )
        pooled = pool_regions(features, regions, weighting or self.settings.weighting)
        if features.cls is None or self.settings.context == 0:
            return pooled
        context = self.settings.context * F.normalize(features.cls, dim=0)
        return F.normalize(pooled, dim=1) + context

    def caption(
        self,
        image: ImageSource | PatchFeatures,
        regions: Sequence[Region] | None = None,
        *,
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
    ) -> list[Caption]:
        """Caption regions of one photo.

        Args:
            image: features of `encode`, or anything `encode` takes.
            regions: what to caption; None is the whole image.
            weighting, options: the checkpoint's defaults if None.

        Returns:
            One `Caption` per region, in their order.

        Raises:
            ImageError, RegionError: see `encode` and `embed_regions`.
        """
        return self.caption_many([(image, regions)], weighting=weighting, options=options)[0]

    @torch.inference_mode()
    def caption_many(
        self,
        items: Iterable[tuple[ImageSource | PatchFeatures, Sequence[Region] | None]],
        *,
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
    ) -> list[list[Caption]]:
        """Caption regions of many photos: all embeddings go through bank and decoder as one matrix.

        Args:
            items: (image or features, regions or None) pairs; only one photo's patch tokens are held at a time.
            weighting, options: the checkpoint's defaults if None.

        Returns:
            Per item, one `Caption` per region. A caption does not depend on what else is in the batch.
        """
        asked: list[Sequence[Region]] = []
        embeddings: list[Tensor] = []
        for image, regions in items:
            features = self._features(image)
            asked.append([WholeImage()] if regions is None else regions)
            embeddings.append(self.embed_regions(features, asked[-1], weighting))
        if not embeddings:
            return []
        decoded = self._parts.decoder.generate(
            self.bridge(torch.cat(embeddings)), options or self.settings.decode
        )
        captions = [
            Caption(answer.text, answer.score, region)
            for answer, region in zip(
                decoded, (region for regions in asked for region in regions), strict=True
            )
        ]
        bounds = [0, *accumulate(len(regions) for regions in asked)]
        return [captions[start:end] for start, end in pairwise(bounds)]

    def _features(self, image: ImageSource | PatchFeatures) -> PatchFeatures:
        if isinstance(image, list):
            raise ImageError(
                f"expected one photo, got a list of {len(image)}: give caption_many (photo, regions) pairs"
            )
        return image if isinstance(image, PatchFeatures) else self.encode(image)

    def bridge(self, embeddings: Tensor) -> Tensor:
        """Pull (n, dim) region embeddings over the gap between images and text, as the checkpoint says."""
        if self.settings.bridge == "none" or self._bank is None:
            return F.normalize(embeddings, dim=1)
        return self._bank.project(embeddings, temperature=self.settings.temperature)

    @torch.inference_mode()
    def explain(self, features: PatchFeatures, region: Region, k: int = 5) -> Explanation:
        """Show what a region's caption rests on: nearest memory texts and patch weights.

        Raises:
            OptionError: the checkpoint has no memory bank, or one without texts.
        """
        if self._bank is None or self._bank.texts is None:
            raise OptionError(
                f"{self.settings.name!r} has no memory texts to explain with: build a bank that keeps them"
            )
        found = self._bank.nearest(self.embed_regions(features, [region]), k)
        assert found.texts is not None, "a bank with texts gives texts"
        weights = region_weights(
            [region], features.geometry, self.settings.weighting, features.attention
        )[0]
        return Explanation(tuple(found.texts[0]), tuple(found.similarities[0].tolist()), weights)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (n, dim) float32 in the space of the region embeddings; compare by cosine.

        Raises:
            OptionError: the checkpoint has no text tower.
            TextError: a text is blank.
        """
        if self._parts.text_tower is None:
            raise OptionError(f"{self.settings.name!r} has no text tower, so it cannot embed text")
        return self._parts.text_tower.encode(list(texts) if not isinstance(texts, str) else texts)

    def save_pretrained(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write the checkpoint to a folder that `from_pretrained` reads."""
        write_checkpoint(self._parts, Path(folder), storage=storage)

    def push_to_hub(self, name: str, *, storage: Storage = "fp16") -> None:
        """Save and upload to the hub repository ``owner/name`` (needs a login and a connection)."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, storage=storage)
            upload(Path(folder), name)


def _device(wanted: str | torch.device | None) -> torch.device:
    """The device to work on, tried out: torch names a bad one only when it is used."""
    chosen = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"device {str(chosen)!r} cannot be used here ({reason}): try 'cpu'"
        ) from error
