"""Writing with models of `transformers` so that no text depends on what else is in its batch.

Knows: logits, tokens, seeds, memory that runs out. Does NOT know: prompts, pictures, where models come from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from patchioner.base.errors import DetailError
from patchioner.base.optional import require

T = TypeVar("T")
R = TypeVar("R")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """Tokens of one text, without prompt and end mark, and their mean log-probability, the end mark's included."""

    tokens: tuple[int, ...]
    log_prob: float | None


class SeededSampler:
    """Chooses the next token of each row with random numbers of that row's own: a logits processor of `transformers`.

    Row i takes the token at which the cumulative probability, in the order of the vocabulary, passes its next uniform
    number: a draw from softmax(logits / temperature), within the smallest set of tokens whose probability reaches
    `top_p` (Holtzman et al. 2020). Only that token is left over, so that the model's own greedy choice takes it. A
    temperature of 0 takes the most probable token.

    Args:
        seeds: one per row.
        temperatures: one per row, 0 or more.
        top_p: over 0, at most 1.
        max_tokens: most steps.

    Example:
        >>> sampler = SeededSampler([1, 2], [0.7, 0.0], top_p=1.0, max_tokens=4)
        >>> sampler(torch.zeros(2, 1), torch.tensor([[0.0, 9.0], [1.0, 0.0]])).argmax(1)
        tensor([1, 0])
    """

    def __init__(
        self, seeds: Sequence[int], temperatures: Sequence[float], *, top_p: float, max_tokens: int
    ) -> None:
        # Drawn on the CPU, so that a seed means the same on every device.
        self._uniform = torch.stack([_uniform(seed, max_tokens) for seed in seeds])  # (rows, steps)
        self._temperatures = torch.tensor(temperatures, dtype=torch.float32)[:, None]
        self._top_p = top_p
        self.log_probs: list[Tensor] = []
        """Of the tokens chosen, at temperature 1: one (rows,) float32 per step."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, vocabulary) logits -> the same with all but one token per row at minus infinity."""
        logits = scores.float()
        if torch.isnan(logits).any():
            raise DetailError(
                "the model gives values that are not numbers; load it with dtype 'float32' or 'bfloat16'"
            )
        temperatures = self._temperatures.to(logits.device)
        greedy = temperatures == 0
        chosen = torch.where(
            greedy,
            logits.argmax(dim=1, keepdim=True),
            self._drawn(logits / temperatures.masked_fill(greedy, 1.0)),
        )
        self.log_probs.append(logits.log_softmax(dim=1).gather(1, chosen)[:, 0].cpu())
        left = torch.full_like(scores, float("-inf"))
        return left.scatter_(1, chosen, 0.0)

    def _drawn(self, logits: Tensor) -> Tensor:
        """(rows, 1) token ids."""
        # In float64: in float32 the sum of a large vocabulary is off by more than a rare token's share.
        wide = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
        probabilities = wide.double().softmax(dim=1)
        if self._top_p < 1:
            probabilities = _nucleus(probabilities, self._top_p)
        total = probabilities.cumsum(dim=1)
        uniform = self._uniform[:, len(self.log_probs), None].to(total.device)
        target = uniform * total[:, -1:]
        found = torch.searchsorted(total, target, right=True)
        # Rounding may carry the target past the end, where the last token that has any share stands.
        last = (probabilities > 0).long().cumsum(dim=1).argmax(dim=1, keepdim=True)
        return torch.minimum(found, last).to(logits.device)


def write(
    network: Any, inputs: Mapping[str, Any], sampler: SeededSampler, *, max_tokens: int, pad: int
) -> list[Written]:
    """Let a model of `transformers` write one text per row.

    Of the model's own generation settings, those stay that shape the logits (repetition penalty, suppressed tokens) and
    the end marks; sampling is the sampler's alone, without beams.

    Args:
        network: any model with `generate`.
        inputs: its keyword arguments, on its device; "input_ids" padded on the left.
        sampler: for as many rows as the inputs have.
        max_tokens: most tokens of a text.
        pad: id of the padding token.
    """
    transformers: Any = require("transformers", "language-models")
    config = transformers.GenerationConfig(
        do_sample=False, num_beams=1, temperature=1.0, top_p=1.0, top_k=50,
        max_new_tokens=max_tokens, pad_token_id=pad, return_dict_in_generate=False,
    )  # fmt: skip
    with torch.inference_mode():
        output = network.generate(
            **inputs,
            generation_config=config,
            logits_processor=transformers.LogitsProcessorList([sampler]),
        ).cpu()
    steps = len(sampler.log_probs)
    written = output[
        :, output.shape[1] - steps :
    ].tolist()  # the prompt, where there is one, is ahead
    log_probs = torch.stack(sampler.log_probs, dim=1).tolist() if steps else [[] for _ in written]
    ends = _ends(network)
    return [_cut(tokens, values, ends) for tokens, values in zip(written, log_probs, strict=True)]


def in_batches(
    items: Sequence[T], run: Callable[[Sequence[T]], list[R]], size: int
) -> Iterator[R | DetailError]:
    """Results in order, of batches that are halved, for good, whenever memory runs out.

    Where it does not suffice for an item alone, a `DetailError` stands in its place.

    Args:
        items: what to work on.
        run: a batch -> as many results.
        size: of the first batch, at least 1.

    Example:
        >>> list(in_batches([1, 2, 3], lambda batch: [2 * item for item in batch], 2))
        [2, 4, 6]
    """
    done = 0
    while done < len(items):
        batch = items[done : done + size]
        try:
            results = run(batch)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            spent = str(error).splitlines()[0] if str(error) else "out of memory"
            results = None
        if results is not None:
            yield from results
            done += len(batch)
            continue
        # Outside the except block: the error holds on to the tensors of the batch that did not fit.
        if len(batch) == 1:
            yield DetailError(
                f"memory does not suffice for a single picture or prompt ({spent}); show it smaller, write less, or "
                "take a smaller model"
            )
            done += 1
            continue
        size = len(batch) // 2
        _LOG.warning("memory does not suffice for %d at once; going on with %d", len(batch), size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(rows, vocabulary) with what lies outside the smallest set that reaches `top_p` at 0."""
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    outside = ordered.cumsum(dim=1) - ordered >= top_p
    return probabilities.masked_fill(torch.zeros_like(outside).scatter_(1, order, outside), 0.0)


def _ends(network: Any) -> set[int]:
    given = network.generation_config.eos_token_id
    if given is None:
        given = getattr(network.config.get_text_config(), "eos_token_id", None)
    if given is None:
        return set()
    return {int(given)} if isinstance(given, int) else {int(one) for one in given}


def _cut(tokens: Sequence[int], log_probs: Sequence[float], ends: set[int]) -> Written:
    length = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    values = log_probs[: length + 1]
    return Written(tuple(tokens[:length]), sum(values) / len(values) if values else None)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    said = str(error).lower()
    return "out of memory" in said or "can't allocate memory" in said
