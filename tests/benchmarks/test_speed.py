import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from benchmarks import naive, speed
from benchmarks.naive import SHAPES, STEPS, NaiveDecoder, Ours
from benchmarks.speed import Contest, main, random_boxes
from memory_bank import MemoryBank
from patchioner.base.errors import PatchionerError
from tests.support import Capture, MonkeyPatch

TINY = SHAPES["tiny"]
CPU = ["--suite", "cpu", "--shapes", "tiny", "--rounds", "1", "--naive-chunks", "2"]


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    folder = tmp_path_factory.mktemp("work")
    naive.write_bank(TINY, folder)
    return Contest(TINY, folder, rounds=1, most_chunks=3)


def test_both_sides_write_different_captions_to_the_same_end(contest: Contest) -> None:
    """Else equal tokens, which the suite checks, would prove little."""
    ours, other, photo = contest.ours, contest.other, contest.photo
    tokens = other.token_ids(photo, random_boxes(9, photo.size, seed=9))
    assert {len(ids) for ids in tokens} == {STEPS} and len(set(tokens)) >= 3
    decoder: Any = ours.model.parts.decoder
    twin, end = NaiveDecoder(decoder), decoder.tokenizer.end_id
    assert twin.until_end([5, end, 6, end]) == (5, end) and twin.until_end([5, 6]) == (5, 6)


def test_what_is_not_run_is_scaled(contest: Contest, monkeypatch: MonkeyPatch) -> None:
    """13 boxes are four chunks; of two that are run, each second counts twice, the image's once."""
    side, photo, ticks = contest.other, contest.photo, iter(range(100))
    monkeypatch.setattr(side, "most_chunks", 2)
    monkeypatch.setattr("benchmarks.naive.time.perf_counter", lambda: float(next(ticks)))
    boxes = random_boxes(13, photo.size, seed=0)
    assert (side.run(13), side.run(5)) == (8, 5)
    assert (side.seconds(photo, boxes), side.seconds(photo, boxes[:5])) == (3.0, 2.0)
    assert len(side.token_ids(photo, boxes)) == 8
    assert side.in_chunks(torch.randn(9, TINY.dim), len)() == 1.5


def test_cpu_suite(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    here = Mock(side_effect=lambda work, side, *arguments: work(side, *arguments))
    monkeypatch.setattr(speed, "in_a_process", here)
    out = tmp_path / "speed.json"
    assert main([*CPU, "--work", str(tmp_path), "--json", str(out), "--threads", "1"]) == 0
    assert [call.args[1] for call in here.call_args_list] == ["ours", "other"]
    report = json.loads(out.read_text())
    lines = {line["work"]: line for line in report["lines"]}
    assert lines.keys() >= {
        "1 box", "9 boxes", "projection alone, 9 queries", "decoding alone, 9 rows",
        "peak memory, 9 boxes, MiB", "all 25 patches, backbone passes",
    }  # fmt: skip
    assert lines["13 boxes"]["note"] == "published: 8 boxes run, rest scaled"
    assert report["captions_compared"] == 1 + 5 + 8 + 8 + 9, "of boxes, and rows decoded alone"


def test_what_differs_ends_the_comparison(contest: Contest, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(Ours, "token_ids", lambda self, photo, boxes: [(1,)] * len(boxes))
    with pytest.raises(PatchionerError, match="1 box: caption 0 differs"):
        list(contest._boxes())
    monkeypatch.setattr(MemoryBank, "project", lambda self, queries: queries * float("nan"))
    with pytest.raises(PatchionerError, match="is nan from"):
        list(contest._projections(3))


def test_model_suite(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    out, model = tmp_path / "speed.json", ["--model", str(checkpoint)]
    words = [*model, "--rounds", "2", "--regions", "1", "3", "--json", str(out)]
    assert main(words) == 0
    assert "| caption 3 boxes, without guidance |" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [len(row["seconds"]) for row in report["rows"]] == [2] * 5
    assert main([*model, "--photo", str(tmp_path / "none.jpg")]) == 1
    assert "none.jpg" in capsys.readouterr().err
    for wrong in (["--suite", "tpu"], ["--suite", "cpu", "--shapes", "huge"]):
        with pytest.raises(SystemExit):
            main(wrong)
