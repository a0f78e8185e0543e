"""A causal language model of `transformers` as a network of the engine, and its training loss.

Knows: prefixes of several lengths in one batch, masks, positions, the key-value cache.
Does NOT know: where a prefix comes from, tokenizers, decoding strategies, files.

Prefixes are padded at the LEFT, masked, and positions are counted over real places only: so a row reads exactly what it
would read alone (the published ViECap pads at the right without a mask, and its captions depend on their batch), and
every row's next token stands at the same place.
"""

from __future__ import annotations

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
        past: keys and values, a cache of `transformers`; None for a model that gives none.
        keyword: the name by which `transformers` gives `past` back and takes it.
        inputs: (rows, places, width), all that was read, where there is no `past`.
        mask: (rows, places read) int64, 0 at padding; None where there is no padding.
        position: (rows,) int64, of the next token.
    """

    past: Any
    keyword: str
    inputs: Tensor | None
    mask: Tensor | None
    position: Tensor

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be repeated (beams) or left out (ended)."""
        if self.past is not None:
            self.past.reorder_cache(rows)
        if self.inputs is not None:
            self.inputs = self.inputs[rows]
        self.position = self.position[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]


class CausalLanguageModel:
    """Drives a model of `transformers` through its documented call; a `StepNetwork` of the engine.

    The cache is taken from the output and handed back under the name that it has there, so no name of an argument is
    relied on. What is relied on is tried once when the model comes in: padding must not change a row, and reading on
    with the cache must equal reading anew.

    Args:
        model: a causal language model, in evaluation mode.
        prefixes: makes the input vectors that stand before the caption.
        prefix_tokens: most vectors that it makes of one row.

    Raises:
        OptionError: a model that cannot be driven so, or with too few positions.
    """

    def __init__(self, model: nn.Module, prefixes: Prefixes, *, prefix_tokens: int) -> None:
        self.model: Any = model
        self.prefixes, self.prefix_tokens = prefixes, prefix_tokens
        self._extras = _accepted_extras(self.model)
        if self.max_tokens < 1:
            raise OptionError(
                f"the language model has {positions_of(model)} positions, the prompt takes "
                f"{prefix_tokens}; use a shorter prompt or a model with more positions"
            )
        if not self._sound():
            raise OptionError(
                f"{type(model).__name__} minds padding or its own cache; choose a causal transformer "
                "(GPT-2, OPT, Llama, Qwen ...)"
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
        return self._begin(inputs, mask)

    def step(self, tokens: Tensor, cache: LanguageCache) -> Tensor:
        """Read one more token (n,) of each row; float32 logits (n, vocab) of the next."""
        if cache.mask is not None:
            cache.mask = functional.pad(cache.mask, (0, 1), value=1)
        cache.position = cache.position + 1
        if cache.inputs is not None:
            words = self.model.get_input_embeddings()(tokens[:, None])
            cache.inputs = torch.cat([cache.inputs, words], dim=1)
            mask = torch.ones_like(cache.inputs[..., 0]) if cache.mask is None else cache.mask
            return self._begin(cache.inputs, mask.long())[0]
        out = self._read(
            keep=1,
            position_ids=cache.position[:, None] - 1,
            input_ids=tokens[:, None],
            attention_mask=cache.mask,
            use_cache=True,
            **{cache.keyword: cache.past},
        )
        cache.past = out[cache.keyword]
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def loss(
        self,
        prefixes: Sequence[Tensor],
        tokens: Tensor,
        lengths: Tensor,
        *,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Mean cross-entropy of the captions' tokens, each predicted from its prefix and the tokens before.

        Args:
            prefixes: n input vectors (p_i, width); gradients flow into them.
            tokens: (n, t) int64, padded at the end.
            lengths: (n,) int64, real tokens of each row.
            label_smoothing: mass spread over the whole vocabulary.
        """
        inputs, mask = pad_left(prefixes)
        words = self.model.get_input_embeddings()(tokens[:, :-1]).to(inputs.dtype)
        count = tokens.shape[1]
        # Padding after a caption is hidden by causality from all that counts, so it needs no mask.
        mask = functional.pad(mask, (0, count - 1), value=1)
        out = self._read(
            keep=count,
            position_ids=positions_in(mask),
            inputs_embeds=torch.cat([inputs, words], dim=1),
            attention_mask=mask,
            use_cache=False,
        )
        real = torch.arange(count, device=tokens.device) < lengths[:, None]
        return functional.cross_entropy(
            out.logits[:, -count:][real].float(), tokens[real], label_smoothing=label_smoothing
        )

    def _begin(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, LanguageCache]:
        """Read (n, p, width) vectors, masked (n, p)."""
        padded = bool((mask == 0).any())
        out = self._read(
            keep=1,
            position_ids=positions_in(mask),
            inputs_embeds=inputs,
            attention_mask=mask if padded else None,
            use_cache=True,
        )
        caches = [name for name, value in out.items() if hasattr(value, "reorder_cache")]
        name = caches[0] if caches else ""
        cache = LanguageCache(
            past=out[name] if name else None,
            keyword=name,
            inputs=None if name else inputs,
            mask=mask if padded else None,
            position=mask.sum(dim=1),
        )
        return out.logits[:, -1].float(), cache

    def _read(self, *, keep: int, position_ids: Tensor, **inputs: Any) -> Any:
        wanted = {"position_ids": position_ids, "logits_to_keep": keep}
        extra = {name: wanted[name] for name in self._extras}
        return self.model(**inputs, **extra, return_dict=True)

    @torch.inference_mode()
    def _sound(self) -> bool:
        """Whether a padded row reads as it does alone, and a step with the cache as one without."""
        words = self.model.get_input_embeddings()
        ids = torch.arange(3, device=words.weight.device) % vocabulary_of(self.model)
        vectors = words(ids)
        together, cache = self._begin(*pad_left([vectors[1:2], vectors[:2]]))
        alone = self._begin(*pad_left([vectors[1:2]]))[0]
        cached = self.step(ids[2:].expand(2), cache)
        anew = self._begin(*pad_left([vectors[1:], vectors]))[0]
        pairs = ((together[:1], alone), (cached, anew))
        return all(
            bool((one - other).abs().max() <= 0.05 * other.abs().max().clamp(min=1e-6))
            for one, other in pairs
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


def _accepted_extras(model: Any) -> tuple[str, ...]:
    """Which of the arguments that spare work the model takes; OptionError where it is no language model."""
    for extras in (("position_ids", "logits_to_keep"), ("position_ids",), ()):
        try:
            vectors = model.get_input_embeddings().weight[None, :1]
            given = {"position_ids": torch.zeros_like(vectors[..., 0], dtype=torch.int64)}
            given["logits_to_keep"] = 1
            with torch.inference_mode():
                model(inputs_embeds=vectors, **{name: given[name] for name in extras})
            return extras
        except (TypeError, AttributeError):
            continue
    raise OptionError(
        f"{type(model).__name__} is no causal language model that reads input vectors; choose a "
        "causal transformer (GPT-2, OPT, Llama, Qwen ...)"
    )
