"""Decoders that draw on a memory of texts: `retrieval`, the nearest of them, and `meacap`, what the nearest agree on.

Source of the latter: Zeng et al. 2024 (MeaCap, arXiv 2403.03715), on ViECap's networks; nothing is downloaded but
where its parser is the T5 of Li et al. 2023 ("FACTUAL").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from statistics import mean
from typing import Any, Self

import torch
from torch import Tensor, nn

from decoders.base import CONFIG_FILE, Decoded, DecodeOptions, Decoder, TextMemory, nearest_rows, reading
from decoders.guidance import Guide
from decoders.scene_graph import WORDS, Entity, Graph, Parser, entries, parse_all, singular
from decoders.search import draw, row_uniforms
from decoders.viecap import ViecapDecoder, entity_prompt
from patchioner.base.errors import CheckpointError, DecoderError
from patchioner.base.files import check, write_json
from patchioner.base.optional import read_pretrained
from patchioner.base.weights import Storage

PUBLISHED = "lizhuang144/flan-t5-base-VG-factual-sg"
_PROMPT = "Generate Scene Graph: "
_TRIPLE = re.compile(r"\(([^()]*)\)")
_ATTRIBUTE_WORDS = ("is", "are", "has attribute")
_CANDIDATES, _TEMPERATURE = 32, 0.01
_WIDEN = 8  # how many times more sentences are looked at when none of the nearest will do
_SYNONYMS = {name: group for group, names in enumerate(entries("synonyms")) for name in names}
_MOST_GRAPHS = 100_000  # remembered, of about 1 kB each
# Published: names more alike are one concept; captions that mention it, or an attribute of it; concepts of a prompt.
_ALIKE, _COUNT, _ATTRIBUTE, _MOST = 0.55, 3, 3, 4


class RetrievalDecoder(Decoder):
    """Captions are sentences of the memory, word for word.

    Greedy and beam give the nearest sentence by cosine. Sampling draws among the 32 nearest by softmax(cosine / 0.01),
    sharpened by the options' own temperature and `top_p`. The limits of `DecodeOptions` pass over whole sentences,
    counted in words. A `Decoded` holds one "token": the row of the memory, and the logarithm of its softmax probability
    among the nearest that were looked at.

    Example:
        >>> from memory_bank import MemoryBank
        >>> decoder = RetrievalDecoder(2)
        >>> memory = MemoryBank(torch.eye(2), ["a cat", "a dog"])
        >>> decoder.generate(torch.tensor([[0.1, 1.0]]), memory=memory)[0].text
        'a dog'
    """

    needs_memory, can_be_guided = True, False
    USUAL_TOKENS = max_tokens = 10_000  # whole sentences, however long
    network = nn.Module()  # there are no weights

    def __init__(self, embedding_dim: int) -> None:
        check("int [1, inf)", embedding_dim=embedding_dim)
        self.embedding_dim = embedding_dim

    def _generate(
        self, embeddings: Tensor, options: DecodeOptions, memory: TextMemory | None, guide: Guide | None
    ) -> list[Decoded]:
        """A sentence of the memory for each row; DecoderError where none meets the options."""
        assert memory is not None  # `generate` has seen to it
        captions: dict[int, Decoded] = {}
        waiting, wide = list(range(len(embeddings))), _CANDIDATES
        allowed = _allowed(options)
        while waiting:
            wide = min(wide, len(memory))
            chosen = self._choose(memory, embeddings[waiting].detach().float(), wide, options, allowed)
            captions |= {row: one for row, one in zip(waiting, chosen, strict=True) if one}
            waiting = [row for row in waiting if row not in captions]
            if waiting and wide == len(memory):
                limits = "max_tokens", "min_tokens", "banned_words", "no_repeat_ngram"
                told = ", ".join(f"{name} {getattr(options, name)}" for name in limits)
                raise DecoderError(f"none of the {wide} sentences in memory meets the options ({told}); loosen them")
            wide *= _WIDEN
        return [captions[row] for row in range(len(embeddings))]

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json; there are no weights, and the memory is kept by whoever gave it."""
        write_json(Path(folder) / CONFIG_FILE, {"type": "retrieval", "embedding_dim": self.embedding_dim})

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote; CheckpointError where a setting is missing, unknown or makes no sense."""
        with reading(folder / CONFIG_FILE):
            return cls(**config)

    def _choose(
        self, memory: TextMemory, rows: Tensor, wide: int, options: DecodeOptions, allowed: Callable[[str], bool]
    ) -> Iterator[Decoded | None]:
        """For each of (n, dim) rows an allowed sentence among its `wide` nearest; None without one."""
        texts = memory.texts
        assert texts is not None
        uniforms = row_uniforms(rows, 1, seed=options.seed)[:, 0]
        for near, uniform in zip(nearest_rows(memory, rows, wide), uniforms, strict=True):
            logits = torch.tensor([cosine for _, cosine in near]).double() / _TEMPERATURE
            fit = [place for place, (row, _) in enumerate(near) if allowed(texts[row])]
            if not fit:
                yield None
                continue
            pick = fit[0]
            if options.strategy == "sample":
                sharpened = (logits[fit] / options.temperature)[None]
                pick = fit[int(draw(sharpened, torch.tensor([uniform]), options.top_p))]
            row, log_prob = near[pick][0], float(logits.log_softmax(dim=0)[pick])
            yield Decoded(texts[row], (row,), (log_prob,))


def _allowed(options: DecodeOptions) -> Callable[[str], bool]:
    """Whether a sentence meets the options; each sentence is looked at once."""
    words = "|".join(r"\s+".join(map(re.escape, word.split())) for word in options.banned_words)
    banned = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE) if words else None
    size = options.no_repeat_ngram

    @cache
    def meets(text: str) -> bool:
        words = text.lower().split()
        if not options.min_tokens <= len(words) <= options.max_tokens:
            return False
        ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)] if size else []
        return len(set(ngrams)) == len(ngrams) and not (banned and banned.search(text))

    return meets


def likeness(one: str, other: str) -> float:
    """How alike two names are by their words, with nothing to download.

    1 for the same name in any number ("dogs", "dog"), 0.8 where one is the other made more special ("baseball player",
    "player"), 0.7 where the last words are listed synonyms and nothing else differs, else 0.
    """
    short, long = sorted((_words(one), _words(other)), key=len)
    if short == long:
        return 1.0
    if long[-len(short) :] == short:
        return 0.8
    group = _SYNONYMS.get(short[-1])
    synonyms = group is not None and group == _SYNONYMS.get(long[-1])
    return 0.7 if synonyms and short[:-1] == long[:-1] else 0.0


def _words(name: str) -> list[str]:
    *first, last = name.split() or [""]
    return [*first, singular(last)]


def find_concepts(texts: Sequence[str], graphs: Sequence[Graph]) -> list[str]:
    """The concepts of a few captions (the nearest first) and their graphs, in the order of their mean place.

    Names are merged from the most frequent down: each joins the first concept whose own name is alike enough. A
    concept, and an attribute of it that is no number, counts once for each caption that mentions it. Where none is
    counted three times, the highest count of at least 2 is enough; where the captions share nothing, the entities of
    the first caption stand in. The first four stay.

    Example:
        >>> texts = ["a red bus on a street", "a red bus with a man", "the red bus by a tree"]
        >>> find_concepts(texts, parse_all(texts))
        ['red bus']
    """
    concept_of = _merged(graphs)
    captions: dict[str, set[int]] = {name: set() for name in concept_of.values()}
    places: dict[str, list[int]] = {name: [] for name in captions}
    attributes: dict[str, Counter[str]] = {name: Counter() for name in captions}
    for number, (text, graph) in enumerate(zip(texts, graphs, strict=True)):
        words = [singular(word.strip(".,;:!?")) for word in text.lower().split()]
        for entity in graph:
            name, head = concept_of[entity.name], _words(entity.name)[-1]
            captions[name].add(number)
            places[name].append(words.index(head) if head in words else len(words))
        said = [(concept_of[one.name], attribute) for one in graph for attribute in one.attributes]
        for name, attribute in dict.fromkeys(said):
            attributes[name][attribute] += 1
    needed = min(_COUNT, max(map(len, captions.values()), default=0))
    kept = [name for name in captions if len(captions[name]) >= needed]
    if needed == 1:
        first = min(min(captions[name]) for name in kept)
        kept = [name for name in kept if first in captions[name]]
    kept.sort(key=lambda name: mean(places[name]))  # stable: the more frequent first
    return [" ".join([*_told(attributes[name]), name]) for name in kept[:_MOST]]


def _merged(graphs: Sequence[Graph]) -> dict[str, str]:
    """Name -> the name of its concept, the most frequent first; ties in order of first mention."""
    mentions = Counter(name for graph in graphs for name in dict.fromkeys(one.name for one in graph))
    concepts: dict[str, str] = {}
    for name, _ in mentions.most_common():
        alike = (one for one in concepts.values() if likeness(one, name) > _ALIKE)
        concepts[name] = next(alike, name)
    return concepts


def _told(attributes: Counter[str]) -> list[str]:
    """Those that are frequent enough and no numbers."""
    frequent = [attribute for attribute, count in attributes.items() if count >= _ATTRIBUTE]
    return [one for one in frequent if one not in WORDS["numbers"] and not one.isdigit()]


class ConceptPrompter:
    """Names what the captions nearest to an embedding agree on: "There are red bus, street in image."

    Args:
        parser: of captions, asked once for each.
        captions: nearest captions that are asked (published: 5).

    Example:
        >>> from memory_bank import MemoryBank
        >>> memory = MemoryBank(torch.ones(1, 2), ["a red bus on a street"])
        >>> ConceptPrompter().prompts(torch.ones(1, 2), memory)
        ['There are bus, street in image.']
    """

    def __init__(self, parser: Parser = parse_all, *, captions: int = 5) -> None:
        check("int [1, inf)", captions=captions)
        self.parser, self.captions = parser, captions
        self._graphs: dict[str, Graph] = {}

    def prompts(self, embeddings: Tensor, memory: TextMemory | None = None) -> list[str]:
        """The prompt of each of (n, dim) embeddings: one search for all, each distinct text parsed once."""
        assert memory is not None and memory.texts is not None  # `generate` has seen to it
        rows = nearest_rows(memory, embeddings, min(self.captions, len(memory)))
        texts = [tuple(memory.texts[place] for place, _ in row) for row in rows]
        graphs = self._parsed(dict.fromkeys(text for row in texts for text in row))
        found = {row: entity_prompt(find_concepts(row, [graphs[text] for text in row])) for row in dict.fromkeys(texts)}
        return [found[row] for row in texts]

    def _parsed(self, texts: dict[str, None]) -> dict[str, Graph]:
        """Graphs of these texts, and of others; threads may share them."""
        known = self._graphs
        unknown = [text for text in texts if text not in known]
        if len(known) + len(unknown) > _MOST_GRAPHS:  # other threads go on with what they hold
            known = self._graphs = {text: known[text] for text in texts if text in known}
        if unknown:
            known.update(zip(unknown, self.parser(unknown), strict=True))
        return known


class MeacapDecoder(ViecapDecoder):
    """A `ViecapDecoder`, trained as one, whose hard prompt comes from a memory of captions: the model's bank, say."""

    TYPE = "meacap"
    prompter: ConceptPrompter

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.prompter = self.prompter or ConceptPrompter()
        self.needs_memory = "hard" in self.config.prompts

    def _save_more(self, folder: Path) -> dict[str, Any]:
        parser = self.prompter.parser
        if parser is not parse_all and not isinstance(parser, T5Parser):
            raise CheckpointError(f"the parser {parser!r} cannot be saved with a decoder; use parse_all or T5Parser")
        told = {"type": "t5", "model": parser.model} if isinstance(parser, T5Parser) else {"type": "rules"}
        return {"concepts": {"captions": self.prompter.captions, "parser": told}}

    @classmethod
    def _load_more(cls, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
        concepts = dict(settings.pop("concepts"))
        kind = dict(concepts.pop("parser"))
        name = kind.pop("type")
        check(("rules", "t5"), parser=name)
        parser = T5Parser(**kind) if name == "t5" else parse_all
        return {"prompter": ConceptPrompter(parser, **concepts)}


class T5Parser:
    """A `Parser`: graphs written by a sequence-to-sequence model (about 1 GB) of transformers, greedily.

    Args:
        model: hub id or folder, read at the first call (MissingExtraError, HubError there), never unpickled.
        max_tokens: most tokens read of a text and written for it; a triple cut short is left out.
    """

    def __init__(self, model: str = PUBLISHED, *, max_tokens: int = 200) -> None:
        self.model, self.max_tokens = model, max_tokens

    def __call__(self, texts: Sequence[str]) -> list[Graph]:
        """One graph for each text, in their order; text that the model wrote badly adds nothing."""
        return [parse_triples(written) for written in self.write(texts)]

    @torch.inference_mode()
    def write(self, texts: Sequence[str]) -> list[str]:
        """What the model writes for each text."""
        tokenizer, network = self._parts
        how = {"max_new_tokens": self.max_tokens, "num_beams": 1, "do_sample": False}
        written = {}
        for text in dict.fromkeys(texts):  # one by one: padding would change what is written
            ids = tokenizer(_PROMPT + text, truncation=True, max_length=self.max_tokens, return_tensors="pt").input_ids
            out = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
            written[text] = tokenizer.decode(out[0], skip_special_tokens=True)
        return [written[text] for text in texts]

    @cached_property
    def _parts(self) -> list[Any]:
        """The tokenizer and the network; two threads that ask first may both read them."""
        tokenizer, network = read_pretrained(self.model, "AutoTokenizer", "AutoModelForSeq2SeqLM", dtype=torch.float32)
        return [tokenizer, network.eval()]


def parse_triples(written: str) -> Graph:
    """Read "( a , relation , b )" triples; ( a , is , b ) makes b an attribute of a.

    One entity for each name, in the order of first mention. Anything that is not a triple of words (cut short, nested,
    with a part missing) is passed over; "( a )" alone is an entity.

    Example:
        >>> parse_triples("( pigs , is , 2 ) , ( pigs , fly in , sky ) , ( bag ,")
        (Entity(name='pigs', attributes=('2',)), Entity(name='sky', attributes=()))
    """
    attributes: dict[str, dict[str, None]] = {}
    for inside in _TRIPLE.findall(written.lower()):
        parts = [" ".join(part.split()) for part in inside.split(",")]
        if not all(parts) or len(parts) not in (1, 3):
            continue
        said = attributes.setdefault(parts[0], {})
        if len(parts) == 3 and parts[1] in _ATTRIBUTE_WORDS:
            said[parts[2]] = None
        elif len(parts) == 3:
            attributes.setdefault(parts[2], {})
    return tuple(Entity(name, tuple(said)) for name, said in attributes.items())
