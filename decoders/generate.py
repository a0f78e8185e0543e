"""The one loop from embeddings to captions: checks, equal embeddings once, batches within a memory budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from decoders.base import Decoded, DecodeOptions, StepNetwork, Vocabulary
from decoders.cuda_graph import can_capture, graph_search
from decoders.search import Constraints, Hypothesis, beam_search, greedy_search, sample_search
from patchioner.base.errors import DecoderError

_SEARCHES: dict[str, Callable[..., list[Hypothesis]]] = {
    "greedy": greedy_search,
    "beam": beam_search,
    "sample": sample_search,
}
_BEAM_COPIES = 3  # scores, log-probabilities and the cache while beams are reordered


@torch.inference_mode()
def generate(
    network: StepNetwork,
    vocabulary: Vocabulary,
    embeddings: Tensor,
    options: DecodeOptions,
    *,
    embedding_dim: int,
    device: torch.device,
) -> list[Decoded]:
    """As `Decoder.generate`, by a network in evaluation mode on `device`; embeddings are left untouched.

    A row's caption does not depend on the others, up to the rounding of the platform's matrix product.
    """
    check_embeddings(embeddings, embedding_dim)
    if options.max_tokens > network.max_tokens:
        raise DecoderError(
            f"max_tokens is {options.max_tokens}, but this decoder has positions for "
            f"{network.max_tokens}; lower max_tokens"
        )
    if not len(embeddings):
        return []
    distinct, places = distinct_rows(embeddings.detach().to(device, torch.float32))
    constraints = Constraints(vocabulary, options, device)
    search = _SEARCHES[options.strategy]
    if search is greedy_search and device.type == "cuda" and can_capture(network, constraints):
        search = graph_search
    found: list[Hypothesis] = []
    size = rows_per_batch(network, options)
    for first in range(0, len(distinct), size):
        part = distinct[first : first + size]
        found += search(network, part, constraints, options, vocabulary.end_ids)
    captions = [Decoded(vocabulary.decode(ids), ids, log_probs) for ids, log_probs in found]
    many = options.samples
    return [one for place in places for one in captions[place * many : (place + 1) * many]]


def check_embeddings(embeddings: Tensor, dim: int) -> None:
    """DecoderError for what is not (n, dim) finite floats."""
    if embeddings.dim() != 2 or embeddings.shape[1] != dim:
        raise DecoderError(
            f"the embeddings have shape {tuple(embeddings.shape)}; this decoder takes (n, {dim})"
        )
    if not embeddings.is_floating_point():
        raise DecoderError(f"the embeddings are {embeddings.dtype}; give a float tensor")
    bad = (~torch.isfinite(embeddings).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise DecoderError(
            f"embeddings that are not finite in row {rows}; "
            "check the regions and features that they come from"
        )


def distinct_rows(embeddings: Tensor) -> tuple[Tensor, list[int]]:
    """Each different row once, in order of appearance, and for each row which of them it is."""
    keys = [row.tobytes() for row in embeddings.cpu().numpy()]
    firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return embeddings[[firsts[key] for key in order]], [order[key] for key in keys]


def rows_per_batch(network: StepNetwork, options: DecodeOptions) -> int:
    """Rows that fit the memory budget, at least one."""
    row = network.row_bytes(options.max_tokens) * options.samples
    if options.strategy == "beam":
        row *= _BEAM_COPIES * options.beam_width
    return max(1, int(options.batch_memory_mb * 2**20 / row))
