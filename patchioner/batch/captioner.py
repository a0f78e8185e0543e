"""`Captioner`: a model as a callable class for `map_batches` of Ray Data and `map` of datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patchioner.base.errors import OptionError, PatchionerError
from patchioner.regions import Box, Region


class Captioner:
    """Add captions to batches of columns.

    Args:
        model: a loaded `Patchioner`, or the name of one, which is loaded where the object is made (in Ray's actor).
        image: column of pictures: whatever `Patchioner.encode` takes, or datasets' {"bytes", "path"}.
        boxes: column of lists of boxes, XYXY pixels; None captions whole photos.
        device: see `Patchioner.from_pretrained`.
        how: what `Patchioner.caption_many` takes besides.

    Example:
        >>> rows = ray.data.read_parquet("photos.parquet")  # doctest: +SKIP
        >>> rows.map_batches(Captioner, concurrency=2, batch_size=64)  # doctest: +SKIP
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

        is_name = not isinstance(model, Patchioner)
        self._model = Patchioner.from_pretrained(model, device=device) if is_name else model
        self._image, self._boxes, self._how = image, boxes, how

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a batch, and "caption", "score" and "error" (text, or None): each a list where boxes are.

        Raises:
            OptionError: a column is not there.
        """
        for name in (self._image, self._boxes):
            if name is not None and name not in batch:
                raise OptionError(f"no column {name!r}: the batch has {sorted(batch)}")
        pictures = [_picture(one) for one in batch[self._image]]
        asked: Sequence[Sequence[Any] | None] = [None] * len(pictures)
        if self._boxes is not None:
            asked = [list(one) if one is not None else [] for one in batch[self._boxes]]
        items = list(zip(pictures, map(_regions, asked), strict=True))
        said = list(self._model.caption_many(items, on_error="return", **self._how))
        rows = [_said(one, boxes) for one, boxes in zip(said, asked, strict=True)]
        return {
            **batch,
            **{key: [row[key] for row in rows] for key in ("caption", "score", "error")},
        }


def _picture(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value["path"] if value.get("bytes") is None else value["bytes"]
    return value


def _regions(boxes: Sequence[Any] | None) -> Any:
    if boxes is None:
        return None

    def make(geometry: object) -> list[Region]:  # a bad box costs its photo alone
        return [Box(*map(float, box)) for box in boxes]

    return make


def _said(outcome: Any, boxes: Sequence[Any] | None) -> dict[str, Any]:
    count = 1 if boxes is None else len(boxes)
    answers: list[Any] = [outcome] * count if isinstance(outcome, PatchionerError) else outcome
    columns: dict[str, list[Any]] = {"caption": [], "score": [], "error": []}
    for one in answers:
        is_error = isinstance(one, PatchionerError)
        columns["caption"].append(None if is_error else one.text)
        columns["score"].append(None if is_error else one.score)
        columns["error"].append(f"{type(one).__name__}: {one}" if is_error else None)
    return {key: found[0] if boxes is None else found for key, found in columns.items()}
