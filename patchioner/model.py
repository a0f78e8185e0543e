"""`Patchioner`: photo and regions in, captions out.

Knows: the public face and what each call promises. Does not know: how the parts do the work (`engine`), files' layouts
(`checkpoint`), names and downloads (`hub`), the command line. It holds no current image; one model may serve several
threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions
from memory_bank import MemoryBank, Precision
from patchioner.aggregate import Weighting, feature_weights
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError
from patchioner.base.weights import Storage
from patchioner.checkpoints.folder import read_checkpoint, write_checkpoint
from patchioner.checkpoints.hub import SHIPPED, find_model, upload
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import ModelSettings
from patchioner.devices import usable_device
from patchioner.engine import CaptionEngine, Item
from patchioner.images import ImageSource
from patchioner.labelling import check_labelling, choose_labels
from patchioner.pipeline import Batching
from patchioner.profiling import Profile, listen
from patchioner.regions import Region
from patchioner.requests import EmbeddedRegions
from patchioner.results import Caption, Explanation, Label


class Patchioner:
    """A zero-shot captioner of any part of a photo.

    Args:
        parts: backbone, decoder and, where there are, memory bank and text tower.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        dtype: precision of the networks, float32 if None. Half precisions may change captions; on a GPU they halve a
            float32 memory bank as well.
        reduce_jpegs: decode JPEG files that are much larger than the backbone's input at a half, a quarter or an
            eighth of their size: faster and in less memory, but not bit for bit the same pixels.

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
        reduce_jpegs: bool = False,
    ) -> None:
        self._parts = parts
        self.device = usable_device(device)
        precision = dtype or torch.float32
        parts.place(self.device, precision)
        self._bank = parts.bank_on(self.device, precision)
        if self._bank is not None:
            parts.decoder.remember(self._bank)
        self._engine = CaptionEngine(parts, self._bank, reduce_jpegs=reduce_jpegs)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = SHIPPED,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        bank: MemoryBank | str | Path | None = None,
        reduce_jpegs: bool = False,
    ) -> Self:
        """Load a checkpoint.

        Args:
            name: the shipped "patchioner-mini", a folder, a hub id ``owner/name``, or a YAML file. Folders, hub
                repositories and YAML files of the published Patch-ioner are read as well as our own (with more choice
                by `patchioner.checkpoints.published.read_published`, whose parts this class takes).
            device, dtype, reduce_jpegs: see the class.
            revision: branch, tag or commit of a hub repository.
            bank: a memory bank, or the folder of one, in place of the checkpoint's own; it must have been built with
                the same model's text tower. A checkpoint that had none sends its embeddings through it from then on.

        Raises:
            UnknownNameError, HubError: the name leads nowhere (see `patchioner.checkpoints.hub.find_model`).
            CheckpointError, MemoryBankError: a file is missing, corrupt, a pickle, or does not fit.
        """
        parts = read_checkpoint(find_model(str(name), revision=revision))
        if bank is not None:
            parts = parts.with_bank(bank if isinstance(bank, MemoryBank) else MemoryBank.load(bank))
        return cls(parts, device=device, dtype=dtype, reduce_jpegs=reduce_jpegs)

    @property
    def settings(self) -> ModelSettings:
        """The checkpoint's defaults."""
        return self._parts.settings

    @property
    def parts(self) -> Parts:
        """Backbone, decoder, bank, tower: for training and conversion."""
        return self._parts

    @overload
    def encode(self, images: ImageSource, *, keep_image: bool | None = None) -> PatchFeatures: ...
    @overload
    def encode(
        self, images: list[ImageSource], *, keep_image: bool | None = None
    ) -> list[PatchFeatures]: ...
    def encode(
        self, images: ImageSource | list[ImageSource], *, keep_image: bool | None = None
    ) -> PatchFeatures | list[PatchFeatures]:
        """Run the backbone once per image.

        Args:
            images: a path, Pillow image, numpy array, tensor (see `load_image`), or a list of them.
            keep_image: whether the features hold on to the photo, from which regions can then be cut out; None is
                what the checkpoint needs.

        Returns:
            `PatchFeatures`, or a list of them for a list.

        Raises:
            ImageError: an image cannot be read.
        """
        cut = Batching.on(self.device.type)
        if isinstance(images, list):
            return list(self._engine.encode_stream(images, keep_image, cut))
        return self._engine.encode([self._engine.read(images, keep_image)], keep_image)[0]

    def embed_regions(
        self,
        features: PatchFeatures,
        regions: Sequence[Region],
        weighting: Weighting | None = None,
        *,
        crop: bool | None = None,
    ) -> Tensor:
        """Pool regions into embeddings, before the memory bank.

        Args:
            features: of `encode`.
            regions: n regions; one matrix product pools them all.
            weighting: the checkpoint's default if None.
            crop: cut each region out and encode it alone (`ModelSettings.crop`), the checkpoint's default if None;
                needs features that hold their photo.

        Returns:
            (n, dim) float32 in the space of `embed_text`. Where the checkpoint's settings have a context, unit pooled
            tokens plus that share of the unit CLS token; else the pooled tokens.

        Raises:
            RegionError: a region is empty or off the image, or the list is empty.
            OptionError: a crop is asked for of features without their photo, or attention or a CLS token of a
                backbone that has none.
        """
        return self._engine.embed(features, regions, weighting, crop)

    def caption(
        self,
        image: ImageSource | PatchFeatures,
        regions: Sequence[Region] | None = None,
        *,
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
        crop: bool | None = None,
    ) -> list[Caption]:
        """Caption regions of one photo.

        Args:
            image: features of `encode`, or anything `encode` takes.
            regions: what to caption; None is the whole image.
            weighting, options, crop: the checkpoint's defaults if None; see `embed_regions`.

        Returns:
            One `Caption` per region, in their order.

        Raises:
            ImageError, RegionError: see `encode` and `embed_regions`.
        """
        return self.caption_many(
            [(image, regions)],
            weighting=weighting,
            options=options,
            crop=crop,
            batching=Batching.alone(),
        )[0]

    def caption_many(
        self,
        items: Iterable[Item],
        *,
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
        crop: bool | None = None,
        batching: Batching | None = None,
    ) -> list[list[Caption]]:
        """Caption regions of many photos; `caption_stream` for when they are too many to hold all captions.

        Args:
            items: (image or features, regions or None) pairs.
            weighting, options, crop: the checkpoint's defaults if None; see `embed_regions`.
            batching: see `caption_stream`.

        Returns:
            Per item, one `Caption` per region. A caption does not depend on what else is in the batch.
        """
        return list(
            self.caption_stream(
                items, weighting=weighting, options=options, crop=crop, batching=batching
            )
        )

    def caption_stream(
        self,
        items: Iterable[Item],
        *,
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
        crop: bool | None = None,
        batching: Batching | None = None,
    ) -> Iterator[list[Caption]]:
        """Caption regions of any number of photos, giving those of each photo as they are done, in order.

        Photos are read ahead, encoded in groups, and the regions of many go through bank and decoder as one matrix
        while the next photos are encoded. Queues are bounded: memory does not grow with the number of photos.

        Args:
            items: (image or features, regions or None) pairs; may be endless.
            weighting, options, crop: as `caption_many`.
            batching: how the work is cut up; None is what suits the device. Captions do not depend on it.

        Raises:
            ImageError, RegionError: see `encode` and `embed_regions`; after the captions of the photos before.

        Example:
            >>> for captions in model.caption_stream((path, None) for path in paths):  # doctest: +SKIP
            ...     print(captions[0].text)
        """
        cut = batching or Batching.on(self.device.type)
        engine = self._engine
        return engine.run(items, lambda rows: engine.caption(rows, options), weighting, crop, cut)

    def profile(
        self,
        items: Iterable[Item],
        *,
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
        crop: bool | None = None,
        batching: Batching | None = None,
    ) -> Profile:
        """Caption as `caption_many` does, and say where the time went instead of what the captions are.

        Example:
            >>> print(model.profile([("photo.jpg", None)]).table())  # doctest: +SKIP
        """
        gpu = str(self.device) if self.device.type == "cuda" else None
        with listen(gpu=gpu) as profiles:
            stream = self.caption_stream(
                items, weighting=weighting, options=options, crop=crop, batching=batching
            )
            for _ in stream:
                pass
        return profiles[0]

    def bridge(self, embeddings: Tensor) -> Tensor:
        """Pull (n, dim) region embeddings over the gap between images and text, as the checkpoint says."""
        return self._engine.bridge(embeddings)

    def label(
        self,
        image: ImageSource | PatchFeatures,
        regions: Sequence[Region] | None,
        texts: Sequence[str],
        *,
        weighting: Weighting | None = None,
        temperature: float = 0.01,
        crop: bool | None = None,
    ) -> list[Label]:
        """Choose, for each region of a photo, among given texts: open-vocabulary labelling.

        Args:
            image: features of `encode`, or anything `encode` takes.
            regions: what to label; None is the whole image.
            texts: what to choose from, e.g. class names as "a photo of a dog".
            temperature: of the softmax over the cosines.
            weighting, crop: the checkpoint's defaults if None; see `embed_regions`.

        Returns:
            One `Label` per region, in their order. Of equally likely texts the first is taken.

        Raises:
            OptionError: the checkpoint has no text tower, or the temperature is not a positive number.
            TextError: no text, or a blank one.

        Example:
            >>> model.label(features, [Box(10, 20, 200, 220)], ["a cat", "a bus"])[0].text  # doctest: +SKIP
            'a cat'
        """
        return self.label_many(
            [(image, regions)],
            texts,
            weighting=weighting,
            temperature=temperature,
            crop=crop,
            batching=Batching.alone(),
        )[0]

    def label_many(
        self,
        items: Iterable[Item],
        texts: Sequence[str],
        *,
        weighting: Weighting | None = None,
        temperature: float = 0.01,
        crop: bool | None = None,
        batching: Batching | None = None,
    ) -> list[list[Label]]:
        """`label` for many photos; the texts are embedded once.

        Args:
            items: (image or features, regions or None) pairs; only one photo's patch tokens are held at a time.
            texts, weighting, temperature, crop: as `label`.
            batching: see `caption_stream`.

        Returns:
            Per item, one `Label` per region.
        """
        check_labelling(texts, temperature)
        names = F.normalize(self.embed_text(texts), dim=1).to(self.device)
        cut = batching or Batching.on(self.device.type)

        def answer(rows: Sequence[EmbeddedRegions]) -> list[Label]:
            return choose_labels(rows, names, texts, temperature)

        return list(self._engine.run(items, answer, weighting, crop, cut))

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
        weighting, _ = self.settings.for_region(region)
        weights = feature_weights(features, [region], weighting)[0]
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

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        storage: Storage = "fp16",
        bank_storage: Precision = "float16",
    ) -> None:
        """Write the checkpoint to a folder that `from_pretrained` reads; precisions of networks and bank on disk."""
        write_checkpoint(self._parts, Path(folder), storage=storage, bank_storage=bank_storage)

    def push_to_hub(self, name: str, *, storage: Storage = "fp16") -> None:
        """Save and upload to the hub repository ``owner/name`` (needs a login and a connection)."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, storage=storage)
            upload(Path(folder), name)
