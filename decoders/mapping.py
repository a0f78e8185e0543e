"""Mappers: an embedding becomes the soft prompt of a language model. Names of the weights are the published ViECap's.

Sources: Mokady et al. 2021 (ClipCap, arXiv 2111.09734, section 3.1: a transformer over the projected embedding and
learned constants, whose outputs at the constants are the prefix); Fei et al. 2023 (ViECap, arXiv 2307.16525).
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.options import check_whole
from patchioner.base.errors import OptionError


class MappingNetwork(nn.Module):
    """Linear(dim -> project_tokens * width), learned constants appended, a transformer, its last outputs.

    Layers are pre-norm: x + attention(norm1(x)), then x + mlp(norm2(x)); attention goes both ways, over all
    project_tokens + prompt_tokens places.

    Args:
        embedding_dim: width of the embeddings.
        width: of the language model's inputs, a multiple of `heads`.
        prompt_tokens: learned constants, and so vectors of the soft prompt.
        project_tokens: vectors that the embedding is projected to.
        layers, heads: of the transformer.
        mlp_ratio: width of the inner layer, in widths.
        seed: of the initial weights.

    Raises:
        OptionError: when the numbers do not fit together.

    Example:
        >>> MappingNetwork(8, 16, prompt_tokens=3, layers=1, heads=2)(torch.zeros(5, 8)).shape
        torch.Size([5, 3, 16])
    """

    def __init__(
        self,
        embedding_dim: int,
        width: int,
        *,
        prompt_tokens: int = 10,
        project_tokens: int = 10,
        layers: int = 8,
        heads: int = 8,
        mlp_ratio: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole(
            embedding_dim=embedding_dim,
            width=width,
            prompt_tokens=prompt_tokens,
            project_tokens=project_tokens,
            layers=layers,
            heads=heads,
            mlp_ratio=mlp_ratio,
        )
        if width % heads:
            raise OptionError(
                f"width {width} is not a multiple of heads {heads}; change the heads of the mapping "
                "network"
            )
        self.prompt_tokens, self.project_tokens = prompt_tokens, project_tokens
        # torch's layers draw their initial weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(embedding_dim, project_tokens * width)
            self.prefix_const = nn.Parameter(torch.randn(prompt_tokens, width))
            self.transformer = _Transformer(width, layers=layers, heads=heads, mlp_ratio=mlp_ratio)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) to the soft prompt (n, prompt_tokens, width)."""
        rows, width = len(embeddings), self.prefix_const.shape[1]
        projected = self.linear(embeddings).view(rows, self.project_tokens, width)
        constants = self.prefix_const.expand(rows, -1, -1)
        out: Tensor = self.transformer(torch.cat([projected, constants], dim=1))
        return out[:, self.project_tokens :]


class PromptMLP(nn.Module):
    """The simple mapper: Linear, tanh, Linear to `prompt_tokens` vectors (ClipCap's first variant).

    Args:
        embedding_dim: width of the embeddings.
        width: of the language model's inputs.
        prompt_tokens: vectors of the soft prompt.
        seed: of the initial weights.

    Example:
        >>> PromptMLP(8, 16, prompt_tokens=3)(torch.zeros(5, 8)).shape
        torch.Size([5, 3, 16])
    """

    def __init__(
        self, embedding_dim: int, width: int, *, prompt_tokens: int = 10, seed: int = 0
    ) -> None:
        super().__init__()
        check_whole(embedding_dim=embedding_dim, width=width, prompt_tokens=prompt_tokens)
        self.prompt_tokens = prompt_tokens
        inner = max(1, prompt_tokens * width // 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.input = nn.Linear(embedding_dim, inner)
            self.output = nn.Linear(inner, prompt_tokens * width)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) to the soft prompt (n, prompt_tokens, width)."""
        out: Tensor = self.output(torch.tanh(self.input(embeddings)))
        return out.view(len(embeddings), self.prompt_tokens, -1)


class _Transformer(nn.Module):
    def __init__(self, width: int, *, layers: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads, mlp_ratio) for _ in range(layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _FeedForward(width, mlp_ratio * width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden))
        out: Tensor = hidden + self.mlp(self.norm2(hidden))
        return out


class _Attention(nn.Module):
    """Self-attention without mask; keys are the first half of `to_keys_values`, values the second."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        rows, places, width = hidden.shape
        shape = (rows, places, self.heads, width // self.heads)
        queries = self.to_queries(hidden).view(shape).transpose(1, 2)
        keys, values = (
            part.reshape(shape).transpose(1, 2)
            for part in self.to_keys_values(hidden).chunk(2, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(rows, places, width))
        return out


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.relu(self.fc1(hidden)))
        return out
