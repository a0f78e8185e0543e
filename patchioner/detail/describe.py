"""Photo and regions -> statements: by our own captioner, or by a vision-language model of other people."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from patchioner.base.errors import (
    DetailError,
    FutileError,
    OptionError,
    PatchionerError,
    UnknownNameError,
)
from patchioner.detail.cache import Answer, CallCache, Question, mask_digest
from patchioner.detail.client import ChatClient, EmptyAnswerError, data_url
from patchioner.detail.values import DetailRegion, Photo, Rectangle, Statement, check
from patchioner.images import cut_out
from patchioner.regions import Box, Mask, Region

if TYPE_CHECKING:
    from decoders import DecodeOptions
    from patchioner.detail.local import LocalModel
    from patchioner.model import Patchioner
    from patchioner.results import Caption

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnSettings:
    """How our captioner is asked: its caption is one short sentence, so that several of a region must come from several
    sub-regions.

    Attributes:
        samples: captions of a region, 1 or more.
        jitter: how far a sub-region is moved, as a share of its region's width and height; 0 asks about the region
            itself every time.
        scales: sizes of sub-regions, taken in turn; above 1 shows an object in its surroundings.
        sampled: "alternate": every second further sample is drawn from the decoder, the others are decoded as the
            checkpoint does; "all": every sample is drawn, as published for language models; "none".
        temperature, top_p: of what is drawn.
    """

    samples: int = 5
    jitter: float = 0.1
    scales: tuple[float, ...] = (0.8, 1.25, 0.6, 1.0)
    sampled: Literal["alternate", "all", "none"] = "alternate"
    temperature: float = 0.3
    top_p: float = 0.9

    def __post_init__(self) -> None:
        check(self, samples=(1, 1000), jitter=(0, 0.49), sampled=("alternate", "all", "none"))
        check(self, temperature=(1e-6, 100), top_p=(1e-6, 1))
        if not self.scales or not all(0.05 <= scale <= 4 for scale in self.scales):
            raise OptionError(f"scales {self.scales} must hold numbers from 0.05 to 4")


class PatchionerDescriber:
    """Describe regions with our own captioner (a `Describer`).

    Sample 0 is the caption that `Patchioner.caption` gives of the region. The others are of sub-regions, moved and
    scaled at random about it, or drawn from the decoder. All go through it as two batches: what is decoded as the
    checkpoint does, and what is drawn. Nothing is encoded again.
    """

    def __init__(self, model: Patchioner, settings: OwnSettings | None = None) -> None:
        self._model, self._settings = model, settings or OwnSettings()

    @property
    def settings(self) -> dict[str, object]:
        """Those of `OwnSettings`, and the model's name."""
        name = self._model.settings.name
        return {"describer": "patchioner", "model": name, **asdict(self._settings)}

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All captions of all regions, ordered by region, then sample.

        A text depends on the photo, its region, the sample's number and the seed; not on the other regions.
        """
        features = self._model.encode(photo.image) if photo.features is None else photo.features
        visible = features.geometry.visible
        asked: dict[tuple[int, int], Region] = {}
        batches: dict[DecodeOptions | None, list[tuple[int, int]]] = {}
        for place, region in enumerate(regions):
            for sample in range(self._settings.samples):
                asked[place, sample] = self._sub_region(photo, region, sample, seed, visible)
                batches.setdefault(self._decoding(sample, seed), []).append((place, sample))
        captions: dict[tuple[int, int], Caption] = {}
        for options, keys in batches.items():
            found = self._model.caption(features, [asked[key] for key in keys], options=options)
            captions.update(zip(keys, found, strict=True))
        return [
            Statement(regions[key[0]].id, key[1], captions[key].text, captions[key].score)
            for key in asked
        ]

    def _decoding(self, sample: int, seed: int) -> DecodeOptions | None:
        settings = self._settings
        alternate = settings.sampled == "alternate" and sample > 0 and sample % 2 == 0
        if settings.sampled != "all" and not alternate:
            return None
        # A draw depends on seed and embedding: the same region twice needs a seed of its own.
        return replace(
            self._model.settings.decode,
            strategy="sample",
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed + (sample if settings.jitter == 0 else 0),
        )

    def _sub_region(
        self, photo: Photo, region: DetailRegion, sample: int, seed: int, visible: Rectangle
    ) -> Region:
        settings = self._settings
        if sample == 0 or settings.jitter == 0:
            return region.region
        scale = settings.scales[(sample - 1) % len(settings.scales)]
        names = (zlib.crc32(name.encode()) for name in (photo.sha256, region.id))
        source = np.random.default_rng([seed, sample, *names])
        moved = source.uniform(-settings.jitter, settings.jitter, 2)
        return sub_region(region, scale, (float(moved[0]), float(moved[1])), visible)


def sub_region(
    region: DetailRegion, scale: float, moved: tuple[float, float], visible: Rectangle
) -> Region:
    """A part of a region, or the region in its surroundings, within what the model sees of the photo.

    Its box is scaled about its centre and moved by shares of its width and height. Of a mask, its pixels in that box
    where the scale is at most 1, so that a part of an object does not take in what is around it. The region
    itself where nothing would be left.
    """
    left, top, right, bottom = region.box
    width, height = right - left, bottom - top
    x, y = (left + right) / 2 + moved[0] * width, (top + bottom) / 2 + moved[1] * height
    x1, x2 = max(x - scale * width / 2, visible[0]), min(x + scale * width / 2, visible[2])
    y1, y2 = max(y - scale * height / 2, visible[1]), min(y + scale * height / 2, visible[3])
    if x2 <= x1 or y2 <= y1:
        return region.region
    if region.mask is None or scale > 1:
        return Box(x1, y1, x2, y2)
    part = np.zeros_like(region.mask)
    rows, columns = slice(round(y1), round(y2)), slice(round(x1), round(x2))
    part[rows, columns] = region.mask[rows, columns]
    return Mask(part) if part.any() else region.region


ViewKind = Literal["crop", "context", "marked"]
_LEAST = 32  # pixels: what vision encoders can be given at all
_SLIMMEST = 10.0  # aspect ratio: several refuse, or squash, what is longer
# Change a text and its version goes up: answers to the old one are other answers.
_RULES = (
    " Use plain, complete sentences, and let each one state something that is visible. Do not guess, do not speak of "
    "moods, and begin directly with the description."
)
PROMPTS: Final = {
    "detail": (
        "detail/1",
        "Describe what can be seen in this picture, for somebody who has to draw it without seeing it. Say which "
        "people, animals and things there are and how many, what colour and material they have, what they do, and "
        "where each of them is. Quote any writing that you can read." + _RULES,
    ),
    "marked": (
        "marked/2",
        "A red frame marks one part of this picture. Describe what is inside the frame, and nothing outside of it: "
        "which people, animals and things there are and how many, what colour and material they have, and what they "
        "do. Do not mention the frame." + _RULES,
    ),
}


@dataclass(frozen=True)
class View:
    """How a region is shown.

    Attributes:
        kind: "crop" is the box alone; "context" the box with a margin; "marked" the whole photo with a red frame around
            the box. The global region is the whole photo, without a frame, for all three.
        margin: of "context": share of the box's width and height that is added on every side.
        max_side: pixels of the longer side; larger pictures are brought down, smaller ones are left.
    """

    kind: ViewKind = "crop"
    margin: float = 0.25
    max_side: int = 1024

    def __post_init__(self) -> None:
        check(self, kind=get_args(ViewKind), margin=(0, 100), max_side=(_LEAST, 100_000))

    def as_json(self) -> dict[str, object]:
        """The values that decide what is seen, with no others: a margin that is not used tells nothing apart."""
        used: dict[str, object] = {"kind": self.kind, "max_side": self.max_side}
        return {**used, "margin": float(self.margin)} if self.kind == "context" else used

    def of(self, image: Image.Image, region: DetailRegion) -> Image.Image:
        """The picture to show: a new one, RGB, no side under 32 pixels, no aspect ratio over 10 where that can be."""
        if region.kind == "global":
            return _fitted(image.convert("RGB"), self.max_side)
        if self.kind == "marked":
            return _marked(image, region.box, self.max_side)
        (left, right), (top, bottom) = _spans(region.box, image.size)
        margin = self.margin if self.kind == "context" else 0.0
        width, height = (right - left) * (1 + 2 * margin), (bottom - top) * (1 + 2 * margin)
        left, right = _widened(left, right, max(width, _LEAST, height / _SLIMMEST), image.width)
        top, bottom = _widened(top, bottom, max(height, _LEAST, width / _SLIMMEST), image.height)
        return _fitted(cut_out(image, (left, top, right, bottom)).convert("RGB"), self.max_side)


def _spans(box: Rectangle, size: tuple[int, int]) -> list[tuple[float, float]]:
    """(left, right) and (top, bottom), at least a pixel each, within the photo."""
    found = []
    for low, high, extent in zip(box[:2], box[2:], size, strict=True):
        low = min(max(low, 0.0), extent - 1.0)
        found.append((low, min(max(high, low + 1.0), float(extent))))
    return found


def _widened(low: float, high: float, length: float, extent: int) -> tuple[float, float]:
    """A stretch of that length around the old one's middle, cut at the photo's edges."""
    if length <= high - low:
        return low, high
    middle, half = (low + high) / 2, length / 2
    return max(0.0, middle - half), min(float(extent), middle + half)


def _fitted(picture: Image.Image, max_side: int) -> Image.Image:
    if max(picture.size) > max_side:
        picture = picture.copy()
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    least = max(_LEAST, math.ceil(max(picture.size) / _SLIMMEST))
    if min(picture.size) >= least:
        return picture
    size = (max(picture.width, least), max(picture.height, least))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _marked(image: Image.Image, box: Rectangle, max_side: int) -> Image.Image:
    picture = _fitted(image.convert("RGB"), max_side)
    picture = picture.copy() if picture is image else picture
    across, down = picture.width / image.width, picture.height / image.height
    (left, right), (top, bottom) = _spans(box, image.size)
    line = max(2, round(max(picture.size) / 200))
    draw = ImageDraw.Draw(picture)
    # Around the box, not over its contents; a white edge shows the red on red as well.
    for colour, grown, width in (("white", line + 1, line + 2), ("red", line, line)):
        x1, y1 = max(0.0, left * across - grown), max(0.0, top * down - grown)
        x2 = max(x1, min(picture.width - 1.0, right * across - 1 + grown))
        y2 = max(y1, min(picture.height - 1.0, bottom * down - 1 + grown))
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)
    return picture


@dataclass(frozen=True)
class VisionSettings:
    """How a vision-language model is asked; numbers of samples and temperatures are those of Patch Matters.

    Attributes:
        samples, temperature: of every region but the global one.
        global_samples, global_temperature: of the global one.
        top_p: share of the probability that is sampled from; 1 for all.
        max_tokens: longest answer.
        view: how a region is shown.
        prompt: key of `PROMPTS`; None: "marked" for a marked region, "detail" otherwise.
    """

    samples: int = 3
    temperature: float = 0.7
    global_samples: int = 1
    global_temperature: float = 0.2
    top_p: float = 1.0
    max_tokens: int = 512
    view: View = View()
    prompt: str | None = None

    def __post_init__(self) -> None:
        check(self, samples=(1, 1000), global_samples=(1, 1000), max_tokens=(1, 10**6))
        check(self, temperature=(0, 10), global_temperature=(0, 10), top_p=(1e-6, 1))
        if self.prompt is not None and self.prompt not in PROMPTS:
            raise UnknownNameError.among("prompt", self.prompt, PROMPTS)

    def questions(
        self, photo: Photo, region: DetailRegion, *, model: str, seed: int, **more: object
    ) -> list[Question]:
        """One per sample. Regions are told apart by what is seen of them, not by their ids."""
        whole = region.kind == "global"
        marked = self.view.kind == "marked" and not whole
        label, words = PROMPTS[self.prompt or ("marked" if marked else "detail")]
        temperature = self.global_temperature if whole else self.temperature
        sampling = {"top_p": float(self.top_p), "max_tokens": self.max_tokens, **more}
        one = Question(
            "describe",
            model,
            words,
            prompt=label,
            sampling={"temperature": float(temperature), **sampling},
            seed=seed,
            photo=photo.sha256,
            box=region.box,
            mask=mask_digest(region.mask),
            view={**self.view.as_json(), "whole": whole},
        )
        samples = range(self.global_samples if whole else self.samples)
        return [replace(one, sample=sample) for sample in samples]


class VisionDescriber:
    """Describe regions with a vision-language model of other people (a `Describer`). Threads may share it.

    What has been answered is in the cache at once, so that a run that is stopped goes on where it was.

    Args:
        model: a `ChatClient`, which is asked for the samples of a region in one request where it takes `n`, and for
            regions side by side; or a `LocalModel` that sees, for which regions and samples are one batch.
        settings: how it is asked.
        cache: where answers are kept; None keeps nothing.
    """

    def __init__(
        self,
        model: ChatClient | LocalModel,
        settings: VisionSettings | None = None,
        *,
        cache: CallCache | None = None,
    ) -> None:
        self.model, self._settings, self._cache = model, settings or VisionSettings(), cache

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers that decide what is said, ready for JSON; no secrets."""
        own = self.model.settings
        vision = {**vars(self._settings), "view": self._settings.view.as_json()}
        return {"describer": own["text_model"], **own, **vision}

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample; single failures are left out, with a warning.

        Raises:
            DetailError: a region without any answer; `FutileError` where no other photo would fare better: a spent
                budget, a refused key, no such model.
        """
        more = {} if isinstance(self.model, ChatClient) else {"dtype": self.model.dtype}
        asked = {
            region.id: self._settings.questions(photo, region, model=self.model.identity, seed=seed, **more)
            for region in regions
        }  # fmt: skip
        found: dict[str, Answer | PatchionerError] = {}
        missing: list[tuple[DetailRegion, list[Question]]] = []
        for region in regions:
            unknown = []
            for question in asked[region.id]:
                known = None if self._cache is None else self._cache.get(question)
                if known is not None:
                    found[question.key] = known
                elif question.key not in {one.key for _, several in missing for one in several}:
                    unknown.append(question)
            missing += [(region, unknown)] if unknown else []

        def take(question: Question, answer: Answer | PatchionerError) -> None:
            if self._cache is not None and isinstance(answer, Answer):
                self._cache.put(question, answer)
            found[question.key] = answer

        if isinstance(self.model, ChatClient):
            client = self.model
            for outcome in client.map(lambda one: self._ask(client, photo, *one, take), missing):
                if isinstance(outcome, DetailError):
                    raise outcome
        elif missing:
            rows = [(one, region) for region, questions in missing for one in questions]
            pictures = [_shown(self._settings.view, photo, region) for _, region in rows]
            answers = self.model.write([question for question, _ in rows], pictures)
            # As they come: what was written before a break is kept.
            for (question, _), answer in zip(rows, answers, strict=True):
                take(question, answer)
        return [
            statement
            for region in regions
            for statement in _statements(photo, region, asked[region.id], found)
        ]

    def _ask(
        self,
        client: ChatClient,
        photo: Photo,
        region: DetailRegion,
        questions: list[Question],
        take: Callable[[Question, Answer | PatchionerError], None],
    ) -> None:
        """Ask for what nobody else has asked meanwhile; one request may answer several questions."""
        if self._cache is None:
            self._ask_all(client, photo, region, questions, take)
            return
        with self._cache.asking(questions, pause=client.pauses()) as since:
            for question in questions:
                if question.key in since:
                    take(question, since[question.key])
            left = [question for question in questions if question.key not in since]
            self._ask_all(client, photo, region, left, take)

    def _ask_all(
        self,
        client: ChatClient,
        photo: Photo,
        region: DetailRegion,
        questions: list[Question],
        take: Callable[[Question, Answer | PatchionerError], None],
    ) -> None:
        view, settings = self._settings.view, self._settings
        left = list(questions)
        picture = data_url(view.of(photo.image, region), max_side=view.max_side) if left else None
        while left:
            whole = region.kind == "global"
            try:
                texts = client.complete(
                    "",
                    left[0].user,
                    temperature=settings.global_temperature if whole else settings.temperature,
                    max_tokens=settings.max_tokens,
                    top_p=settings.top_p,
                    seed=left[0].own_seed,
                    picture=picture,
                    n=len(left),
                )
            except FutileError:
                raise
            except EmptyAnswerError as error:
                take(left.pop(0), error)
            except DetailError as error:
                # It was tried as often as may be; the other samples would only take as long again.
                while left:
                    take(left.pop(0), error)
            else:
                for text in texts:
                    take(left.pop(0), Answer(text))


def _shown(view: View, photo: Photo, region: DetailRegion) -> Callable[[], Image.Image]:
    return lambda: view.of(photo.image, region)


def _statements(
    photo: Photo,
    region: DetailRegion,
    questions: Sequence[Question],
    found: dict[str, Answer | PatchionerError],
) -> list[Statement]:
    answers = [found[question.key] for question in questions]
    given = [
        Statement(region.id, question.sample, answer.text, answer.log_prob)
        for question, answer in zip(questions, answers, strict=True)
        if isinstance(answer, Answer)
    ]
    failed = [answer for answer in answers if isinstance(answer, PatchionerError)]
    if failed and not given:
        raise DetailError(f"{photo.name}, region {region.id!r}: no description; {failed[0]}")
    if failed:
        _LOG.warning(
            "%s, region %r: %d samples failed; %s", photo.name, region.id, len(failed), failed[0]
        )
    return given
