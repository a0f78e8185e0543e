"""What several captions agree on: their entities merged, filtered and ordered.

Knows: captions, their scene graphs, how alike names are. Does NOT know: embeddings, memories.

Source: Zeng et al. 2024 (MeaCap, arXiv 2403.03715: retrieve, then filter key concepts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from decoders.name_similarity import NameSimilarity, word_similarity
from decoders.scene_graph.base import SceneGraph
from decoders.scene_graph.lexicon import NUMBERS
from decoders.scene_graph.morphology import singular
from patchioner.base.errors import OptionError


@dataclass(frozen=True)
class ConceptOptions:
    """How concepts are found; the defaults are the published ones.

    Args:
        captions: nearest captions that are asked.
        merge_above: names more alike than this are one concept.
        min_count: captions that must name a concept ("more than twice").
        min_attribute: captions that must give it an attribute.
        most: most concepts.

    Raises:
        OptionError: a value makes no sense.

    Example:
        >>> ConceptOptions(captions=8).min_count
        3
    """

    captions: int = 5
    merge_above: float = 0.55
    min_count: int = 3
    min_attribute: int = 3
    most: int = 4

    def __post_init__(self) -> None:
        for name in (one.name for one in fields(self) if one.name != "merge_above"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} is {value!r}; it must be a whole number, at least 1")
        if not -1 <= self.merge_above <= 1:
            raise OptionError(f"merge_above is {self.merge_above!r}; it is a cosine, from -1 to 1")


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
    options: ConceptOptions | None = None,
    similarity: NameSimilarity = word_similarity,
) -> list[str]:
    """The concepts of a few captions, in the order in which captions mention them.

    Names are merged from the most frequent down: each joins the first concept whose own name is
    more alike than `merge_above`. A concept counts once for each caption that mentions it, however
    often, and so do its attributes; numbers are no attributes, because names are in the singular.
    Concepts are ordered by the mean place (in words) of their mentions, and the first `most` stay.

    Where no concept is counted `min_count` times, the highest count below it is enough, provided it
    is at least 2; where the captions share nothing, the entities of the first caption (the nearest)
    stand in; without any entity the list is empty.

    Args:
        texts: captions, the nearest first.
        graphs: of each caption.
        options: see `ConceptOptions`.
        similarity: of names.

    Example:
        >>> from decoders.scene_graph.rules import RuleParser
        >>> texts = ["a red bus on a street", "a red bus with a man", "the red bus by a tree"]
        >>> find_concepts(texts, RuleParser().parse(texts))
        ['red bus']
    """
    options = options or ConceptOptions()
    concepts = _merge(texts, graphs, options, similarity)
    needed = min(options.min_count, max((len(one.captions) for one in concepts), default=0))
    kept = [one for one in concepts if len(one.captions) >= needed]
    if needed == 1 < options.min_count:
        first = min(min(one.captions) for one in kept)
        kept = [one for one in kept if first in one.captions]
    kept.sort(key=lambda one: one.place)  # stable: the more frequent first
    return [_worded(one, options) for one in kept[: options.most]]


def _merge(
    texts: Sequence[str],
    graphs: Sequence[SceneGraph],
    options: ConceptOptions,
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
        found = next((one for one in leaders if alike[place][one] > options.merge_above), None)
        if found is None:
            leaders.append(place)
            found = place
        owner[name] = found
    concepts = {place: _Concept(names[place]) for place in leaders}
    for number, (text, graph) in enumerate(zip(texts, graphs, strict=True)):
        _count(number, text, graph, owner, concepts)
    return list(concepts.values())


def _count(
    number: int,
    text: str,
    graph: SceneGraph,
    owner: dict[str, int],
    concepts: dict[int, _Concept],
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


def _worded(concept: _Concept, options: ConceptOptions) -> str:
    kept = [
        attribute
        for attribute, count in concept.attributes.items()
        if count >= options.min_attribute and attribute not in NUMBERS and not attribute.isdigit()
    ]
    return " ".join([*kept, concept.name])
