"""The `meacap` decoder: ViECap's networks, with a hard prompt of what the nearest captions agree on.

Source: Zeng et al. 2024 (MeaCap, arXiv 2403.03715). Unlike in the published code, each memory text is parsed once, and
by default neither the parser nor the comparison of names needs a download.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.base import CONFIG_FILE, DECODERS, Decoded, DecodeOptions, TextMemory, check_whole
from decoders.entities import entity_prompt
from decoders.scene_graph import CachedParser, RuleParser, SceneGraph, SceneGraphParser, T5Parser
from decoders.scene_graph.lexicon import NUMBERS
from decoders.scene_graph.tagging import singular
from decoders.tokenizers import LanguageTokenizer
from decoders.viecap import HardPrompter, ViecapConfig, ViecapDecoder, ViecapNetwork
from patchioner.base.errors import CheckpointError, DecoderError, OptionError
from patchioner.base.files import atomic_path
from patchioner.base.weights import Storage, load_weights, save_weights

TEXTS_FILE, EMBEDDINGS_FILE = "captions.jsonl", "captions.safetensors"
_ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True)
class Found:
    """Nearest captions of each query, best first: (n, k) rows, (n, k) cosines, n x k texts."""

    indices: Tensor
    similarities: Tensor
    texts: tuple[tuple[str, ...], ...]


class CaptionMemory:
    """N captions and their embeddings (N, dim), scaled to unit length and copied; a `TextMemory`. Immutable.

    Example:
        >>> memory = CaptionMemory(torch.eye(2), ["a cat", "a dog"])
        >>> memory.nearest(torch.tensor([[0.1, 2.0]]), 1).texts
        (('a dog',),)
    """

    def __init__(self, embeddings: Tensor, texts: Sequence[str]) -> None:
        rows = embeddings.detach().to("cpu", torch.float32)
        if rows.dim() != 2 or not len(rows) or len(rows) != len(texts):
            raise DecoderError(
                f"embeddings of shape {tuple(rows.shape)} and {len(texts)} captions make no memory; "
                "give one row for each caption"
            )
        norms = rows.norm(dim=1, keepdim=True)
        bad = (~(torch.isfinite(norms) & (norms > 0))).flatten().nonzero().flatten().tolist()
        if bad:
            raise DecoderError(
                f"the embedding of caption {bad[0]} is zero or not finite ({len(bad)} in all); embed it again"
            )
        self._units = rows / norms
        self._texts = tuple(texts)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self._units.shape[1])

    @property
    def texts(self) -> Sequence[str]:
        """The N captions."""
        return self._texts

    @torch.inference_mode()
    def nearest(self, queries: Tensor, k: int) -> Found:
        """The k captions of highest cosine for each of (n, dim) queries, k in 1 .. N."""
        if queries.dim() != 2 or queries.shape[1] != self.dim:
            raise DecoderError(
                f"queries of shape {tuple(queries.shape)} do not fit a memory of width {self.dim}; "
                "use the memory of the same model"
            )
        if not 1 <= k <= len(self):
            raise DecoderError(f"k is {k}: this memory can give 1 to {len(self)} captions")
        units = functional.normalize(queries.detach().to("cpu", torch.float32), dim=1)
        best = torch.full((len(units), 0), 0.0)
        rows = torch.zeros((len(units), 0), dtype=torch.int64)
        for first in range(0, len(self), _ROWS_AT_A_TIME):
            cosines = units @ self._units[first : first + _ROWS_AT_A_TIME].T
            values, places = cosines.topk(min(k, cosines.shape[1]), dim=1)
            best, rows = torch.cat([best, values], 1), torch.cat([rows, places + first], 1)
            best, order = best.sort(dim=1, descending=True, stable=True)
            best, rows = best[:, :k], rows.gather(1, order)[:, :k]
        texts = tuple(tuple(self._texts[row] for row in line) for line in rows.tolist())
        return Found(rows, best, texts)

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write captions.jsonl (one JSON string a line) and captions.safetensors."""
        folder = Path(folder)
        save_weights({"embeddings": self._units}, folder / EMBEDDINGS_FILE, storage=storage)
        with atomic_path(folder / TEXTS_FILE) as temporary:
            lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in self._texts)
            temporary.write_text("".join(lines), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> CaptionMemory:
        """Read what `save` wrote; CheckpointError where that is missing, damaged or of two memories."""
        folder = Path(folder)
        path = folder / TEXTS_FILE
        state = load_weights(folder / EMBEDDINGS_FILE)
        try:
            # Split at \n alone: JSON leaves other line separators as they are.
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            texts = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if set(state) != {"embeddings"} or not all(isinstance(text, str) for text in texts):
            raise CheckpointError(f"{folder}: {TEXTS_FILE} and {EMBEDDINGS_FILE} hold no captions")
        try:
            return cls(state["embeddings"], texts)
        except DecoderError as error:
            raise CheckpointError(f"{folder}: {error}") from error


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

    @property
    def place(self) -> float:
        return sum(self.places) / len(self.places)


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
    kept.sort(key=lambda one: one.place)  # stable: the more frequent first
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
        memory: captions and their embeddings; None: they are given to `prompts`.
        parser: of captions, asked once for each; None: `RuleParser`.
        captions: nearest captions that are asked (published: 5).
        limits: of `find_concepts`.

    Example:
        >>> memory = CaptionMemory(torch.ones(1, 2), ["a red bus on a street"])
        >>> ConceptPrompter(memory).prompts(torch.ones(1, 2))
        ['There are bus, street in image.']
    """

    def __init__(
        self,
        memory: TextMemory | None = None,
        parser: SceneGraphParser | None = None,
        *,
        captions: int = 5,
        **limits: Any,
    ) -> None:
        if memory is not None and memory.texts is None:
            raise DecoderError("the memory has no texts to find concepts in; build it with texts")
        self.memory = memory
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

    def concepts(self, embeddings: Tensor, memory: TextMemory | None = None) -> list[list[str]]:
        """The concepts for each of (n, dim) embeddings; see `find_concepts`."""
        if not len(embeddings):
            return []
        rows = self._captions(embeddings, self.memory or memory)
        texts = list(dict.fromkeys(text for row in rows for text in row))
        limits = {name: value for name, value in self.limits.items() if name != "captions"}
        graphs = dict(zip(texts, self.parser.parse(texts), strict=True))
        found = {
            row: find_concepts(row, [graphs[text] for text in row], **limits)
            for row in dict.fromkeys(rows)
        }
        return [found[row] for row in rows]

    def _captions(self, embeddings: Tensor, memory: TextMemory | None) -> list[tuple[str, ...]]:
        if memory is None or memory.texts is None:
            raise DecoderError(
                "this decoder has no memory of captions; give generate a memory with texts, or load the "
                "checkpoint with its memory bank"
            )
        found = memory.nearest(embeddings, min(self.limits["captions"], len(memory)))
        captions = []
        for rows, values in zip(found.indices.tolist(), found.similarities.tolist(), strict=True):
            # Equal cosines in the order of the memory, whatever order the search gave them.
            ranked = sorted(zip(values, rows, strict=True), key=lambda one: (-one[0], one[1]))
            captions.append(tuple(memory.texts[row] for _, row in ranked))
        return captions


@DECODERS.register("meacap")
class MeacapDecoder(ViecapDecoder):
    """A `ViecapDecoder` whose hard prompt comes from a memory of captions.

    The memory is either the decoder's own (a `CaptionMemory` in its prompter, saved with it) or an argument of
    `generate`, such as the model's bank. Trained like a `ViecapDecoder`, on the entities of the caption itself.
    """

    TYPE: ClassVar[str] = "meacap"

    def __init__(
        self,
        network: ViecapNetwork,
        tokenizer: LanguageTokenizer,
        config: ViecapConfig,
        prompter: HardPrompter | None = None,
    ) -> None:
        if prompter is not None and not isinstance(prompter, ConceptPrompter):
            raise DecoderError(
                f"a meacap decoder takes a ConceptPrompter, not a {type(prompter).__name__}; "
                "use the viecap decoder for other hard prompts"
            )
        super().__init__(network, tokenizer, config, prompter or ConceptPrompter())
        self._check_width(self.concepts.memory)

    @property
    def concepts(self) -> ConceptPrompter:
        """What writes the hard prompts."""
        if not isinstance(self.prompter, ConceptPrompter):
            raise DecoderError(
                f"the prompter is a {type(self.prompter).__name__}; a meacap decoder needs a ConceptPrompter"
            )
        return self.prompter

    @property
    def needs_memory(self) -> bool:
        """Whether it has no captions of its own, and reads a hard prompt."""
        return "hard" in self.config.prompts and self.concepts.memory is None

    @property
    def own_memory(self) -> CaptionMemory | None:
        """The captions that came with the prompter and are saved with the decoder; None where they are lent."""
        memory = self.concepts.memory
        return memory if isinstance(memory, CaptionMemory) else None

    def generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions | None = None,
        memory: TextMemory | None = None,
    ) -> list[Decoded]:
        """As `Decoder.generate`. A decoder with captions of its own draws on those, whatever `memory` is."""
        self._check_width(memory if self.needs_memory else None)
        return super().generate(embeddings, options, memory)

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """As `ViecapDecoder.save`, with the decoder's own captions if it has any."""
        self._settings()  # what cannot be saved is refused before anything is written
        super().save(folder, storage=storage)

    def _check_width(self, memory: TextMemory | None) -> None:
        if memory is not None and memory.dim != self.embedding_dim:
            raise DecoderError(
                f"the memory is {memory.dim} wide, this decoder takes {self.embedding_dim}; "
                "use the memory of the same model"
            )

    def _settings(self) -> dict[str, Any]:
        parser = self.concepts.parser.parser
        if not isinstance(parser, RuleParser | T5Parser):
            raise CheckpointError(
                f"a {type(parser).__name__} cannot be saved with a decoder; use RuleParser or T5Parser"
            )
        t5 = {"type": "t5", "model": parser.model} if isinstance(parser, T5Parser) else None
        return {
            "options": self.concepts.limits,
            "parser": t5 or {"type": "rules"},
            "similarity": {"type": "words"},
            "own_memory": self.own_memory is not None,
        }

    def _save_prompter(self, folder: Path) -> dict[str, Any]:
        memory = self.own_memory
        if memory is not None:
            # Half precision may swap neighbours that are 1e-3 apart, which changes captions.
            memory.save(folder, storage="fp32")
        return {"concepts": self._settings()}

    @classmethod
    def _load_prompter(cls, folder: Path, settings: dict[str, Any]) -> HardPrompter | None:
        path = folder / CONFIG_FILE
        try:
            concepts = dict(settings.pop("concepts"))
            limits = dict(concepts.pop("options"))
            kind, similarity = dict(concepts.pop("parser")), concepts.pop("similarity")
            makers: dict[str, Any] = {"rules": RuleParser, "t5": T5Parser}
            name = kind.pop("type")
            if name not in makers or similarity != {"type": "words"}:
                raise OptionError(
                    f"parser {name!r}, similarity {similarity!r}; known are the parsers rules, t5 and the "
                    "similarity of type words"
                )
            parser = CachedParser(makers[name](**kind))
            own = concepts.pop("own_memory")
        except KeyError as error:
            raise CheckpointError(
                f"{path}: concepts lack {error}; was it written by `save`?"
            ) from error
        except (TypeError, ValueError) as error:  # OptionError is a ValueError
            raise CheckpointError(f"{path}: concepts: {error}") from error
        if concepts:
            raise CheckpointError(f"{path}: unknown setting of concepts: {sorted(concepts)}")
        memory = CaptionMemory.load(folder) if own else None
        if memory is not None and memory.dim != settings.get("embedding_dim"):
            raise CheckpointError(
                f"{folder}: its captions are {memory.dim} wide, the decoder {settings.get('embedding_dim')}; "
                "they come from different models"
            )
        try:
            return ConceptPrompter(memory, parser, **limits)
        except (TypeError, OptionError) as error:
            raise CheckpointError(f"{path}: concepts: {error}") from error
