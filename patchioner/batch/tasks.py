"""What is asked about each picture of a batch job, and the columns and rows that come of the answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from patchioner.base.errors import OptionError, PatchionerError, RegionError, UnknownNameError
from patchioner.base.optional import require
from patchioner.batch.rows import Row, failed
from patchioner.batch.sources import Lazy, Sample, as_json
from patchioner.regions import NamedRegion, Region, WholeImage
from patchioner.regions.items import Item, box_of

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry
    from patchioner.images import ImageSource
    from patchioner.model import Patchioner

TASKS = ("caption", "label", "embed", "detail", "alt")
Question: TypeAlias = "tuple[ImageSource, Callable[[ImageGeometry], list[Region]]]"


@dataclass(frozen=True)
class Task:
    """What is asked; OptionError for no such task, or texts for another than "label"."""

    kind: str = "caption"  # or label (among texts), embed, and of whole photos detail and alt
    texts: tuple[str, ...] = ()  # to choose among
    how: Mapping[str, Any] = field(default_factory=dict)  # what `caption_many` takes besides

    def __post_init__(self) -> None:
        if self.kind not in TASKS:
            raise OptionError(str(UnknownNameError.among("task", self.kind, TASKS)))
        if (self.kind == "label") != bool(self.texts):
            raise OptionError(f"task {self.kind!r}, texts {self.texts!r:.60}: they are for 'label', which needs them")
        if self.how and self.kind in ("embed", "detail"):
            raise OptionError(f"the task {self.kind!r} takes no {', '.join(self.how)}: omit it")

    @property
    def whole(self) -> bool:
        """Whether it asks about whole photos, whatever regions there are."""
        return self.kind in ("detail", "alt")

    def identity(self) -> dict[str, Any]:
        """JSON values that decide its answers."""
        how = {key: value for key, value in self.how.items() if value is not None}
        return {"task": self.kind, "texts": list(self.texts), "how": json.loads(json.dumps(how, default=asdict))}

    def answers(self, model: Patchioner, items: Iterable[Question]) -> Any:
        """A closable iterator: of each photo, in order, an answer or error per region, or the error that cost all."""
        if self.kind == "label":
            return model.label_many(items, self.texts, **{"on_error": "return", **self.how})
        if self.kind == "embed":
            return model.embed_many(items, on_error="return")
        if self.kind == "detail":
            return _described(model, items)
        return model.caption_many(items, **{"on_error": "return", **self.how})

    def columns(self, answer: Any) -> dict[str, Any]:
        """An answer as columns of its row."""
        if self.kind == "embed":
            return {"embedding": tuple(answer.tolist())}
        if self.kind == "detail":
            return {"text": answer.text or None, "reason": answer.reason}
        if self.kind == "label":
            best = round(max(answer.cosines), 6)
            return {"text": answer.text, "score": best, "confidence": round(answer.probability, 6)}
        from patchioner.results import alt_text

        score = None if math.isnan(answer.score) else round(answer.score, 6)
        sure = None if answer.confidence is None else round(answer.confidence, 6)
        text = alt_text(answer) if self.kind == "alt" else answer.text
        return {"text": text, "score": score, "confidence": sure, "reason": answer.reason}


def _described(model: Patchioner, items: Iterable[Question]) -> Iterator[Any]:
    """Paragraphs, photo by photo; a failure costs its photo alone."""
    from patchioner.detail import DetailCaptioner, open_photo

    captioner = DetailCaptioner(model)
    for source, regions in items:
        try:
            photo = open_photo(source, model)
            assert photo.features is not None, "the model has encoded it"
            asked = len(regions(photo.features.geometry))  # one for each photo that is this picture
            yield [captioner.describe(photo)] * asked
        except PatchionerError as error:
            yield error


def group_by_content(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Photos of one file or the same bytes together, in the order of the first; only equal sizes are compared."""
    files: dict[object, list[Sample]] = {}
    for place, one in enumerate(samples):
        image = one.image.name if isinstance(one.image, Lazy) else one.image
        files.setdefault(image if isinstance(image, str) else place, []).append(one)
    sizes = Counter(same[0].size for same in files.values())
    groups: dict[object, list[Sample]] = {}
    for place, same in enumerate(files.values()):
        size = same[0].size
        known = _digest(same[0]) if size is not None and sizes[size] > 1 else None
        groups.setdefault(place if known is None else known, []).extend(same)
    return list(groups.values())


def _digest(sample: Sample) -> str | None:
    """Sha256 of a photo's bytes; None where there are none, which the pipeline reports."""
    with suppress(PatchionerError, OSError):
        data = Path(sample.image).read_bytes() if isinstance(sample.image, str) else sample.image
        data = data.read() if isinstance(data, Lazy) else data
        return hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else None
    return None


class Asked:
    """A picture with the photos that are it; `whole` asks about whole photos, whatever regions there are."""

    def __init__(self, samples: Sequence[Sample], *, whole: bool) -> None:
        self.samples, self.image, self.error = samples, samples[0].image, samples[0].error
        self._whole = whole
        self.is_empty = not whole and not any(map(_known, samples))  # files of regions have them, without any
        self._geometry: ImageGeometry | None = None
        self._entries: list[Sequence[NamedRegion | PatchionerError]] = []

    def regions(self, geometry: ImageGeometry) -> list[Region]:
        """What to ask about, once the picture's size is known; entries that are no regions are noted."""
        self._geometry = geometry
        self._entries = [self._of(sample, geometry.image_size) for sample in self.samples]
        named = (one for entries in self._entries for one in entries)
        return [one.region for one in named if isinstance(one, NamedRegion)]

    def _of(self, sample: Sample, size: tuple[int, int]) -> Sequence[NamedRegion | PatchionerError]:
        if self._whole or sample.regions is None:
            return [NamedRegion(WholeImage())]
        try:
            return sample.regions.entries(size, sample.called)
        except PatchionerError as error:
            return [error] * len(_known(sample))

    def rows(self, outcome: Any, columns: Callable[[Any], Mapping[str, Any]]) -> Iterator[Row]:
        """A row for each region, of its answer (as `columns`) or error, or of the error that cost them all."""
        lost = outcome if isinstance(outcome, PatchionerError) else None
        answers = iter(() if lost else outcome)
        width, height = self._geometry.image_size if self._geometry else (None, None)
        for place, sample in enumerate(self.samples):
            known = [{}] if self._whole else _known(sample)
            entries = self._entries[place] if self._entries else [lost] * len(known)
            for answer, about in zip(entries, known, strict=True):
                if isinstance(answer, NamedRegion):
                    about = about | self._place(answer.region)
                    answer = lost or next(answers)
                said = failed(answer) if isinstance(answer, PatchionerError) else columns(answer)
                yield Row(sample.photo, **about, **said, width=width, height=height, origin=sample.origin)

    def _place(self, region: Region) -> dict[str, Any]:
        """Kind and bbox; no bbox where the model sees nothing of it."""
        assert self._geometry is not None, "its size was known"
        corners = None
        with suppress(RegionError):
            corners = tuple(round(float(edge), 3) for edge in region.bounds(self._geometry))
        return {"kind": region.kind, "bbox": corners}


def _known(sample: Sample) -> list[dict[str, Any]]:
    """What is known of each region before the photo is read; one entry where nothing is known of any."""
    with suppress(PatchionerError):
        if sample.regions is not None and sample.error is None:
            return [_about(item, sample.source) for item in sample.regions.items(sample.called)]
    return [{"source": as_json(sample.source)}]


def _about(item: Item, carried: Mapping[str, Any]) -> dict[str, Any]:
    own = {} if item.source is None else dict(item.source)
    both = {**carried, "annotation": own} if carried and own else carried or own
    return {
        "annotation_id": None if item.id is None else str(item.id),
        "category": item.label if isinstance(item.label, str) else None,
        "source": as_json(both),
    }


class Captioner:
    """A model as a callable that adds captions to batches of columns, for `map_batches` of Ray and `map` of datasets.

    Args:
        model, device: a loaded `Patchioner`, or the name of one, which is loaded where the object is made.
        image: column of pictures: whatever `Patchioner.encode` takes, or datasets' {"bytes", "path"}.
        boxes: column of lists of boxes, XYXY pixels; None captions whole photos.
        how: what `Patchioner.caption_many` takes besides.

    Example:
        >>> rows = ray.data.read_parquet("photos.parquet")  # doctest: +SKIP
        >>> rows.map_batches(Captioner, batch_format="pyarrow", batch_size=64, concurrency=2)  # doctest: +SKIP
        >>> dataset.map(Captioner(boxes="boxes"), batched=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any = "patchioner-mini",
        *,
        image: str = "image",
        boxes: str | None = None,
        device: str | None = None,
        **how: Any,
    ) -> None:
        from patchioner.model import Patchioner

        self._model = model if isinstance(model, Patchioner) else Patchioner.from_pretrained(model, device=device)
        self._image, self._boxes, self._how = image, boxes, how

    def __call__(self, batch: Any) -> Any:
        """The columns of a batch, and "caption", "score" and "error" (text, or None): each a list where boxes are.

        A mapping gives a mapping. A `pyarrow.Table` gives one, of the same types whatever became of the batch: so the
        files that it is written to can be read as one table. OptionError: a column is not there.
        """
        is_table = not isinstance(batch, Mapping)
        names = batch.column_names if is_table else list(batch)
        used = [name for name in (self._image, self._boxes) if name is not None]
        if missing := [name for name in used if name not in names]:
            raise OptionError(f"no column {missing[0]!r}: the batch has {sorted(names)}")
        images, *given = (batch[one].to_pylist() if is_table else batch[one] for one in used)
        asked: list[Any] = [None] * len(images)
        if given:
            asked = [list(() if one is None else one) for one in given[0]]
            # Ray flattens the list of one box in a tar.
            asked = [[one] if one and isinstance(one[0], Real) else one for one in asked]
        items = list(zip(map(_picture, images), map(_boxes_of, asked), strict=True))
        found: dict[str, list[Any]] = {"caption": [], "score": [], "error": []}
        outcomes = self._model.caption_many(items, on_error="return", **self._how)
        for outcome, boxes in zip(outcomes, asked, strict=True):
            lost = isinstance(outcome, PatchionerError)
            answers = [outcome] * (1 if boxes is None else len(boxes)) if lost else outcome
            for place, column in enumerate(found.values()):
                told = [_told(one)[place] for one in answers]
                column.append(told[0] if boxes is None else told)
        return _joined(batch, found, nested=bool(given)) if is_table else {**batch, **found}


def _joined(table: Any, found: Mapping[str, list[Any]], *, nested: bool) -> Any:
    """A table of Arrow with these columns, after its own."""
    arrow = require("pyarrow", "batch")
    table = table.select([name for name in table.column_names if name not in found])
    for name, values in found.items():
        kind = arrow.float64() if name == "score" else arrow.string()
        column = arrow.array(values, arrow.list_(kind) if nested else kind)
        table = table.append_column(name, column)
    return table


def _picture(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value["path"] if value.get("bytes") is None else value["bytes"]
    return value


def _boxes_of(boxes: Sequence[Any] | None) -> Any:
    """The regions as a function, so that a bad box costs its photo alone."""
    return None if boxes is None else lambda geometry: [box_of(box, "xyxy") for box in boxes]


def _told(answer: Any) -> tuple[str | None, float | None, str | None]:
    if isinstance(answer, PatchionerError):
        return None, None, "{error}: {message}".format(**failed(answer))
    return answer.text, answer.score, None
