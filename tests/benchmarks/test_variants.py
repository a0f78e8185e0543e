"""The table of variants: what is built, what is measured and how it is shown; never how long it took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import variant_parts
from benchmarks.variant_parts import BACKBONES, COUNTED, Variant, captions, count, count_only
from benchmarks.variants import Measured, main, measure, table
from decoders import PrefixGPT2Decoder
from memory_bank import MemoryBank
from patchioner.assembly import read_model_config

ROOT = Path(__file__).resolve().parents[2]


def test_every_variant_has_its_file() -> None:
    for config in (*BACKBONES.values(), *COUNTED.values()):
        assert read_model_config(ROOT / "configs" / f"{config}.yaml").name == config


def test_weights_are_random_all_the_way_down(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"type": "a", "weights": "pretrained", "clip": {"type": "b", "weights": {"head": "x"}}}
    changed = variant_parts._with_random_weights(given)
    assert changed == {"type": "a", "weights": "random", "clip": {"type": "b", "weights": "random"}}
    assert given["weights"] == "pretrained"


def test_counting_holds_nothing() -> None:
    """As published: DINOv2's ViT-g has 1.1 billion weights."""
    assert count_only("DINOv2 ViT-g/14 reg, 518") == pytest.approx(1136e6, rel=1e-3)
    with torch.device("meta"):
        small = count(variant_parts.random_backbone("dinov2-vits14-reg"))
    assert small == pytest.approx(22.06e6, rel=1e-3)


def test_a_bank_of_captions_with_nouns(tmp_path: Path) -> None:
    assert len(set(captions(2000))) == 2000
    variant_parts.make_bank(50, tmp_path / "bank")
    bank = MemoryBank.load(tmp_path / "bank")
    assert (len(bank), bank.dim, bank.dtype) == (50, 768, "float16")
    assert list(bank.texts or ()) == captions(50)


@pytest.mark.parametrize("kind", ["decap", "capdec", "viecap", "meacap"])
def test_decoders_write_all_their_tokens(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny networks in the places of the published ones; bank, prompts and options are the real ones."""
    from decoders.clip_tokenizer import ClipTokenizer
    from decoders.network import PrefixGPT2, PrefixGPT2Config

    shape = PrefixGPT2Config(768, 50257, layers=1, width=8, heads=1, positions=20, emit_start=True)
    tiny = PrefixGPT2Decoder(PrefixGPT2(shape), ClipTokenizer.from_open_clip())
    monkeypatch.setattr(variant_parts, "_decap", lambda: tiny)
    small = {"model_type": "gpt2", "vocab_size": 50257, "n_layer": 1, "n_embd": 8, "n_head": 1}
    monkeypatch.setattr(variant_parts, "GPT2_SMALL", small)
    variant_parts.make_bank(40, tmp_path / "bank")
    variant = variant_parts.build_decoder_variant(kind, tmp_path / "bank")
    answers = variant.work()
    assert isinstance(answers, list)
    assert [len(answer.token_ids) for answer in answers] == [variant_parts.TOKENS] * 10
    variant.save(tmp_path / "saved")
    kept = {path.name for path in (tmp_path / "saved").iterdir()}
    assert kept == ({"decoder", "memory_bank"} if kind in ("decap", "meacap") else {"decoder"})


def test_measuring_takes_turns() -> None:
    turns: list[str] = []

    def built(name: str) -> Variant:
        turns.append(f"build {name}")
        return Variant(
            7, lambda: turns.append(name), lambda out: (out / "file").write_bytes(bytes(11))
        )

    line = measure(lambda: built("own"), lambda: built("other"), name="mine", rounds=2)
    assert turns == ["build own", "own", "build other", "other", *["own", "other"] * 2]
    assert (line.name, line.parameters, line.disk) == ("mine", 7, 11)
    assert line.ratio is not None and line.ratio > 0


def test_the_table() -> None:
    lines = table(
        [
            Measured("run", 86_580_000, 2**20, 1024.4, 300.0, 2.0, 0.5),
            Measured("counted", 10**9, 2**31),
        ]
    ).splitlines()
    assert lines[2:] == [
        "| run | 86.6 | 1.0 | 1,024 | 0.50 |",
        "| counted | 1,000.0 | 2,048.0 | not run | |",
    ]


def test_a_child_that_fails_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--measure", "DeCap, memory bank", "--folder", str(tmp_path / "nowhere")]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_a_quick_slice_at_true_shapes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.variants", "--quick"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "table.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| CapDec, no bank | 68.3 |" in done.stdout
    written = json.loads((tmp_path / "table.json").read_text())
    assert [line["name"] for line in written["variants"]] == [
        "CapDec, no bank",
        "CLIP ViT-B/16, 224",
    ]
    assert all(
        line["ratio"] > 0 and line["peak_mb"] > line["before_mb"] for line in written["variants"]
    )
