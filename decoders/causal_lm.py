"""A causal language model of `transformers` as a network of the engine, and its training loss.

Knows: prefixes of several lengths in one batch, masks, positions, the key-value cache.
Does NOT know: where a prefix comes from, tokenizers, decoding strategies, files.

Prefixes are padded at the LEFT, masked, and positions are counted over real places only: so a row reads exactly what it
would read alone (the published ViECap pads at the right without a mask, and its captions depend on their batch), and
every row's next token stands at the same place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.head import GivenLogits
from patchioner.base.errors import DecoderError, OptionError

# (n, dim) embeddings -> the input vectors (p_i, width) of each row, p_i at least 1
Prefixes: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
_NO_LIMIT = 1_000_000  # positions of a model that has no table of them


@dataclass
class LanguageCache:
    """What the model has read of each row.

    Attributes:
        past: keys and values, a cache of `transformers`.
        mask: (rows, places read) int64, 0 at padding; None where there is no padding.
        position: (rows,) int64, of the next token.
    """

    past: Any
    mask: Tensor | None
    position: Tensor

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be repeated (beams) or left out (ended)."""
        self.past.reorder_cache(rows)
        self.position = self.position[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]


class CausalLanguageModel:
    """Drives a model of `transformers`; a `StepNetwork` of the engine.

    Args:
        model: a causal language model, in evaluation mode.
        prefixes: makes the input vectors that stand before the caption.
        prefix_tokens: most vectors that it makes of one row.

    Raises:
        OptionError: a model without key-value cache (such as a recurrent one), or with too few positions.
    """

    def __init__(self, model: nn.Module, prefixes: Prefixes, *, prefix_tokens: int) -> None:
        self.model: Any = model
        self.prefixes, self.prefix_tokens = prefixes, prefix_tokens
        self._known = _known_inputs(self.model)
        if self.max_tokens < 1:
            raise OptionError(
                f"the language model has {positions_of(model)} positions, the prompt takes "
                f"{prefix_tokens}; use a shorter prompt or a model with more positions"
            )

    @property
    def max_tokens(self) -> int:
        """Most tokens of a caption: the last one generated needs no position."""
        return positions_of(self.model) - self.prefix_tokens + 1

    @property
    def head(self) -> GivenLogits:
        """The states of such a model are its logits: its last layer may be more than a product."""
        return GivenLogits(vocabulary_of(self.model))

    def row_bytes(self, max_tokens: int) -> int:
        """Memory that one row of a batch needs while decoding `max_tokens` tokens."""
        config = self.model.config.get_text_config()
        heads = int(config.num_attention_heads)
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * int(head)
        size = self.model.get_input_embeddings().weight.element_size()
        places = self.prefix_tokens + max_tokens
        # Twice, because a cache that grows is copied; the inner activations of reading the prefix.
        cache = 2 * 2 * int(config.num_hidden_layers) * keys * places * size
        reading = 16 * int(config.hidden_size) * self.prefix_tokens * size
        return int(cache + reading + vocabulary_of(self.model) * (size + 8))

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, LanguageCache]:
        """Read the prefixes of (n, dim) embeddings; float32 logits (n, vocab) of the first token."""
        inputs, mask = pad_left(self.prefixes(embeddings))
        longest = positions_of(self.model) + 1 - max_tokens
        if inputs.shape[1] > longest:
            raise DecoderError(
                f"a prompt of {inputs.shape[1]} vectors leaves no room for {max_tokens} tokens; "
                "lower max_tokens"
            )
        padded = bool((mask == 0).any())
        out = self._read(
            inputs_embeds=inputs,
            attention_mask=mask if padded else None,
            position_ids=positions_in(mask),
            past_key_values=None,
        )
        cache = LanguageCache(out.past_key_values, mask if padded else None, mask.sum(dim=1))
        return out.logits[:, -1].float(), cache

    def step(self, tokens: Tensor, cache: LanguageCache) -> Tensor:
        """Read one more token (n,) of each row; float32 logits (n, vocab) of the next."""
        if cache.mask is not None:
            cache.mask = functional.pad(cache.mask, (0, 1), value=1)
        out = self._read(
            input_ids=tokens[:, None],
            attention_mask=cache.mask,
            position_ids=cache.position[:, None],
            past_key_values=cache.past,
        )
        cache.past, cache.position = out.past_key_values, cache.position + 1
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def _read(self, *, position_ids: Tensor, **inputs: Any) -> Any:
        extra = _extra_inputs(self._known, keep=1, position_ids=position_ids)
        return self.model(**inputs, **extra, use_cache=True, return_dict=True)


def language_loss(
    model: nn.Module,
    prefixes: Sequence[Tensor],
    tokens: Tensor,
    lengths: Tensor,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of the captions' tokens, each predicted from its prefix and the tokens before.

    Args:
        model: a causal language model.
        prefixes: n input vectors (p_i, width); gradients flow into them.
        tokens: (n, t) int64, padded at the end.
        lengths: (n,) int64, real tokens of each row.
        label_smoothing: mass spread over the whole vocabulary.
    """
    network: Any = model
    inputs, mask = pad_left(prefixes)
    words = network.get_input_embeddings()(tokens[:, :-1]).to(inputs.dtype)
    count = tokens.shape[1]
    # Padding after a caption is hidden by causality from all that counts, so it needs no mask.
    mask = functional.pad(mask, (0, count - 1), value=1)
    extra = _extra_inputs(_known_inputs(network), keep=count, position_ids=positions_in(mask))
    logits = network(
        inputs_embeds=torch.cat([inputs, words], dim=1),
        attention_mask=mask,
        use_cache=False,
        return_dict=True,
        **extra,
    ).logits[:, -count:]
    real = torch.arange(count, device=tokens.device) < lengths[:, None]
    return functional.cross_entropy(
        logits[real].float(), tokens[real], label_smoothing=label_smoothing
    )


def pad_left(prefixes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of (p_i, width) as one (n, p, width), zeros before the shorter ones, and a mask (n, p) int64.

    Example:
        >>> pad_left([torch.ones(1, 2), torch.ones(2, 2)])[1].tolist()
        [[0, 1], [1, 1]]
    """
    longest = max(len(prefix) for prefix in prefixes)
    inputs = torch.stack(
        [functional.pad(prefix, (0, 0, longest - len(prefix), 0)) for prefix in prefixes]
    )
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=inputs.device)
    places = torch.arange(longest, device=inputs.device)
    return inputs, (places >= longest - lengths[:, None]).long()


def positions_in(mask: Tensor) -> Tensor:
    """Position (n, p) of every place: the real ones count from 0, padding is at 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def positions_of(model: nn.Module) -> int:
    """Longest sequence that the model can read; a million where it has no limit of its own."""
    config: Any = model.config
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else _NO_LIMIT


def width_of(model: nn.Module) -> int:
    """Width of the model's input vectors."""
    words: Any = model
    return int(words.get_input_embeddings().weight.shape[1])


def vocabulary_of(model: nn.Module) -> int:
    """Number of tokens that the model knows."""
    words: Any = model
    return int(words.get_input_embeddings().weight.shape[0])


def _known_inputs(model: Any) -> frozenset[str]:
    """The names of what `forward` takes; OptionError where it is not the forward of a causal transformer."""
    known = frozenset(inspect.signature(model.forward).parameters)
    missing = [name for name in ("inputs_embeds", "past_key_values") if name not in known]
    if missing:
        raise OptionError(
            f"{type(model).__name__} takes no {' and no '.join(missing)}; choose a causal transformer "
            "(GPT-2, OPT, Llama, Qwen ...)"
        )
    return known


def _extra_inputs(known: frozenset[str], *, keep: int, position_ids: Tensor) -> dict[str, Any]:
    """Logits of the last `keep` places only, and positions, for a model that knows the words."""
    wanted = {"logits_to_keep": keep, "position_ids": position_ids}
    return {name: value for name, value in wanted.items() if name in known}
