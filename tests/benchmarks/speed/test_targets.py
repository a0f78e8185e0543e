"""Verdicts, tables and floors: plain arithmetic on figures that are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.speed import floor
from benchmarks.speed.breakdown import breakdown_table
from benchmarks.speed.floor import PARTS, Work
from benchmarks.speed.machine import Rates, measure_rates, synchronizer
from benchmarks.speed.shapes import SHAPES, build_random_backbone, build_random_decoder
from benchmarks.speed.targets import (
    BOXES,
    REPORT,
    Line,
    Target,
    missed,
    spread,
    target_table,
    timed_line,
)
from benchmarks.speed.units import duration
from benchmarks.timing import Timing

TINY = SHAPES["tiny"]


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(8.0, "aim"), (7.9, "pass"), (4.0, "pass"), (3.99, "miss")]
)
def test_more_is_better(ratio: float, verdict: str) -> None:
    assert Target(4, 8).verdict(ratio) == verdict


@pytest.mark.parametrize(("ratio", "verdict"), [(1.4, "aim"), (2.0, "pass"), (2.01, "miss")])
def test_less_is_better(ratio: float, verdict: str) -> None:
    assert Target(2, 1.4, larger=False).verdict(ratio) == verdict


def test_only_an_aim_cannot_be_missed() -> None:
    assert Target(None, 8).verdict(9) == "aim"
    assert Target(None, 8).verdict(1) == "report"
    assert REPORT.verdict(0.0) == "report"


def test_targets_are_those_of_the_issue() -> None:
    """The table that the engine is held to; nobody moves it quietly."""
    assert {count: (target.at_least, target.aim) for count, target in BOXES.items()} == {
        1: (1.8, 2.2),
        10: (4, 6),
        100: (15, 25),
        1000: (20, 40),
    }


def test_a_timed_line_compares_medians() -> None:
    line = timed_line(
        "x", Timing("", (1.0, 2.0, 9.0)), Timing("", (8.0, 10.0, 90.0)), Target(4, 8), "why"
    )
    assert (line.ratio, line.verdict, line.note) == (5.0, "pass", "why")
    assert line.ours == "2.00 s (1.00 s to 9.00 s)"
    assert line.to_json()["verdict"] == "pass"


def test_the_table_and_what_is_missed() -> None:
    lines = [
        Line("1 box", "1.0 s", "2.0 s", 2.0, Target(1.8, 2.2)),
        Line("2 boxes", "1.0 s", "1.0 s", 1.0, Target(1.8, None), "slow"),
        Line("3 boxes", "1.0 s", "1.0 s", 1.0, REPORT),
    ]
    assert target_table(lines).splitlines()[2:] == [
        "| 1 box | 1.0 s | 2.0 s | 2.00x | 1.8 | 2.2 | pass |  |",
        "| 2 boxes | 1.0 s | 1.0 s | 1.00x | 1.8 |  | miss | slow |",
        "| 3 boxes | 1.0 s | 1.0 s | 1.00x |  |  | report |  |",
    ]
    assert missed(lines) == ["2 boxes"]


def test_one_round_has_no_spread() -> None:
    assert spread(Timing("", (0.5,))) == "500 ms"
    assert (duration(0.0123), duration(75.0)) == ("12.3 ms", "75.00 s")


def test_a_floor_is_arithmetic_or_memory_whichever_takes_longer() -> None:
    rates = Rates(product=100.0, copy=10.0)
    assert Work(200, 10).floor(rates) == 2.0
    assert Work(200, 50).floor(rates) == 5.0
    assert floor.total_floor([Work(200, 10), Work(200, 50)], rates) == 7.0


def test_projection_reads_the_bank_once() -> None:
    work = floor.projection_work(10, 1000, 8)
    assert work == Work(2 * 10 * 1000 * 8, 1000 * 8 * 4)
    assert floor.projection_work(10, 1000, 8, row_bytes=8).size == 8000
    assert floor.pooling_work(3, 25, 8).multiply_adds == 600


def test_backbone_work_is_what_the_layers_do() -> None:
    """Counted by watching every linear layer and the convolution of one pass, plus the attention's two products."""
    backbone = build_random_backbone(TINY)
    counted = 0

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal counted
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        if isinstance(module, nn.Conv2d):
            counted += output.shape[2] * output.shape[3] * weight.numel()
        else:
            counted += output.numel() // output.shape[-1] * weight.numel()

    hooks = [
        module.register_forward_hook(watch)
        for module in backbone.vit.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    with torch.no_grad():
        backbone.vit.forward_features(torch.zeros(1, 3, 80, 80))
    for hook in hooks:
        hook.remove()
    tokens = 25 + backbone.vit.num_prefix_tokens
    attention = len(backbone.vit.blocks) * 2 * tokens * tokens * backbone.vit.embed_dim
    assert floor.backbone_work(backbone, 25).multiply_adds == counted + attention


def test_decoding_work_grows_with_every_token() -> None:
    network = build_random_decoder(TINY).network
    config = network.config
    one = floor.decoding_work(network, [1])
    layers = 12 * config.width**2 * config.layers
    output = config.vocab_size * config.width
    prefix = config.embedding_dim * config.width
    attended = 2 * config.layers * config.width
    assert one.multiply_adds == layers + output + prefix + attended
    two = floor.decoding_work(network, [3, 1])
    assert two.multiply_adds == 4 * (layers + output) + 2 * prefix + (6 + 1) * attended
    assert two.size == 3 * 4 * (layers + output)
    assert floor.decoding_work(network, []).size == 0


def test_rates_are_measured_without_a_device() -> None:
    rates = measure_rates(side=32, elements=1000, tries=1)
    assert rates.product > 0 and rates.copy > 0
    synchronizer("cpu")()


def test_breakdown_sums_up() -> None:
    ours = dict(zip(PARTS, (1.0, 0.5, 2.0, 3.5), strict=True))
    lines = breakdown_table(
        {"ours": ours, "published": dict.fromkeys(PARTS, 9.0), "floor": dict.fromkeys(PARTS, 0.5)},
        100,
    ).splitlines()
    assert lines[0].startswith("| part, 100 boxes |")
    assert lines[2] == "| backbone | 1.00 s | 9.00 s | 500 ms | 2.00 |"
    assert lines[-1] == "| all | 7.00 s | 36.00 s | 2.00 s | 3.50 |"
