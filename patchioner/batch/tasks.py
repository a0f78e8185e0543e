"""What is asked of each photo of a batch job, and how the answers become columns of rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from patchioner.base.errors import OptionError, PatchionerError, UnknownNameError

if TYPE_CHECKING:
    from patchioner.geometry import ImageGeometry
    from patchioner.images import ImageSource
    from patchioner.model import Patchioner
    from patchioner.regions import Region

TASKS = ("caption", "label", "embed", "detail", "alt")
Asked: TypeAlias = "tuple[ImageSource, Callable[[ImageGeometry], list[Region]]]"
Outcome: TypeAlias = "list[Any] | PatchionerError"
"""Of a photo: an answer or an error per region, or the error that cost all of it."""


@dataclass(frozen=True)
class Task:
    """What is asked.

    Attributes:
        kind: "caption", "label" (among `texts`), "embed", and of whole photos "detail" and "alt".
        texts: to choose among.
        how: what `Patchioner.caption_many` or `label_many` takes besides.

    Raises:
        OptionError: no such task, or texts for another.
    """

    kind: str = "caption"
    texts: tuple[str, ...] = ()
    how: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in TASKS:
            raise OptionError(str(UnknownNameError.among("task", self.kind, TASKS)))
        if (self.kind == "label") != bool(self.texts):
            raise OptionError(f"the task {self.kind!r} and texts {self.texts!r:.60} do not fit: "
                              "texts are for 'label', which needs them")  # fmt: skip

    @property
    def whole(self) -> bool:
        """Whether it asks about whole photos, whatever regions there are."""
        return self.kind in ("detail", "alt")

    def identity(self) -> dict[str, Any]:
        """JSON values that decide its answers."""
        how = {key: value for key, value in self.how.items() if value is not None}
        plain = json.loads(json.dumps(how, default=asdict))
        return {"task": self.kind, "texts": list(self.texts), "how": plain}

    def answers(self, model: Patchioner, items: Iterable[Asked]) -> Any:
        """An iterator of what becomes of each photo, in order; it can be closed."""
        ask: Any = {"on_error": "return", **self.how}
        if self.kind == "label":
            return model.label_many(items, self.texts, **ask)
        if self.kind == "embed":
            return model.embed_many(items, on_error="return")
        if self.kind == "detail":
            return _described(model, items)
        return model.caption_many(items, **ask)

    def columns(self, answer: Any) -> dict[str, Any]:
        """An answer as columns of its row."""
        if self.kind == "embed":
            return {"embedding": tuple(answer.tolist())}
        if self.kind == "detail":
            return {"text": answer.text or None, "reason": answer.reason}
        if self.kind == "label":
            sure, best = round(answer.probability, 6), round(max(answer.cosines), 6)
            return {"text": answer.text, "score": best, "confidence": sure}
        from patchioner.alt import alt_text

        score = None if math.isnan(answer.score) else round(answer.score, 6)
        sure = None if answer.confidence is None else round(answer.confidence, 6)
        text = alt_text(answer) if self.kind == "alt" else answer.text
        return {"text": text, "score": score, "confidence": sure, "reason": answer.reason}


def _described(model: Patchioner, items: Iterable[Asked]) -> Iterator[Outcome]:
    """Paragraphs, photo by photo; a failure costs its photo alone."""
    from patchioner.detail import DetailCaptioner
    from patchioner.images import load_image

    captioner = DetailCaptioner(model)
    for source, regions in items:
        try:
            photo = captioner.open(load_image(source))
            if photo.features is not None:
                regions(photo.features.geometry)
            yield [captioner.describe(photo)]
        except PatchionerError as error:
            yield error
