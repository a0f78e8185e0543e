"""The published arithmetic, written plainly from its description: one patch at a time, quirks and all.

A twin for tests. It knows plain numbers and tensors, and nothing of ours. Boxes are x, y, w, h; tokens are
(patches, dim) row by row; a vector is a list of `dim` Python floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Vector: TypeAlias = list[float]
Map: TypeAlias = list[list[float]]
Row: TypeAlias = Sequence[float]


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
    w = min(max(box[2] * scale, 0), target - x)
    h = min(max(box[3] * scale, 0), target - y)
    return x, y, w, h


def rectangle(box: Row, patch: int, side: int) -> tuple[list[int], list[int]]:
    """Columns and rows of a box in model pixels."""
    cells = torch.tensor(list(box), dtype=torch.float32)
    cells //= patch
    x, y, w, h = cells.int().tolist()
    columns = [column for column in range(side) if x <= column < x + w + 1]
    rows = [row for row in range(side) if y <= row < y + h + 1]
    return columns, rows


def linspace(count: int) -> list[float]:
    return [-1.0] if count == 1 else [-1 + 2 * index / (count - 1) for index in range(count)]


def gaussian(columns: list[int], rows: list[int], variance: float, side: int) -> Map:
    weights = [[0.0] * side for _ in range(side)]
    for row, v in zip(rows, linspace(len(rows)), strict=True):
        for column, u in zip(columns, linspace(len(columns)), strict=True):
            weights[row][column] = math.exp(-(u * u + v * v) / variance)
    return divided(weights)


def uniform(columns: list[int], rows: list[int], side: int) -> Map:
    weights = [[0.0] * side for _ in range(side)]
    for row in rows:
        for column in columns:
            weights[row][column] = 1 / (len(rows) * len(columns))
    return weights


def central(cells: list[int]) -> list[int]:
    """The middle of a span, or the two that are drawn from."""
    half = len(cells) // 2
    return [cells[half]] if len(cells) % 2 else [cells[half - 1], cells[half]]


def centres(columns: list[int], rows: list[int], side: int) -> list[Map]:
    """All the one-hot maps that variance 0 may draw."""
    return [uniform([column], [row], side) for row in central(rows) for column in central(columns)]


def divided(weights: Map) -> Map:
    total = sum(sum(line) for line in weights)
    return [[value / total for value in line] for line in weights]


def cut_attention(columns: list[int], rows: list[int], attention: Map) -> Map:
    """The rectangle of the map, divided by its sum IN PLACE."""
    total = sum(attention[row][column] for row in rows for column in columns)
    side = len(attention)
    weights = [[0.0] * side for _ in range(side)]
    for row in rows:
        for column in columns:
            attention[row][column] /= total
            weights[row][column] = attention[row][column]
    return weights


def weighted_sum(weights: Map, tokens: Tensor) -> Vector:
    values = tokens.double().tolist()
    side = len(weights)
    vector = [0.0] * tokens.shape[1]
    for row in range(side):
        for column in range(side):
            if weights[row][column]:
                token = values[row * side + column]
                vector = [v + weights[row][column] * t for v, t in zip(vector, token, strict=True)]
    return vector


def weighted_mean(weights: Map, tokens: Tensor) -> Vector:
    """Weight x token, averaged over ALL patches, which is not a weighted mean."""
    return [value / len(weights) ** 2 for value in weighted_sum(weights, tokens)]


def set_of_boxes(maps: list[Map]) -> Map:
    side = len(maps[0])
    added = [[sum(m[row][column] for m in maps) for column in range(side)] for row in range(side)]
    return divided(added)


def is_padding(box: Row, patch: int) -> bool:
    return sum(math.floor(value / patch) for value in box) < 0


def trace_counts(points: Sequence[Row], side: int) -> Map:
    """How many of the points (x, y in 0..1) fall into each patch."""
    counts = [[0.0] * side for _ in range(side)]
    for x, y in points:
        if x < 0 or x > 1 or y < 0 or y > 1:
            continue
        column = min(int(x / (1 / side)), side - 1)
        row = min(int(y / (1 / side)), side - 1)
        counts[row][column] += 1
    return counts


def times(counts: Map, attention: Map) -> Map:
    return [
        [c * a for c, a in zip(line, other, strict=True)]
        for line, other in zip(counts, attention, strict=True)
    ]


def self_attention(qkv: Tensor, name: str) -> Tensor:
    """(patches,) from the last block's qkv output (tokens, 3 * width) of a backbone of that published name."""
    heads = 6 if "vits" in name else 16
    leading = 5 if "reg" in name else 1
    parts = qkv.reshape(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
    logits = torch.zeros(heads, len(qkv) - leading, dtype=qkv.dtype)
    for head in range(heads):
        query = parts[0][head][0] * 0.125
        for patch in range(len(qkv) - leading):
            logits[head, patch] = query @ parts[1][head][leading + patch]
    return torch.softmax(logits.mean(dim=0), dim=0)


def projection(queries: Tensor, memory: Tensor, normalize: bool) -> Tensor:
    """Rows of norm 0 leave the memory; the values keep their norms."""
    memory = memory[memory.norm(dim=-1) > 0]
    queries = queries / queries.norm(dim=-1, keepdim=True)
    similarity = queries @ (memory / memory.norm(dim=-1, keepdim=True)).T
    out = torch.softmax(similarity / 0.01, dim=-1) @ memory
    return out / out.norm(dim=-1, keepdim=True) if normalize else out
