"""How alike the names of things are: "player" and "baseball player", "bike" and "bicycle".

Knows: names. Does NOT know: captions, scene graphs, images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.helper_models import HelperModel
from decoders.scene_graph.morphology import singular

# n names -> (n, n) float similarities, 1 for equal names.
NameSimilarity: TypeAlias = Callable[[list[str]], Tensor]

PUBLISHED = "sentence-transformers/all-MiniLM-L6-v2"

SAME_HEAD, SYNONYM = 0.8, 0.7
_SYNONYMS = {
    name: number
    for number, line in enumerate(
        """
man guy gentleman male; woman lady female; child kid toddler; bike bicycle; photo picture image
tv television; couch sofa; plane airplane aeroplane jet aircraft; phone cellphone smartphone telephone
people person crowd; boat ship; street road; dog puppy; cat kitten; motorcycle motorbike; sea ocean
rock boulder; hill slope; shirt t-shirt; cup mug; suitcase luggage; refrigerator fridge
baby infant; donut doughnut; racket racquet; forest wood; store shop; laptop computer
field meadow pasture; cap hat; sidewalk pavement; cop policeman
""".replace("\n", ";").split(";")
    )
    for name in line.split()
}  # fmt: skip


def word_similarity(names: list[str]) -> Tensor:
    """Alike by their words, with nothing to download.

    1 for the same name in any number ("dogs", "dog"), 0.8 where one is the other made more special
    ("baseball player", "player"), 0.7 where the last words are listed synonyms and nothing else
    differs, else 0. "tennis ball" and "tennis racket" are not alike.

    Args:
        names: n names.

    Returns:
        (n, n) float32, symmetric.

    Example:
        >>> word_similarity(["dogs", "dog", "hot dog", "cat"])[0].tolist()
        [1.0, 1.0, 0.800000011920929, 0.0]
    """
    words = [_words(name) for name in names]
    return torch.tensor([[_alike(one, other) for other in words] for one in words]).reshape(
        len(names), len(names)
    )


class SentenceSimilarity:
    """Cosine of the embeddings of a sentence encoder.

    Args:
        encode: n names -> (n, dim) float, such as a text tower's `encode`. None: `model` is used.
        model: a sentence encoder of transformers with mean pooling, read at first use; the
            published choice is the default.

    Raises:
        MissingExtraError: (at first use) transformers is not installed.
        HubError: (at first use) the model cannot be had.

    Example:
        >>> alike = SentenceSimilarity(lambda names: torch.ones(len(names), 2))
        >>> [round(value, 4) for value in alike(["a", "b"]).flatten().tolist()]
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self, encode: Callable[[list[str]], Tensor] | None = None, *, model: str = PUBLISHED
    ) -> None:
        self.model = model
        self.encode = encode or self._embed
        self.own = encode is None
        self._helper = HelperModel(
            model,
            "AutoModel",
            what="sentence encoder",
            instead="compare names by their words",
        )

    def __call__(self, names: list[str]) -> Tensor:
        """(n, n) cosines."""
        if not names:
            return torch.zeros(0, 0)
        units = functional.normalize(self.encode(names).detach().cpu().float(), dim=1)
        return units @ units.T

    @torch.inference_mode()
    def _embed(self, names: list[str]) -> Tensor:
        network, tokenizer = self._helper.parts()
        # One at a time: names are a word or two, and so no name's vector depends on padding.
        rows = []
        for name in names:
            ids = torch.tensor([tokenizer(name)["input_ids"]])
            rows.append(network(input_ids=ids).last_hidden_state.mean(dim=1)[0])
        return torch.stack(rows)


def _words(name: str) -> tuple[str, ...]:
    *first, last = name.split() or [""]
    return (*first, singular(last))


def _alike(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    if one == other:
        return 1.0
    short, long = sorted((one, other), key=len)
    if long[-len(short) :] == short:
        return SAME_HEAD
    number = _SYNONYMS.get(one[-1])
    synonyms = number is not None and number == _SYNONYMS.get(other[-1])
    return SYNONYM if synonyms and one[:-1] == other[:-1] else 0.0
