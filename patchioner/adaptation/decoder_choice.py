"""The decoder that an adaptation starts from: the checkpoint's own, a fresh small one, or one on a language model.

Knows: how each is made for a checkpoint. Does not know: the training, the corpus beyond its words.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import torch

from decoders import PrefixGPT2Decoder
from decoders.entities import COCO_ENTITIES, EntityPrompter, embed_entities
from decoders.language_model import LanguageDecoder
from patchioner.adaptation.options import DecoderShape, LanguageModelShape
from patchioner.base.errors import OptionError
from patchioner.checkpoints.parts import Parts
from patchioner.text import TextTower

TextDecoder: TypeAlias = PrefixGPT2Decoder | LanguageDecoder


def starting_decoder(
    source: Parts,
    tower: TextTower,
    texts: Sequence[str],
    fresh: DecoderShape | LanguageModelShape | None,
    *,
    seed: int,
) -> TextDecoder:
    """A decoder of the checkpoint's width, in float32 on its decoder's device.

    Args:
        source: lends its own decoder (a copy of it) where `fresh` is None.
        tower: embeds the names of entities.
        texts: the corpus, for a vocabulary.
        fresh: the shape of a new decoder.
        seed: of new weights.

    Raises:
        OptionError: the checkpoint's own decoder cannot be trained further.
        HubError, CheckpointError: a language model that cannot be had.
    """
    dim = source.decoder.embedding_dim
    decoder: TextDecoder
    if isinstance(fresh, LanguageModelShape):
        decoder = _on_language_model(fresh, tower, dim, seed)
    elif fresh is not None:
        decoder = PrefixGPT2Decoder.create(texts, embedding_dim=dim, seed=seed, **asdict(fresh))
    elif isinstance(source.decoder, PrefixGPT2Decoder | LanguageDecoder):
        # A hard prompter is no network and never changes: shared, with its caches and locks.
        prompter = getattr(source.decoder, "prompter", None)
        decoder = copy.deepcopy(source.decoder, {id(prompter): prompter})
    else:
        raise OptionError(
            f"a decoder of type {type(source.decoder).__name__} cannot be trained further: "
            "train one from scratch"
        )
    decoder.network.to(source.decoder.device, torch.float32)
    return decoder


def _on_language_model(
    shape: LanguageModelShape, tower: TextTower, dim: int, seed: int
) -> LanguageDecoder:
    made: dict[str, Any] = {"seed": seed}
    if shape.decoder == "prefix_lm":
        from decoders.prefix_lm import PrefixLMDecoder

        made |= {"tune": shape.tune, "keep": shape.keep}
        return PrefixLMDecoder.create(dim, shape.language_model, **made)
    if shape.decoder == "meacap":
        from decoders.meacap import MeacapDecoder

        return MeacapDecoder.create(dim, shape.language_model, **made)
    from decoders.viecap import ViecapDecoder

    names = shape.entities or COCO_ENTITIES
    made["prompter"] = EntityPrompter(names, embed_entities(names, tower.encode))
    return ViecapDecoder.create(dim, shape.language_model, **made)
