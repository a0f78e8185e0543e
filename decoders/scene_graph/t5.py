"""The published scene-graph parser: a T5 that writes triples, through transformers.

Its output is "( man , ride , horse ) , ( horse , is , brown )". Source: Li et al. 2023, "FACTUAL: A Benchmark for
Faithful and Consistent Textual Scene Graph Parsing"; the model is fetched from the hub at first use (about 1 GB).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from decoders.language_model import (
    HelperModel,
)
from decoders.options import check_whole
from decoders.scene_graph.graphs import Entity, SceneGraph

PUBLISHED = "lizhuang144/flan-t5-base-VG-factual-sg"

_PROMPT = "Generate Scene Graph: "
_TRIPLE = re.compile(r"\(([^()]*)\)")
_ATTRIBUTE_WORDS = ("is", "are", "has attribute")


class T5Parser:
    """Scene graphs written by a sequence-to-sequence model, greedily.

    Texts are grouped by length in tokens, so that no batch holds padding and a text's graph does not depend on the
    others.

    Args:
        model: hub id or folder of a T5 and its tokenizer. Read at the first `parse`, never unpickled.
        device: where it runs.
        batch: most texts at a time.
        max_tokens: most tokens read of a text and written for it; a triple cut short is left out.

    Raises:
        OptionError: a number below 1.
        MissingExtraError: (at the first `parse`) transformers is not installed.
        HubError: (at the first `parse`) the model cannot be had, or not as safetensors.
    """

    def __init__(
        self,
        model: str = PUBLISHED,
        *,
        device: str | torch.device = "cpu",
        batch: int = 16,
        max_tokens: int = 200,
    ) -> None:
        check_whole(batch=batch, max_tokens=max_tokens)
        self.model, self.device = model, torch.device(device)
        self.batch, self.max_tokens = batch, max_tokens
        self._helper = HelperModel(
            model, "AutoModelForSeq2SeqLM", instead="use the rule-based parser", device=self.device
        )

    def parse(self, texts: Sequence[str]) -> list[SceneGraph]:
        """One graph for each text, in their order; text that the model wrote badly adds nothing."""
        return [parse_triples(written) for written in self.write(texts)]

    @torch.inference_mode()
    def write(self, texts: Sequence[str]) -> list[str]:
        """What the model writes for each text."""
        if not len(texts):
            return []
        network, tokenizer = self._helper.parts()
        ids: list[list[int]] = tokenizer(
            [_PROMPT + text for text in texts], truncation=True, max_length=self.max_tokens
        )["input_ids"]
        written = [""] * len(texts)
        for places in _equal_lengths(ids, self.batch):
            batch = torch.tensor([ids[place] for place in places], device=self.device)
            out = network.generate(
                input_ids=batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=self.max_tokens,
                num_beams=1,
                do_sample=False,
            )
            lines = tokenizer.batch_decode(out, skip_special_tokens=True)
            for place, line in zip(places, lines, strict=True):
                written[place] = line
        return written


def parse_triples(written: str) -> SceneGraph:
    """Read "( a , relation , b )" triples; ( a , is , b ) makes b an attribute of a.

    One entity for each name, in the order of first mention. Anything that is not a triple of words (cut short,
    nested, with a part missing) is passed over; "( a )" alone is an entity.

    Example:
        >>> graph = parse_triples("( pigs , is , 2 ) , ( pigs , fly in , sky ) , ( bag ,")
        >>> graph.entities
        (Entity(name='pigs', attributes=('2',)), Entity(name='sky', attributes=()))
    """
    places: dict[str, int] = {}
    attributes: dict[str, dict[str, None]] = defaultdict(dict)
    for inside in _TRIPLE.findall(written.lower()):
        parts = [" ".join(part.split()) for part in inside.split(",")]
        if not all(parts) or len(parts) not in (1, 3):
            continue
        places.setdefault(parts[0], len(places))
        if len(parts) == 3 and parts[1] in _ATTRIBUTE_WORDS:
            attributes[parts[0]][parts[2]] = None
        elif len(parts) == 3:
            places.setdefault(parts[2], len(places))
    entities = tuple(Entity(name, tuple(attributes[name])) for name in places)
    return SceneGraph(entities)


def _equal_lengths(ids: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Places of sequences of one length, at most `most` at a time."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(ids):
        by_length[len(one)].append(place)
    for places in by_length.values():
        for first in range(0, len(places), most):
            yield places[first : first + most]
