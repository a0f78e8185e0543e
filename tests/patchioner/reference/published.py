"""The published arithmetic, written plainly from its description, quirks and all.

A twin for tests: it knows plain numbers and tensors, and nothing of ours. Boxes are x, y, w, h; maps (side, side)
float64; tokens (patches, dim) row by row.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Row: TypeAlias = Sequence[float]
Span: TypeAlias = tuple[list[int], list[int]]  # columns and rows that a box takes


def stretched(box: Row, image_size: tuple[int, int], target: int) -> Row:
    """An annotation's box in the pixels of an image stretched to target x target; nothing is clamped."""
    width, height = image_size
    x, y, w, h = box
    return x * (target / width), y * (target / height), w * (target / width), h * (target / height)


def cropped(box: Row, image_size: tuple[int, int], target: int) -> Row:
    """The same after resize of the short side and centre crop: the origin is moved, the size is not shortened."""
    scale = target / min(image_size)
    left = max(0, (int(image_size[0] * scale) - target) // 2)
    top = max(0, (int(image_size[1] * scale) - target) // 2)
    x = min(max(box[0] * scale - left, 0), target - 1)
    y = min(max(box[1] * scale - top, 0), target - 1)
    return x, y, min(max(box[2] * scale, 0), target - x), min(max(box[3] * scale, 0), target - y)


def rectangle(box: Row, patch: int, side: int) -> Span:
    """Of a box in model pixels."""
    cells = torch.tensor(list(box), dtype=torch.float32)
    cells //= patch
    x, y, w, h = cells.int().tolist()
    columns = [column for column in range(side) if x <= column < x + w + 1]
    return columns, [row for row in range(side) if y <= row < y + h + 1]


def cells_of(span: Span) -> tuple[slice, slice]:
    columns, rows = span
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def divided(span: Span, values: Tensor | float, side: int) -> Tensor:
    """Values (rows, columns) of the span over their sum; 0 elsewhere."""
    weights = torch.zeros(side, side, dtype=torch.float64)
    weights[cells_of(span)] = values
    return weights / weights.sum()


def uniform(span: Span, side: int) -> Tensor:
    return divided(span, 1.0, side)


def gaussian(span: Span, variance: float, side: int) -> Tensor:
    u, v = (torch.linspace(-1, 1, len(cells), dtype=torch.float64) for cells in span)
    return divided(span, torch.exp(-(u**2 + v[:, None] ** 2) / variance), side)


def centres(span: Span, side: int) -> list[Tensor]:
    """All the one-hot maps that variance 0 may draw: the middle, or either of two."""
    columns, rows = (cells[(len(cells) - 1) // 2 : len(cells) // 2 + 1] for cells in span)
    return [uniform(([column], [row]), side) for row in rows for column in columns]


def cut_attention(span: Span, attention: Tensor) -> Tensor:
    """The rectangle of the map, divided by its sum IN PLACE."""
    cells = cells_of(span)
    attention[cells] /= attention[cells].sum()
    weights = torch.zeros_like(attention)
    weights[cells] = attention[cells]
    return weights


def weighted_sum(weights: Tensor, tokens: Tensor) -> Tensor:
    return weights.flatten() @ tokens.double()


def weighted_mean(weights: Tensor, tokens: Tensor) -> Tensor:
    """Weight x token, averaged over ALL patches, which is not a weighted mean."""
    return weighted_sum(weights, tokens) / len(tokens)


def set_of_boxes(maps: list[Tensor]) -> Tensor:
    added = torch.stack(maps).sum(0)
    return added / added.sum()


def is_padding(box: Row, patch: int) -> bool:
    return sum(math.floor(value / patch) for value in box) < 0


def trace_counts(points: Sequence[Row], side: int) -> Tensor:
    """How many of the points (x, y in 0..1) fall into each patch."""
    counts = torch.zeros(side, side, dtype=torch.float64)
    for x, y in points:
        if 0 <= x <= 1 and 0 <= y <= 1:
            counts[min(int(y / (1 / side)), side - 1), min(int(x / (1 / side)), side - 1)] += 1
    return counts


def self_attention(qkv: Tensor, name: str) -> Tensor:
    """(patches,) from the last block's qkv output (tokens, 3 * width) of a backbone of that published name."""
    heads = 6 if "vits" in name else 16
    leading = 5 if "reg" in name else 1
    query, key, _ = qkv.reshape(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
    logits = 0.125 * query[:, :1] @ key[:, leading:].mT
    return torch.softmax(logits.mean(dim=0)[0], dim=0)
