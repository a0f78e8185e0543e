"""The model as requests see it: photos are encoded once and kept; questions of many clients are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import PatchionerError
from patchioner.model import Patchioner
from patchioner.pipeline import Batching, attempt
from patchioner.regions import Region, Weighting
from patchioner.results import Explanation
from patchioner.serve.batcher import Batcher
from patchioner.serve.cache import Encoded, PhotoCache, content_id
from patchioner.serve.errors import RequestError
from patchioner.serve.metrics import Metrics
from patchioner.serve.reading import open_photo
from patchioner.serve.settings import ServeSettings

if TYPE_CHECKING:
    from patchioner.detail import DetailCaptioner, DetailedCaption

Found = Sequence[Region | PatchionerError]
_AT_ONCE = Batching(photos=10**6, regions=10**6, readers=0, overlap=False)
_DECODERS = 2  # threads that decode photos
_DECODED = 8  # photos that may be decoded and not yet encoded: they are large


@dataclass(frozen=True)
class Asked:
    """How captions are wanted; see `Patchioner.caption_many`."""

    options: DecodeOptions | None = None
    plain: bool = False
    min_confidence: float | None = None
    weighting: Weighting | None = None


class _Regions(NamedTuple):
    features: PatchFeatures
    regions: Sequence[Region]


class Engine:
    """A model, the photos that it has seen, and the queue in front of it; `active` are the requests under way."""

    def __init__(self, model: Patchioner, settings: ServeSettings, metrics: Metrics) -> None:
        self.model, self.settings, self._metrics = model, settings, metrics
        self.cache, self.active = PhotoCache(settings.cache_bytes), 0
        # Smaller batches than for a folder of photos: whoever asks next need not wait for long.
        most = Batching.on(model.device.type).regions // 4
        rows = {"most_rows": most, "limit": 32 * settings.queue}
        self.batcher = Batcher(self._answer, settings.workers, observe=metrics.batch, **rows)
        self._piece = max(1, most // 2)
        self._readers = ThreadPoolExecutor(_DECODERS, thread_name_prefix="patchioner-photos")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="patchioner-detail")
        self._describers: dict[str, DetailCaptioner] = {}
        self._room = asyncio.Semaphore(_DECODED)

    def close(self) -> None:
        """Finish what was asked, and stop."""
        self._readers.shutdown()
        self.batcher.close()
        self._writer.shutdown()

    async def photo(self, data: bytes) -> Encoded:
        """The photo in a file, encoded once while there is room for it; RequestError where it cannot be read."""
        name = content_id(data)
        known = self.cache.get(name)
        if known is not None:
            return known
        async with self._room:
            with self._metrics.stage("decode"):
                loop = asyncio.get_running_loop()
                image = await loop.run_in_executor(self._readers, open_photo, data, self.settings)
            features = await self.batcher.ask(("encode",), image)
        photo = Encoded(name, data, features)
        self.cache.put(photo)
        return photo

    def known(self, name: str) -> Encoded:
        """The photo of that id; RequestError where it is not there, or no more."""
        found = self.cache.get(name)
        if found is None:
            message = f"no image {name!r:.40} here (any more): upload it again"
            raise RequestError(404, "unknown_image", message)
        return found

    async def captions(self, photo: Encoded, regions: Found, asked: Asked) -> list[Any]:
        """A `Caption` for each region, or its error."""
        return await self._of_regions(("caption", asked), photo, regions)

    async def labels(
        self, photo: Encoded, regions: Found, names: Sequence[str], threshold: float | None
    ) -> list[Any]:
        """A `Label`, the likeliest of the names, for each region, or its error."""
        return await self._of_regions(("label", tuple(names), threshold), photo, regions)

    async def embeddings(self, photo: Encoded, regions: Found) -> list[Any]:
        """A tensor (dim,), float32, before the memory bank, for each region, or its error."""
        return await self._of_regions(("embed",), photo, regions)

    async def explain(self, photo: Encoded, region: Region, count: int) -> Explanation:
        """What a region's caption rests on."""
        found: Explanation = await self.batcher.ask(("explain", count), (photo.features, region))
        return found

    async def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, dim) float32 embeddings of texts."""
        found: Tensor = await self.batcher.ask(("text",), list(texts), len(texts))
        return found

    async def similarities(self, photo: Encoded, text: str) -> Tensor:
        """(rows, columns) float32 cosines of the patches with a text."""
        words = F.normalize(await self.texts([text]), dim=1)[0]
        tokens = F.normalize(photo.features.tokens.float(), dim=-1)
        return tokens @ words.to(tokens.device)

    async def detail(self, photo: Encoded, seed: int, preset: str) -> DetailedCaption:
        """A long description; one at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, self._describe, photo, seed, preset)

    def _describe(self, photo: Encoded, seed: int, preset: str) -> DetailedCaption:
        from patchioner.detail import DetailCaptioner, Photo

        with self._metrics.stage("detail"):
            image = open_photo(photo.data, self.settings)
            seen = Photo("photo", image, photo.id, photo.features)
            if preset not in self._describers:
                self._describers[preset] = DetailCaptioner(self.model, settings=preset)
            return self._describers[preset].describe(seen, seed=seed)

    async def _of_regions(self, key: Hashable, photo: Encoded, regions: Found) -> list[Any]:
        """Answers in the order of the regions, asked in pieces so that small questions are not kept waiting."""
        sound, size = [one for one in regions if isinstance(one, Region)], self._piece
        pieces = [sound[start : start + size] for start in range(0, len(sound), size)]
        seen = photo.features
        asked = [self.batcher.ask(key, _Regions(seen, some), len(some)) for some in pieces]
        answered = iter([one for some in await asyncio.gather(*asked) for one in some])
        return [next(answered) if isinstance(one, Region) else one for one in regions]

    def _answer(self, key: Any, asked: Sequence[Any]) -> Sequence[Any]:
        """One batch, in a thread of the queue."""
        verb, *how = key
        return list(getattr(self, f"_{verb}")(asked, *how))

    def _encode(self, images: Sequence[Any]) -> Sequence[Any]:
        return attempt(lambda some: self.model.encode(list(some)), images)

    def _caption(self, asked: Sequence[_Regions], how: Asked) -> list[Any]:
        items = [(one.features, one.regions) for one in asked]
        wanted: Any = {"on_error": "return", "batching": _AT_ONCE, **vars(how)}
        return _each(asked, self.model.caption_many(items, **wanted))

    def _label(
        self, asked: Sequence[_Regions], names: Sequence[str], threshold: float | None
    ) -> list[Any]:
        items = [(one.features, one.regions) for one in asked]
        wanted: Any = {"on_error": "return", "batching": _AT_ONCE, "threshold": threshold}
        return _each(asked, self.model.label_many(items, names, **wanted))

    def _embed(self, asked: Sequence[_Regions]) -> list[Any]:
        def embed(one: _Regions) -> list[Any]:
            return attempt(lambda some: self.model.embed_regions(one.features, some).unbind(), one.regions)  # fmt: skip

        return [embed(one) for one in asked]

    def _explain(self, asked: Sequence[Any], count: int) -> Sequence[Any]:
        return attempt(
            lambda some: [self.model.explain(seen, region, count) for seen, region in some], asked
        )

    def _text(self, asked: Sequence[list[str]]) -> Sequence[Any]:
        found = self.model.embed_text([text for texts in asked for text in texts])
        return list(found.split([len(texts) for texts in asked]))


def _each(asked: Sequence[_Regions], outcomes: Iterable[Any]) -> list[Any]:
    """An error of all regions of a photo becomes the own error of each."""

    def own(region: Region, seen: PatchFeatures, common: PatchionerError) -> PatchionerError:
        try:
            region.patch_weights(seen.geometry)
        except PatchionerError as error:
            return error
        return common

    return [
        [own(region, one.features, outcome) for region in one.regions]
        if isinstance(outcome, PatchionerError)
        else outcome
        for one, outcome in zip(asked, outcomes, strict=True)
    ]
