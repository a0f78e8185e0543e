"""What several captions agree on: their entities merged by how alike the names are, filtered and ordered.

Source: Zeng et al. 2024 (MeaCap, arXiv 2403.03715: retrieve, then filter key concepts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.language_model import (
    HelperModel,
)
from decoders.scene_graph import SceneGraph
from decoders.scene_graph.lexicon import NUMBERS
from decoders.scene_graph.tagging import singular

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

    1 for the same name in any number ("dogs", "dog"), 0.8 where one is the other made more special ("baseball
    player", "player"), 0.7 where the last words are listed synonyms and nothing else differs, else 0. "tennis ball"
    and "tennis racket" are not alike.

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
        model: a sentence encoder of transformers with mean pooling, read at first use; the published choice is the
            default.

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
        self._helper = HelperModel(model, "AutoModel", instead="compare names by their words")

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


@dataclass
class _Concept:
    """One group of names that mean the same."""

    name: str
    captions: set[int] = field(default_factory=set)
    attributes: Counter[str] = field(default_factory=Counter)
    places: list[int] = field(default_factory=list)

    @property
    def place(self) -> float:
        return sum(self.places) / len(self.places)


def find_concepts(
    texts: Sequence[str],
    graphs: Sequence[SceneGraph],
    similarity: NameSimilarity = word_similarity,
    *,
    merge_above: float = 0.55,
    min_count: int = 3,
    min_attribute: int = 3,
    most: int = 4,
) -> list[str]:
    """The concepts of a few captions, in the order in which captions mention them.

    Names are merged from the most frequent down: each joins the first concept whose own name is
    more alike than `merge_above`. A concept counts once for each caption that mentions it, however often, and so do
    its attributes; numbers are no attributes, because names are in the singular. Concepts are ordered by the mean
    place (in words) of their mentions, and the first `most` stay.

    Where no concept is counted `min_count` times, the highest count below it is enough, provided it is at least 2;
    where the captions share nothing, the entities of the first caption (the nearest) stand in; without any entity the
    list is empty.

    Args:
        texts: captions, the nearest first.
        graphs: of each caption.
        similarity: of names.
        merge_above: names more alike than this are one concept; this and the others default to the published values.
        min_count: captions that must name a concept ("more than twice").
        min_attribute: captions that must give it an attribute.
        most: most concepts.

    Example:
        >>> from decoders.scene_graph.rules import RuleParser
        >>> texts = ["a red bus on a street", "a red bus with a man", "the red bus by a tree"]
        >>> find_concepts(texts, RuleParser().parse(texts))
        ['red bus']
    """
    concepts = _merge(texts, graphs, merge_above, similarity)
    needed = min(min_count, max((len(one.captions) for one in concepts), default=0))
    kept = [one for one in concepts if len(one.captions) >= needed]
    if needed == 1 < min_count:
        first = min(min(one.captions) for one in kept)
        kept = [one for one in kept if first in one.captions]
    kept.sort(key=lambda one: one.place)  # stable: the more frequent first
    return [_worded(one, min_attribute) for one in kept[:most]]


def _merge(
    texts: Sequence[str],
    graphs: Sequence[SceneGraph],
    merge_above: float,
    similarity: NameSimilarity,
) -> list[_Concept]:
    mentions = Counter(
        name for graph in graphs for name in dict.fromkeys(one.name for one in graph.entities)
    )
    names = [name for name, _ in mentions.most_common()]  # ties: in order of first mention
    alike = similarity(names).tolist()
    leaders: list[int] = []
    owner: dict[str, int] = {}
    for place, name in enumerate(names):
        found = next((one for one in leaders if alike[place][one] > merge_above), None)
        if found is None:
            leaders.append(place)
            found = place
        owner[name] = found
    concepts = {place: _Concept(names[place]) for place in leaders}
    for number, (text, graph) in enumerate(zip(texts, graphs, strict=True)):
        _count(number, text, graph, owner, concepts)
    return list(concepts.values())


def _count(
    number: int, text: str, graph: SceneGraph, owner: dict[str, int], concepts: dict[int, _Concept]
) -> None:
    """Count one caption's entities and attributes, each once."""
    seen: set[tuple[int, str]] = set()
    words = [singular(word.strip(".,;:!?")) for word in text.lower().split()]
    for entity in graph.entities:
        concept = concepts[owner[entity.name]]
        concept.captions.add(number)
        head = singular(entity.name.split()[-1]) if entity.name.split() else ""
        concept.places.append(words.index(head) if head in words else len(words))
        for attribute in entity.attributes:
            if (owner[entity.name], attribute) not in seen:
                seen.add((owner[entity.name], attribute))
                concept.attributes[attribute] += 1


def _worded(concept: _Concept, min_attribute: int) -> str:
    kept = [
        attribute
        for attribute, count in concept.attributes.items()
        if count >= min_attribute and attribute not in NUMBERS and not attribute.isdigit()
    ]
    return " ".join([*kept, concept.name])
