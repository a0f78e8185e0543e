"""Greedy search by CUDA graphs: steps of one fixed shape, replayed; nothing waits for the device between tokens.

A batch is padded to a power of two, and rows that have ended go on, unread. On a CPU the steps run without graphs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from decoders.head import LinearHead, best_tokens
from decoders.search import Constraints, Hypothesis, hypotheses

LOOK_EVERY = 8
_WARM_UP = 3  # steps before a capture: kernels are chosen and memory is found in the first


def can_capture(network: Any, constraints: Constraints) -> bool:
    """Whether the steps of a network (`PrefixGPT2`) can be replayed: no bans that are looked up on the host."""
    fixed = hasattr(network, "step_graphs") and isinstance(network.head, LinearHead)
    return fixed and not network.head.matrix.is_inference() and not constraints.reads_tokens


class PreparedStep:
    """A step of one shape: cache, tokens and states stay where they are, so that on CUDA a graph can be replayed.

    The network has `fixed_cache(rows, capacity)`, `read_prefix` and `step`.
    """

    def __init__(self, network: Any, rows: int, capacity: int, device: torch.device) -> None:
        self._network = network
        self.cache = network.fixed_cache(rows, capacity)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._graph: Any = None
        if device.type == "cuda":
            self._capture()

    def __call__(self, tokens: Tensor) -> Tensor:
        """States (rows, width) after (rows,) tokens; the next call writes over them."""
        if self._graph is None:
            states: Tensor = self._network.step(tokens, self.cache)
            return states
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._states

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.cache.restart()
                self._network.step(self._tokens, self.cache)
        torch.cuda.current_stream().wait_stream(stream)
        self.cache.restart()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._states: Tensor = self._network.step(self._tokens, self.cache)
        self._graph = graph


class StepGraphs:
    """The prepared steps of one network with the weights that it has. One thread uses them at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[tuple[int, int], PreparedStep] = {}

    @contextmanager
    def borrow(
        self, network: Any, rows: int, capacity: int, device: torch.device
    ) -> Iterator[PreparedStep]:
        """The step of this shape, prepared when first asked for."""
        with self._lock:
            if (rows, capacity) not in self._steps:
                self._steps[rows, capacity] = PreparedStep(network, rows, capacity, device)
            yield self._steps[rows, capacity]


def graph_search(network: Any, embeddings: Tensor, constraints: Constraints) -> list[Hypothesis]:
    """The likeliest token at every step, for each row of (n, dim) embeddings; the tokens of `greedy_search`."""
    options, ends = constraints.options, constraints.ends
    count, device = len(embeddings), embeddings.device
    rows = 1 << (count - 1).bit_length()
    padded = torch.cat([embeddings, embeddings[:1].expand(rows - count, -1)])
    tokens = torch.full((rows, options.max_tokens), -1, dtype=torch.int64, device=device)
    log_probs = torch.zeros((rows, options.max_tokens), dtype=torch.float32, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    written = torch.empty_like(tokens)
    head = network.head
    graphs = network.step_graphs.of(head.matrix)
    with graphs.borrow(network, rows, options.max_tokens, device) as step:
        step.cache.restart()
        states = network.read_prefix(padded, step.cache)
        for place in range(options.max_tokens):
            bans = constraints.at(written[:, :place])
            chosen, values = best_tokens(head, states, bans, scores=options.scores)
            written[:, place] = chosen
            tokens[:, place] = chosen.masked_fill(ended, -1)
            log_probs[:, place] = values
            ended |= torch.isin(chosen, ends)
            if place + 1 == options.max_tokens:
                break
            if (place + 1) % LOOK_EVERY == 0 and bool(ended.all()):
                break
            states = step(chosen)
    return hypotheses(tokens[:count].tolist(), log_probs[:count].tolist())
