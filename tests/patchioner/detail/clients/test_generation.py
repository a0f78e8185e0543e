from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from patchioner.base.errors import DetailError
from patchioner.detail.clients.generation import SeededSampler, in_batches


def sampled(
    logits: Tensor, seeds: list[int], temperatures: list[float], **options: float
) -> Tensor:
    """(steps, rows): what each row takes when every step has the same logits."""
    sampler = SeededSampler(seeds, temperatures, top_p=options.get("top_p", 1.0), max_tokens=200)
    nothing = torch.zeros(len(seeds), 0, dtype=torch.long)
    return torch.stack([sampler(nothing, logits).argmax(1) for _ in range(200)])


def test_tokens_are_drawn_by_their_probability_at_that_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -30.0])
    tokens = sampled(logits.expand(60, -1), list(range(60)), [0.7] * 60)
    shares = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    torch.testing.assert_close(shares, (logits / 0.7).softmax(0), atol=0.015, rtol=0)


def test_a_row_is_the_same_in_any_batch() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together = sampled(logits, [1, 2, 3], [0.7, 1.0, 0.0], top_p=0.9)
    alone = [
        sampled(logits[i : i + 1], [i + 1], [t], top_p=0.9)[:, 0]
        for i, t in enumerate([0.7, 1.0, 0.0])
    ]
    assert torch.equal(together, torch.stack(alone, dim=1))
    assert torch.equal(together[:, 2], logits[2].argmax().expand(200))
    assert not torch.equal(sampled(logits[:1], [9], [0.7]), sampled(logits[:1], [1], [0.7]))


def test_a_nucleus_holds_the_fewest_tokens_that_reach_its_share() -> None:
    probabilities = torch.tensor([[0.1, 0.45, 0.15, 0.3]])
    assert set(sampled(probabilities.log(), [0], [1.0], top_p=0.7).flatten().tolist()) == {1, 3}
    assert set(sampled(probabilities.log(), [0], [1.0], top_p=0.76).flatten().tolist()) == {1, 2, 3}
    assert set(sampled(probabilities.log(), [0], [1.0], top_p=0.01).flatten().tolist()) == {1}


def test_suppressed_tokens_are_never_taken_and_log_probabilities_are_those_of_the_model() -> None:
    logits = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]])
    sampler = SeededSampler([5], [3.0], top_p=1.0, max_tokens=50)
    for _ in range(50):
        left = sampler(torch.zeros(1, 0), logits)
        token = int(left.argmax())
        assert token in (0, 2)
        assert torch.isfinite(left).sum() == 1
        torch.testing.assert_close(sampler.log_probs[-1], logits.log_softmax(1)[:, token])


def test_values_that_are_no_numbers_are_an_error() -> None:
    sampler = SeededSampler([5], [1.0], top_p=1.0, max_tokens=1)
    with pytest.raises(DetailError, match="not numbers"):
        sampler(torch.zeros(1, 0), torch.tensor([[0.0, math.nan]]))


def limited(room: int, seen: list[int]) -> Callable[[Sequence[int]], list[int]]:
    def run(batch: Sequence[int]) -> list[int]:
        seen.append(len(batch))
        if len(batch) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return [10 * item for item in batch]

    return run


@pytest.mark.parametrize(
    ("room", "sizes"), [(8, [8, 3]), (4, [8, 4, 4, 3]), (1, [8, 4, 2] + [1] * 11)]
)
def test_batches_are_halved_until_they_fit_and_stay_small(room: int, sizes: list[int]) -> None:
    seen: list[int] = []
    results: list[object] = [*in_batches(range(11), limited(room, seen), 8)]
    assert results == [10 * item for item in range(11)]
    assert seen == sizes


def test_an_item_that_never_fits_is_an_error_in_its_place() -> None:
    def run(batch: Sequence[int]) -> list[int]:
        if 2 in batch:
            raise MemoryError
        return [10 * item for item in batch]

    first, second, third = in_batches([1, 2, 3], run, 3)
    assert (first, third) == (10, 30)
    assert isinstance(second, DetailError) and "single picture" in str(second)


def test_other_errors_pass_through() -> None:
    def run(_: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        for _ in in_batches([1], run, 1):
            pass
