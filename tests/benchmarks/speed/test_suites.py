"""The commands of both suites at tiny shapes: what is compared, printed, stored and refused; never how long it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import alone, child, gpu, main
from benchmarks.speed.contest import Ours
from benchmarks.speed.shapes import SHAPES, write_bank
from memory_bank import MemoryBank
from patchioner.base.errors import PatchionerError

TINY = SHAPES["tiny"]
CPU = ["--suite", "cpu", "--shapes", "tiny", "--rounds", "1", "--naive-chunks", "2"]


def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run children here instead of in processes of their own; their names, as they come."""
    names: list[str] = []

    def run(command: list[str]) -> str:
        names.append(command[command.index("--child") + 1])
        before = capsys.readouterr().out
        assert main(command[3:]) == 0
        answer = capsys.readouterr().out
        assert before == ""
        return answer

    monkeypatch.setattr(child, "run_process", run)
    return names


def test_cpu_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run: memory first, then every work; a target that is missed ends with status 1 under --check."""
    names = in_process(monkeypatch, capsys)
    out = tmp_path / "speed.json"
    threads = torch.get_num_threads()
    status = main(
        [*CPU, "--work", str(tmp_path), "--json", str(out), "--check", "--threads", str(threads)]
    )
    assert names == ["published", *child.PRECISIONS]
    printed = capsys.readouterr().out
    assert "| part, 9 boxes | ours | published | floor |" in printed
    assert "GFLOP/s of a float32 matrix product" in printed
    report = json.loads(out.read_text())
    verdicts = {line["work"]: line["verdict"] for line in report["lines"]}
    assert status == ("miss" in verdicts.values())
    assert ("missed: " in printed) == (status == 1)
    for count in ("1 box", "5 boxes", "9 boxes", "13 boxes"):
        assert {count, f"{count}, captions of COCO's length"} <= verdicts.keys()
    assert {"13 boxes, times the floor", "decoding alone, 9 rows"} <= verdicts.keys()
    assert {f"projection alone, {n}, float32 rows" for n in ("1 query", "9 queries")} <= set(
        verdicts
    )
    assert any(work.startswith("peak memory, 9 boxes, float32") for work in verdicts)
    assert "all 25 patches, backbone passes" in verdicts
    notes = {line["work"]: line["note"] for line in report["lines"]}
    assert notes["13 boxes"] == "published: 8 boxes run, rest scaled"
    assert notes["5 boxes"] == ""
    # Both kinds of captions of 1, 5, 8 and 8 boxes, and the rows decoded alone.
    assert report["captions_compared"] == 2 * (1 + 5 + 8 + 8) + 9
    assert set(report["breakdown"]) == {"ours", "published", "floor"}
    assert all(len(seconds) == 1 for seconds in report["timings"].values())


def test_different_tokens_end_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any time is taken."""
    in_process(monkeypatch, capsys)
    real = Ours.token_ids

    def wrong(self: Ours, *arguments: Any) -> list[tuple[int, ...]]:
        return [(*ids[:-1], ids[-1] + 1) for ids in real(self, *arguments)]

    monkeypatch.setattr(Ours, "token_ids", wrong)
    assert main([*CPU, "--work", str(tmp_path)]) == 1
    assert "differs from the published way's at token 29" in capsys.readouterr().err


def test_another_projection_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    alone._see_close(found, found, "float32")
    with pytest.raises(PatchionerError, match="float32 rows"):
        alone._see_close(found, -found, "float32")
    with pytest.raises(PatchionerError, match="nan"):
        alone._see_close(found * float("nan"), found, "float32")


def test_precisions_the_bank_does_not_know_are_left_out() -> None:
    bank = MemoryBank(torch.randn(5, 8))
    assert alone._in_precision(bank, "float3") == {}
    assert alone._in_precision(bank, "float16")["float16"].dtype == "float16"


def test_gpu_suite_is_refused_without_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the remedy."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--suite", "gpu", "--shapes", "tiny"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --suite gpu needs a CUDA device") and "--suite cpu" in error


def test_the_engine_of_the_gpu_suite_runs_anywhere(tmp_path: Path) -> None:
    write_bank(TINY, tmp_path)
    engine = gpu.measure_engine(
        TINY, tmp_path, device="cpu", dtype=torch.bfloat16, images=2, rounds=2
    )
    assert engine.images == 2
    for timing in (engine.whole, engine.backbone, engine.step):
        assert len(timing.seconds) == 2 and timing.median > 0
    share, over = engine.lines()
    assert share.ratio == engine.backbone.median / engine.whole.median
    assert over.ratio == engine.backbone.median / engine.least
    assert "images/s" in engine.summary() and "16 regions" in engine.summary()


def test_unknown_suite_and_shapes() -> None:
    for words in (["--suite", "tpu"], ["--suite", "cpu", "--shapes", "huge"]):
        with pytest.raises(SystemExit):
            main(words)
