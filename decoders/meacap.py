"""The `meacap` decoder: ViECap's networks, with a hard prompt of what the nearest captions agree on.

Source: Zeng et al. 2024 (MeaCap, arXiv 2403.03715); here each text is parsed once, and nothing has to be downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import torch
from torch import Tensor

from decoders.base import CONFIG_FILE, DECODERS, TextMemory, check_whole, reading
from decoders.scene_graph import CachedParser, RuleParser, SceneGraph, SceneGraphParser, T5Parser
from decoders.scene_graph.lexicon import NUMBERS
from decoders.scene_graph.tagging import singular
from decoders.tokenizers import LanguageTokenizer
from decoders.viecap import ViecapConfig, ViecapDecoder, ViecapNetwork, entity_prompt
from patchioner.base.errors import CheckpointError, DecoderError, OptionError

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
    """(n, n) float32: how alike n names are by their words, with nothing to download.

    1 for the same name in any number ("dogs", "dog"), 0.8 where one is the other made more special ("baseball
    player", "player"), 0.7 where the last words are listed synonyms and nothing else differs, else 0.

    Example:
        >>> word_similarity(["dogs", "dog", "hot dog", "cat"])[0].tolist()
        [1.0, 1.0, 0.800000011920929, 0.0]
    """
    split = [name.split() or [""] for name in names]
    words = [(*first, singular(last)) for *first, last in split]
    rows = [[_alike(one, other) for other in words] for one in words]
    return torch.tensor(rows).reshape(len(names), len(names))


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


def find_concepts(
    texts: Sequence[str],
    graphs: Sequence[SceneGraph],
    *,
    merge_above: float = 0.55,
    min_count: int = 3,
    min_attribute: int = 3,
    most: int = 4,
) -> list[str]:
    """The concepts of a few captions (the nearest first) and their graphs, in the order of their mean place.

    Names are merged from the most frequent down: each joins the first concept whose own name is more alike than
    `merge_above`. A concept, and an attribute of it that is no number, counts once for each caption that mentions it.
    Where none is counted `min_count` times, the highest count of at least 2 is enough; where the captions share
    nothing, the entities of the first caption stand in. The first `most` stay; the defaults are published.

    Example:
        >>> texts = ["a red bus on a street", "a red bus with a man", "the red bus by a tree"]
        >>> find_concepts(texts, RuleParser().parse(texts))
        ['red bus']
    """
    concepts = _merge(texts, graphs, merge_above)
    needed = min(min_count, max((len(one.captions) for one in concepts), default=0))
    kept = [one for one in concepts if len(one.captions) >= needed]
    if needed == 1 < min_count:
        first = min(min(one.captions) for one in kept)
        kept = [one for one in kept if first in one.captions]
    kept.sort(key=lambda one: mean(one.places))  # stable: the more frequent first
    return [_worded(one, min_attribute) for one in kept[:most]]


def _merge(
    texts: Sequence[str], graphs: Sequence[SceneGraph], merge_above: float
) -> list[_Concept]:
    mentions = Counter(
        name for graph in graphs for name in dict.fromkeys(one.name for one in graph.entities)
    )
    names = [name for name, _ in mentions.most_common()]  # ties: in order of first mention
    alike = word_similarity(names).tolist()
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


_EARLIER = {"similarity": {"type": "words"}, "own_memory": False}
_LIMITS: dict[str, Any] = {
    "captions": 5,
    "merge_above": 0.55,
    "min_count": 3,
    "min_attribute": 3,
    "most": 4,
}


class ConceptPrompter:
    """Names what the captions nearest to an embedding agree on: "There are red bus, street in image."

    Args:
        parser: of captions, asked once for each; None: `RuleParser`.
        captions: nearest captions that are asked (published: 5).
        limits: of `find_concepts`.

    Example:
        >>> from memory_bank import MemoryBank
        >>> memory = MemoryBank(torch.ones(1, 2), ["a red bus on a street"])
        >>> ConceptPrompter().prompts(torch.ones(1, 2), memory)
        ['There are bus, street in image.']
    """

    def __init__(
        self, parser: SceneGraphParser | None = None, *, captions: int = 5, **limits: Any
    ) -> None:
        parser = RuleParser() if parser is None else parser
        self.parser = parser if isinstance(parser, CachedParser) else CachedParser(parser)
        self.limits = {**_LIMITS, "captions": captions, **limits}
        check_whole(**{name: self.limits[name] for name in self.limits if name != "merge_above"})
        if self.limits.keys() != _LIMITS.keys() or not -1 <= self.limits["merge_above"] <= 1:
            raise OptionError(
                f"limits are {self.limits}; known are {_LIMITS}, merge_above a cosine"
            )

    def prompts(self, embeddings: Tensor, memory: TextMemory | None = None) -> list[str]:
        """The prompt of each of (n, dim) embeddings: one search for all, each distinct text parsed once."""
        return [entity_prompt(names) for names in self.concepts(embeddings, memory)]

    def concepts(self, embeddings: Tensor, memory: TextMemory | None) -> list[list[str]]:
        """The concepts for each of (n, dim) embeddings; see `find_concepts`."""
        if memory is None or memory.texts is None:
            raise DecoderError("concepts are those of a memory's texts; give a memory with texts")
        if not len(embeddings):
            return []
        rows = self._captions(embeddings, memory, memory.texts)
        texts = list(dict.fromkeys(text for row in rows for text in row))
        limits = {name: value for name, value in self.limits.items() if name != "captions"}
        graphs = dict(zip(texts, self.parser.parse(texts), strict=True))
        found = {
            row: find_concepts(row, [graphs[text] for text in row], **limits)
            for row in dict.fromkeys(rows)
        }
        return [found[row] for row in rows]

    def _captions(
        self, embeddings: Tensor, memory: TextMemory, texts: Sequence[str]
    ) -> list[tuple[str, ...]]:
        found = memory.nearest(embeddings, min(self.limits["captions"], len(memory)))
        captions = []
        for rows, values in zip(found.indices.tolist(), found.similarities.tolist(), strict=True):
            # Equal cosines in the order of the memory, whatever order the search gave them.
            ranked = sorted(zip(values, rows, strict=True), key=lambda one: (-one[0], one[1]))
            captions.append(tuple(texts[row] for _, row in ranked))
        return captions


@DECODERS.register("meacap")
class MeacapDecoder(ViecapDecoder):
    """A `ViecapDecoder` whose hard prompt comes from a memory of captions, such as the model's bank.

    Trained like a `ViecapDecoder`, on the entities of the caption itself.
    """

    TYPE: ClassVar[str] = "meacap"
    prompter: ConceptPrompter

    def __init__(
        self,
        network: ViecapNetwork,
        tokenizer: LanguageTokenizer,
        config: ViecapConfig,
        prompter: ConceptPrompter | None = None,
    ) -> None:
        super().__init__(network, tokenizer, config, prompter or ConceptPrompter())

    @property
    def needs_memory(self) -> bool:
        """Whether it reads a hard prompt."""
        return "hard" in self.config.prompts

    def _save_prompter(self, folder: Path) -> dict[str, Any]:
        parser = self.prompter.parser.parser
        if not isinstance(parser, RuleParser | T5Parser):
            raise CheckpointError(
                f"a {type(parser).__name__} cannot be saved with a decoder; use RuleParser or T5Parser"
            )
        t5 = {"type": "t5", "model": parser.model} if isinstance(parser, T5Parser) else None
        return {"concepts": {"options": self.prompter.limits, "parser": t5 or {"type": "rules"}}}

    @classmethod
    def _load_prompter(cls, folder: Path, settings: dict[str, Any]) -> ConceptPrompter:
        path = folder / CONFIG_FILE
        with reading(path):
            concepts = dict(settings.pop("concepts"))
            limits, kind = concepts.pop("options"), dict(concepts.pop("parser"))
            makers: dict[str, Any] = {"rules": RuleParser, "t5": T5Parser}
            name = kind.pop("type")
            # What earlier releases wrote beside them, and all that is left of it.
            if name not in makers or concepts not in ({}, _EARLIER):
                raise OptionError(f"concepts: parser {name!r} (known: rules, t5), {concepts!r}")
            return ConceptPrompter(makers[name](**kind), **limits)
