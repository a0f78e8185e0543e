"""`Patchioner`: photo and regions in, captions out. It holds no current image; one model may serve several threads."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar, get_args, overload

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import patchioner.pipeline as pipeline  # a name of the package would be looked for first
from decoders import DecodeOptions
from memory_bank import MemoryBank, Precision
from patchioner.backbones import Encodable, PatchFeatures
from patchioner.base.errors import ImageError, OptionError, PatchionerError, RegionError, TextError, check_texts
from patchioner.base.files import check
from patchioner.base.weights import Storage, usable_device, usable_dtype
from patchioner.checkpoints import upload
from patchioner.checkpoints.folder import (
    CROPS,
    SHIPPED,
    Crop,
    ModelSettings,
    Parts,
    Style,
    find_model,
    read_checkpoint,
    write_checkpoint,
)
from patchioner.embedding import embed_crops, embed_pooled, shares
from patchioner.geometry import ImageGeometry
from patchioner.guidance import KEY, captions, check_least
from patchioner.images import Doubt, ImageSource, load_image, load_reduced, why_doubted
from patchioner.pipeline import Answers, Batching, Embedded, OnError, Steps
from patchioner.regions import Region, Weighting, WholeImage, feature_weights
from patchioner.regions.base import listed
from patchioner.results import Caption, Explanation, Label

Answer = TypeVar("Answer")
Regions: TypeAlias = "Sequence[Region] | Callable[[ImageGeometry], Sequence[Region]] | None"
"""What to look at; a function takes the photo's geometry, as `Patch.all` does; None is the whole image."""
Item: TypeAlias = "tuple[ImageSource | PatchFeatures, Regions]"


class _Read(NamedTuple):
    seen: Encodable  # a photo as the backbone takes it
    image: Image.Image | None  # the photo, where its features are to hold it
    doubt: Doubt | None  # why captions of it would be invented


class Patchioner:
    """A zero-shot captioner of any part of a photo.

    Args:
        parts: backbone, decoder and, where there are, memory bank and text tower; never changed.
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
        dtype: torch.dtype | str | None = None,
        reduce_jpegs: bool = False,
    ) -> None:
        self.parts = parts
        self.device = usable_device(device)
        self.dtype = usable_dtype(dtype)
        self._reduce_jpegs = reduce_jpegs
        self._placed = parts.to(self.device, self.dtype)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = SHIPPED,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        bank: MemoryBank | str | Path | None = None,
        reduce_jpegs: bool = False,
    ) -> Self:
        """Load a checkpoint.

        Args:
            name: the shipped "patchioner-mini", a folder, a hub id ``owner/name``, or a YAML file; of the published
                Patch-ioner as well as ours (with more choice by `patchioner.checkpoints.published.read_published`).
            device, dtype, reduce_jpegs: see the class.
            revision: branch, tag or commit of a hub repository.
            bank: a memory bank, or the folder of one, in place of the checkpoint's own; it must have been built with
                the same model's text tower. A checkpoint that had none sends its embeddings through it from then on.

        Raises:
            OptionError: no such device.
            UnknownNameError, HubError: the name leads nowhere (see `patchioner.checkpoints.folder.find_model`).
            CheckpointError, MemoryBankError: a file is missing, corrupt, a pickle, or does not fit; the bank's texts
                tell that it is another model's.
        """
        chosen = usable_device(device)  # what is cheap to refuse comes first
        if bank is not None and not isinstance(bank, MemoryBank):
            bank = MemoryBank.load(bank)
        parts = read_checkpoint(find_model(str(name), revision=revision))
        if bank is not None:
            parts.check_bank(bank)
            parts = parts.with_bank(bank)
        return cls(parts, device=chosen, dtype=dtype, reduce_jpegs=reduce_jpegs)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """The same model on another device or in another precision; this one stays as it is.

        Example:
            >>> half = model.to("cuda", torch.bfloat16)  # doctest: +SKIP
        """
        make, given = self.__reduce__()
        return make(*given, device=device or self.device, dtype=dtype or self.dtype)  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(type(self), device=self.device, dtype=self.dtype, reduce_jpegs=self._reduce_jpegs)
        return make, (self.parts,)

    def __repr__(self) -> str:
        parts, kind = self.parts, type(self).__name__
        bank = f"memory bank of {len(parts.bank):,} rows" if parts.bank else "no memory bank"
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{kind}({self.settings.name!r}: {type(parts.backbone).__name__}, {bank}, "
            f"{type(parts.decoder).__name__}, width {parts.backbone.dim}; on {self.device} in {dtype})"
        )

    @property
    def settings(self) -> ModelSettings:
        """The checkpoint's defaults."""
        return self.parts.settings

    @overload
    def encode(self, images: ImageSource, *, keep_image: bool | None = None) -> PatchFeatures: ...
    @overload
    def encode(self, images: list[ImageSource], *, keep_image: bool | None = None) -> list[PatchFeatures]: ...
    def encode(
        self, images: ImageSource | list[ImageSource], *, keep_image: bool | None = None
    ) -> PatchFeatures | list[PatchFeatures]:
        """Run the backbone once per image.

        Args:
            images: a path, Pillow image, numpy array, tensor (see `load_image`), or a list of them.
            keep_image: whether the features hold on to the photo, from which regions can then be cut out; None is
                what the checkpoint needs.

        Raises:
            ImageError: an image cannot be read.
        """
        keep = bool(self.settings.crop) if keep_image is None else keep_image
        if not isinstance(images, list):
            return self._encode([self._read(images, keep)])[0]
        cut = Batching.on(self.device.type)
        photos = pipeline.map_ahead(partial(self._read, keep_image=keep), images, workers=cut.readers, ahead=cut.ahead)
        groups = pipeline.chunks(photos, lambda group: len(group) == cut.photos)
        return [features for group in groups for features in self._encode(group)]

    @torch.inference_mode()
    def embed_regions(
        self,
        features: PatchFeatures,
        regions: Sequence[Region],
        weighting: Weighting | None = None,
        *,
        crop: Crop | None = None,
    ) -> Tensor:
        """Pool regions into embeddings, before the memory bank.

        Args:
            features: of `encode`.
            regions: n regions; one matrix product pools them all.
            weighting: the checkpoint's default if None.
            crop: cut each region out and encode it alone (`ModelSettings.crop`), or "add" that to what is pooled: a
                pass of the backbone per region; the checkpoint's default if None. It needs features that hold their
                photo.

        Returns:
            (n, dim) float32 in the space of `embed_text`. Where the checkpoint's settings have a context, unit pooled
            tokens plus that share of the unit CLS token; else the pooled tokens.

        Raises:
            RegionError: a region is empty or off the image, or the list is empty.
            OptionError: an unknown crop, or one of features without their photo; attention or a CLS token of a
                backbone that has none.
        """
        regions = listed(regions)
        if not regions:
            raise RegionError("the list of regions is empty: give at least one")
        crop = self.settings.crop if crop is None else crop
        check(CROPS, crop=crop)
        if not crop:
            return embed_pooled(features, regions, self.settings, weighting)
        return embed_crops(self._placed.backbone, features, regions, self.settings, weighting, add=crop == "add")

    def caption(
        self,
        image: ImageSource | PatchFeatures,
        regions: Regions = None,
        *,
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
        crop: Crop | None = None,
        plain: bool = False,
        gendered: bool = False,
        style: Style = "auto",
        min_confidence: float | None = None,
    ) -> list[Caption]:
        """Caption regions of one photo.

        Args:
            image: features of `encode`, or anything `encode` takes.
            regions: what to caption; None is the whole image. A function is given the photo's geometry, as `Patch.all`.
            weighting, options, crop: the checkpoint's defaults if None; see `embed_regions`.
            plain, gendered, style, min_confidence: see `caption_many`.

        Returns:
            One `Caption` per region, in their order. Errors are those of `encode` and `embed_regions`.
        """
        how: Any = {"weighting": weighting, "crop": crop, "plain": plain, "gendered": gendered, "style": style}
        how |= {"min_confidence": min_confidence, "batching": Batching.alone()}
        return next(self.caption_many([(image, regions)], options=options, **how))

    def caption_many(
        self,
        items: Iterable[Item],
        *,
        on_error: OnError = "raise",
        weighting: Weighting | None = None,
        options: DecodeOptions | None = None,
        crop: Crop | None = None,
        plain: bool = False,
        gendered: bool = False,
        style: Style = "auto",
        min_confidence: float | None = None,
        batching: Batching | None = None,
    ) -> Iterator[list[Caption]]:
        """Caption regions of any number of photos, giving those of each photo as they are done, in order.

        Photos are read ahead, encoded in groups, and the regions of many go through bank and decoder as one matrix
        while the next photos are encoded. Queues are bounded: memory does not grow with the number of photos.

        Args:
            items: (image or features, regions or None) pairs; may be endless. Where they have a length, so has the
                iterator.
            on_error: what a photo or region that fails - unreadable, off the photo, too large for the memory - does.
                "raise" raises its error when its turn comes. "skip" leaves it out, with a warning in the log. "return"
                gives the `PatchionerError` in place of the photo's list, or of the region's caption in it.
            weighting, options, crop: the checkpoint's defaults if None; see `embed_regions`.
            plain: the likeliest captions, whether or not the checkpoint's settings keep captions to their regions (see
                `patchioner.guidance`); samples always are.
            gendered: captions that are kept to their regions may say men and women, not persons alone.
            style: "phrase" names what a region shows ("a cup of coffee"), a "sentence" tells of it; "auto" is the
                checkpoint's, by the kind of region.
            min_confidence: captions below this `confidence` have no text but a reason; None lets all pass but those of
                photos that show nothing (drawings, screenshots and pages of text have a confidence of 0). It needs a
                calibrated checkpoint (`patchioner calibrate`).
            batching: how the work is cut up; None is what suits the device. Captions do not depend on it.

        Example:
            >>> for captions in model.caption_many((path, None) for path in paths):  # doctest: +SKIP
            ...     print(captions[0].text)
        """
        check_least(self.settings, min_confidence)
        decode = options or self.settings.decode
        if not isinstance(decode, DecodeOptions):
            raise OptionError(f"options {options!r:.80}: give DecodeOptions(max_tokens=20), say")
        check(get_args(Style), style=style)
        kept = self.settings.guides or self.settings.candidates or self.settings.phrases
        likeliest = plain or decode.strategy == "sample" or not kept
        crop = self.settings.crop if crop is None else crop
        how: Any = {"plain": likeliest, "gendered": gendered, "crops": crop == "add", "style": style}
        answer = partial(captions, options=options, parts=self._placed, least=min_confidence or 0.0, **how)
        whole = not likeliest or style == "phrase" or KEY in self.settings.calibration
        return self._run(items, answer, on_error, weighting, crop, batching, whole=whole)

    caption_stream = caption_many

    def label(
        self,
        image: ImageSource | PatchFeatures,
        regions: Regions,
        texts: Sequence[str],
        *,
        threshold: float | None = None,
        weighting: Weighting | None = None,
        temperature: float = 0.01,
        crop: Crop | None = None,
    ) -> list[Label]:
        """Choose, for each region of a photo, among given texts: open-vocabulary labelling.

        Args:
            image: features of `encode`, or anything `encode` takes.
            regions: what to label; None is the whole image.
            texts: two or more to choose from, e.g. class names as "a photo of a dog".
            threshold: least `probability` of a label; below it none of the texts is taken (`Label.text` is None). None
                is the checkpoint's own where its labels are calibrated, else none.
            temperature: of the softmax over the cosines.
            weighting, crop: the checkpoint's defaults if None; see `embed_regions`.

        Raises:
            OptionError: the checkpoint has no text tower, or a number outside its range.
            TextError: fewer than two texts, or a blank one.

        Example:
            >>> model.label(features, [Box(10, 20, 200, 220)], ["a cat", "a bus"])[0].text  # doctest: +SKIP
            'a cat'
        """
        how: Any = {"threshold": threshold, "weighting": weighting, "temperature": temperature, "crop": crop}
        return next(self.label_many([(image, regions)], texts, batching=Batching.alone(), **how))

    def label_many(
        self,
        items: Iterable[Item],
        texts: Sequence[str],
        *,
        on_error: OnError = "raise",
        threshold: float | None = None,
        weighting: Weighting | None = None,
        temperature: float = 0.01,
        crop: Crop | None = None,
        batching: Batching | None = None,
    ) -> Iterator[list[Label]]:
        """`label` for many photos, as `caption_many`; the texts are embedded once."""
        check("(0, inf)", temperature=temperature)
        check("[0, 1] or None", threshold=threshold)
        texts = check_texts(texts)
        if len(texts) < 2:
            raise TextError(f"{texts!r} is no choice: give two texts or more")
        names = F.normalize(self.embed_text(texts), dim=1).to(self.device)
        logistic = self.settings.calibration.get("label", {})
        least = logistic.get("threshold", 0.0) if threshold is None else threshold
        choose = partial(_choose, names, texts, temperature, logistic, least)
        return self._run(items, lambda batch: list(map(choose, batch)), on_error, weighting, crop, batching)

    def embed_many(self, items: Iterable[Item], *, on_error: OnError = "raise") -> Iterator[list[Tensor]]:
        """`embed_regions` for many photos, as `caption_many`: (dim,) float32 of each region."""
        return self._run(items, lambda batch: [list(rows.embeddings.cpu()) for rows in batch], on_error)

    @torch.inference_mode()
    def explain(self, features: PatchFeatures, region: Region, k: int = 5) -> Explanation:
        """Show what a region's caption rests on: nearest memory texts and patch weights; OptionError without texts."""
        bank = self._placed.bank
        if bank is None or bank.texts is None:
            raise OptionError(f"{self.settings.name!r} has no memory texts: build a bank that keeps them")
        found = bank.nearest(self.embed_regions(features, [region]), k)
        assert found.texts is not None, "a bank with texts gives texts"
        weighting, _ = self.settings.for_region(region)
        weights = feature_weights(features, [region], weighting)[0]
        return Explanation(tuple(found.texts[0]), tuple(found.similarities[0].tolist()), weights)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (n, dim) float32 in the space of the region embeddings; compare by cosine.

        OptionError: the checkpoint has no text tower; TextError: a text is blank.
        """
        if self._placed.text_tower is None:
            raise OptionError(f"{self.settings.name!r} has no text tower, so it cannot embed text")
        return self._placed.text_tower.encode(texts)

    def save_pretrained(
        self, folder: str | Path, *, storage: Storage = "fp16", bank_storage: Precision = "float16"
    ) -> None:
        """Write the checkpoint to a folder that `from_pretrained` reads; precisions of networks and bank on disk."""
        write_checkpoint(self.parts, Path(folder), storage=storage, bank_storage=bank_storage)

    def push_to_hub(self, name: str, *, storage: Storage = "fp16") -> None:
        """Save and upload to the hub repository ``owner/name`` (needs a login)."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, storage=storage)
            upload(Path(folder), name)

    def _run(
        self,
        items: Iterable[Item],
        answer: Callable[[Sequence[Embedded]], Sequence[Sequence[Answer]]],
        on_error: OnError,
        weighting: Weighting | None = None,
        crop: Crop | None = None,
        batching: Batching | None = None,
        *,
        whole: bool = False,
    ) -> Iterator[list[Answer]]:
        """The one way of every photo: see `pipeline.run`."""
        check(get_args(OnError), on_error=on_error)
        if isinstance(items, Sequence):  # a wrong container is told at the call
            for item in items:
                _pair(item)
        elif not isinstance(items, Iterable):
            raise OptionError(f"{items!r:.80} is no list of (photo, regions) pairs")
        if weighting is not None and not isinstance(weighting, Weighting):
            raise OptionError(f"weighting {weighting!r:.80}: give Weighting('gaussian'), say")
        keep = bool(self.settings.crop if crop is None else crop)

        def read(item: Item) -> tuple[_Read | PatchFeatures, Regions]:
            photo, regions = _pair(item)
            return photo if isinstance(photo, PatchFeatures) else self._read(photo, keep), regions

        def encode(group: Sequence[tuple[_Read | PatchFeatures, Regions]]) -> list[tuple[PatchFeatures, Regions]]:
            photos = [photo for photo, _ in group if not isinstance(photo, PatchFeatures)]
            found = iter(self._encode(photos) if photos else ())
            return [(photo if isinstance(photo, PatchFeatures) else next(found), regions) for photo, regions in group]

        def embed(seen: tuple[PatchFeatures, Regions]) -> Embedded:
            features, rows = seen[0], self._embed(*seen, weighting, crop)
            if not whole:
                return rows
            photo = self.embed_regions(features, [WholeImage()], weighting, crop=False)[0]
            return replace(rows, shares=shares(rows.regions, features.geometry), whole=photo, doubt=features.doubt)

        steps = Steps(read, encode, embed, answer)
        outcomes = pipeline.run(items, steps, batching or Batching.on(self.device.type, items))
        return Answers(pipeline.delivered(outcomes, on_error), items)

    def _read(self, source: ImageSource, keep_image: bool) -> _Read:
        """A photo as the backbone takes it, by any thread; whole where the features are to hold it."""
        backbone = self._placed.backbone
        reduce = self._reduce_jpegs and not keep_image
        photo = load_reduced(source, backbone.needed_size) if reduce else load_image(source)
        shown = photo if isinstance(photo, Image.Image) else photo.image
        doubt = why_doubted(shown) if KEY in self.settings.calibration else None
        return _Read(backbone.prepare(photo), shown if keep_image else None, doubt)

    def _encode(self, photos: Sequence[_Read]) -> list[PatchFeatures]:
        found = self._placed.backbone.encode([photo.seen for photo in photos])
        return [replace(one, image=photo.image, doubt=photo.doubt) for one, photo in zip(found, photos, strict=True)]

    def _embed(
        self, features: PatchFeatures, asked: Regions, weighting: Weighting | None, crop: Crop | None
    ) -> Embedded:
        """Embeddings of the regions that can be used, and the errors of the others."""
        if features.dim != (dim := self.parts.backbone.dim):
            raise OptionError(f"features have width {features.dim}, not {dim}: encode with {self.settings.name!r}")
        asked = asked(features.geometry) if callable(asked) else asked
        regions = [WholeImage()] if asked is None else listed(asked)
        if not regions:  # a photo in which nothing was found
            return Embedded([], features.tokens.new_empty((0, dim)).float(), {})
        rows = pipeline.attempt(lambda some: self.embed_regions(features, some, weighting, crop=crop).unbind(), regions)
        errors = {place: row for place, row in enumerate(rows) if isinstance(row, PatchionerError)}
        if len(errors) == len(rows):
            raise errors[0]
        sound = [region for place, region in enumerate(regions) if place not in errors]
        embeddings = torch.stack([row for row in rows if not isinstance(row, PatchionerError)])
        return Embedded(sound, embeddings, errors)


def _pair(item: Any) -> Item:
    """An item as (photo, regions); ImageError for a photo alone, or a list of photos with their regions."""
    if not isinstance(item, tuple | list) or len(item) != 2 or isinstance(item[0], list):
        raise ImageError(f"{item!r:.80} is no (photo, regions) pair; None is the whole image")
    photo, regions = item
    return photo, regions


@torch.inference_mode()
def _choose(
    names: Tensor, texts: Sequence[str], temperature: float, logistic: Mapping[str, float], least: float, rows: Embedded
) -> list[Label]:
    """The likeliest of the texts for each region; a calibration is a logistic function of the best cosine."""
    cosines = F.normalize(rows.embeddings, dim=1) @ names.T
    shares = (cosines / temperature).softmax(dim=1)
    if not bool(shares.isfinite().all()):
        raise RegionError("a region's embedding is not finite: the features are damaged")
    labels = []
    for region, near, share in zip(rows.regions, cosines.tolist(), shares.tolist(), strict=True):
        sure = max(share)
        text = texts[share.index(sure)]
        if logistic:
            sure = 1 / (1 + math.exp(-logistic["slope"] * max(near) - logistic["offset"]))
        labels.append(Label(text if sure >= least else None, sure, tuple(near), tuple(share), region))
    return labels
