"""What a model's features say of texts: cosines with a pooled region and with its best patches, and its memory's words.

Knows: `Patchioner`'s public methods, its features and its memory texts. Does NOT know: what a value means (`logistic`,
`calibration`), sentences and their parts (`support`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner import Patchioner
from patchioner.aggregate import feature_weights
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError
from patchioner.detail.filter.vocabulary import NOUNS
from patchioner.detail.text import canonical, content_words
from patchioner.regions import Region, WholeImage

FloatArray = npt.NDArray[np.float64]

_SIDE = 5  # patches, of a window whose mean is compared: one patch alone is noisy, more lose small things
_TEMPERATURE = 0.02  # of the weights of the memory texts near a region
_TEXTS_AT_ONCE = 256
_DAMPING = 2e-4  # share of the texts below which absence says little


@dataclass(frozen=True, eq=False)
class View:
    """A region as texts are compared with it.

    Attributes:
        pooled: (dim,) unit embedding of the region.
        windows: (n, dim) unit means of windows of patches inside it.
        pooled_scale, peak_scale: (mean, deviation) of the vocabulary's cosines with the pooled region, and of its best
            cosines with the windows: what any name of a thing would get.
        weights: (memory rows,) float32 that sum to 1, how near each memory text is; None without memory texts.
    """

    pooled: Tensor
    windows: Tensor
    pooled_scale: tuple[float, float]
    peak_scale: tuple[float, float]
    weights: FloatArray | None


class TextEmbedder:
    """Unit text embeddings of a model; each distinct text is embedded once, as long as it is remembered.

    Args:
        model: with a text tower.
        limit: most texts remembered; the one not used for longest goes first. Threads may share one.

    Example:
        >>> TextEmbedder(model)(["a bus", "a bus"]).shape  # doctest: +SKIP
        torch.Size([2, 384])
    """

    def __init__(self, model: Patchioner, *, limit: int = 20_000) -> None:
        self._model = model
        self._limit = limit
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, dim) float32 unit vectors on the CPU, in the order of the texts; (0, 0) for none."""
        distinct = list(dict.fromkeys(texts))
        with self._lock:
            known = {text: self._known[text] for text in distinct if text in self._known}
        unknown = [text for text in distinct if text not in known]
        for start in range(0, len(unknown), _TEXTS_AT_ONCE):
            block = unknown[start : start + _TEXTS_AT_ONCE]
            rows = F.normalize(self._model.embed_text(block).float().cpu(), dim=1)
            known.update(zip(block, rows, strict=True))
        with self._lock:
            for text in distinct:
                self._known[text] = known[text]
                self._known.move_to_end(text)
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
        return torch.stack([known[text] for text in texts]) if texts else torch.zeros(0, 0)


class MemoryWords:
    """How much more often the memory texts near a region name a thing than all of them do.

    Args:
        embeddings: (rows, dim) of the memory.
        texts: rows.
    """

    def __init__(self, embeddings: Tensor, texts: Sequence[str]) -> None:
        self._rows = F.normalize(embeddings.float().cpu(), dim=1)
        self._texts = {text: row for row, text in enumerate(texts)}
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            for word in content_words(text):
                places.setdefault(word, []).append(place)
        self._places = {word: np.array(rows) for word, rows in places.items()}

    def weights(self, pooled: Tensor, without: Collection[str] = ()) -> FloatArray:
        """Softmax of the cosines with a unit embedding, the texts `without` left out: (rows,) float64."""
        logits = (self._rows @ pooled) / _TEMPERATURE
        logits[[self._texts[text] for text in without if text in self._texts]] = -torch.inf
        return np.asarray(logits.softmax(0).double().numpy())

    def log_odds(self, weights: FloatArray, name: str) -> float:
        """log of (share of the weight on texts that name it / share of all texts), damped where texts are few.

        0 for what no text names: a memory of captions knows no sarees, and that says nothing of the photo.

        Example:
            >>> memory = MemoryWords(torch.eye(2), ["a red bus", "a cat"])
            >>> round(memory.log_odds(np.array([1.0, 0.0]), "tour bus"), 1)
            0.7
        """
        rows = self._places.get(canonical(name.rpartition(" ")[2]))
        if rows is None:
            return 0.0
        base = len(rows) / len(self._rows)
        near = float(weights[rows].sum())
        return float(np.log((near + 0.02 * base + _DAMPING) / (base + _DAMPING)))


class Evidence:
    """The measures that `support` rests on, of one model.

    Args:
        model: with a text tower; its memory texts are used where it has some.

    Raises:
        OptionError: no text tower.
    """

    def __init__(self, model: Patchioner) -> None:
        if model.parts.text_tower is None:
            raise OptionError(
                f"{model.settings.name!r} has no text tower, so it cannot score sentences: give another model, or an "
                "independent scorer"
            )
        self.model = model
        self.embed = TextEmbedder(model)
        self._vocabulary = self.embed([with_article(noun) for noun in NOUNS])
        bank = model.parts.bank
        self.memory = (
            None
            if bank is None or bank.texts is None
            else MemoryWords(bank.embeddings(), bank.texts)
        )

    def view(
        self, features: PatchFeatures, region: Region, *, without: Collection[str] = ()
    ) -> View:
        """A region of an encoded photo, ready to be compared with texts.

        Args:
            features: of the photo.
            region: in it.
            without: memory texts to leave aside: a photo's own captions, when they are what is tested.
        """
        pooled = F.normalize(
            self.model.embed_regions(features, [region], crop=False)[0].float().cpu(), dim=0
        )
        windows = _windows(features, region)
        of_names = self._vocabulary @ pooled
        peaks = (windows @ self._vocabulary.T).amax(0)
        weights = None if self.memory is None else self.memory.weights(pooled, without)
        return View(pooled, windows, _scale(of_names), _scale(peaks), weights)

    def compare(self, view: View, texts: Sequence[str]) -> FloatArray:
        """(n, 2) float64: how far above any name of a thing each text's cosine lies, pooled and at its best window."""
        if not texts:
            return np.zeros((0, 2))
        embedded = self.embed(texts)
        pooled = (embedded @ view.pooled - view.pooled_scale[0]) / view.pooled_scale[1]
        peaks = ((view.windows @ embedded.T).amax(0) - view.peak_scale[0]) / view.peak_scale[1]
        return np.asarray(torch.stack([pooled, peaks], dim=1).double().numpy())

    def remembered(self, view: View, names: Sequence[str]) -> FloatArray:
        """(n, 1) float64 of `MemoryWords.log_odds`; (n, 0) without memory texts."""
        if self.memory is None or view.weights is None:
            return np.zeros((len(names), 0))
        return np.array([[self.memory.log_odds(view.weights, name)] for name in names]).reshape(
            -1, 1
        )

    def heat_map(self, features: PatchFeatures, text: str) -> npt.NDArray[np.float32]:
        """(rows, columns) float32: each patch's cosine with a text, -1 to 1."""
        tokens = F.normalize(features.tokens.float().cpu(), dim=2)
        return np.asarray((tokens @ self.embed([text])[0]).numpy(), dtype=np.float32)


def with_article(name: str) -> str:
    """A name as captions have it.

    Example:
        >>> with_article("apple"), with_article("skis")
        ('an apple', 'skis')
    """
    if name.endswith("s") and not name.endswith(("ss", "us")):
        return name
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def _scale(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), max(float(values.std()), 1e-6)


def _windows(features: PatchFeatures, region: Region) -> Tensor:
    """(n, dim) unit means of the windows of patches in the bounding rectangle of what the region covers."""
    weights = feature_weights(features, [region])[0]
    rows, columns = np.nonzero(weights > 0)
    tokens = features.tokens.float().cpu()
    tokens = tokens[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    inside = torch.from_numpy(weights > 0)[
        rows.min() : rows.max() + 1, columns.min() : columns.max() + 1
    ].float()
    size = (min(_SIDE, tokens.shape[0]), min(_SIDE, tokens.shape[1]))
    sums = F.avg_pool2d((tokens * inside[..., None]).permute(2, 0, 1)[None], size, stride=1)
    covered = F.avg_pool2d(inside[None, None], size, stride=1).flatten()
    chosen = covered >= min(0.5, float(covered.max()))
    return F.normalize(sums.flatten(2)[0].T[chosen], dim=1)


WHOLE = WholeImage()
