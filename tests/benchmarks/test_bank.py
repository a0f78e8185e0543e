"""The bank commands: rows of any number, equal results of all ways, tables, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bank
from benchmarks.bank_rows import random_source, real_source, region_queries
from benchmarks.bank_timing import (
    KINDS,
    Line,
    expected_mb,
    time_published,
    time_top_k,
)
from benchmarks.naive.projection import project
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.base import OptionError
from tests.benchmarks.conftest import World

Capture = pytest.CaptureFixture[str]


def test_published_way_equals_ours() -> None:
    rows = 3 * torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    queries = torch.randn(9, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        project(queries, rows), MemoryBank(rows).project(queries), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(OptionError, match="does not project as published"):
        time_published(MemoryBank(torch.eye(2), counts=[5, 1]), torch.ones(1, 2), [1], "", 1)


def test_rows_do_not_depend_on_the_parts_they_are_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    source = random_source(6, 3, seed=4)
    whole = source.bank(10, "float32")
    assert torch.equal(whole.embeddings(), MemoryBank(source.draw(0, 10)).embeddings())
    monkeypatch.setattr("benchmarks.bank_rows._PART", 4)
    parts = random_source(6, 3, seed=4).bank(10, "int8")
    assert (len(parts), parts.dtype) == (10, "int8")
    assert len({tuple(row) for row in parts.keys.tolist()}) == 10


def test_real_rows_first_and_noised_copies_past_them() -> None:
    rows = torch.nn.functional.normalize(
        torch.randn(20, 64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    source = real_source(MemoryBank(rows), rows[:2], seed=3)
    drawn = source.draw(0, 50)
    cosines = torch.nn.functional.normalize(drawn) @ rows.T
    assert sorted(cosines[:20].argmax(dim=1).tolist()) == list(range(20))
    torch.testing.assert_close(cosines[:20].amax(dim=1), torch.ones(20))
    copies = cosines[20:40].amax(dim=1)
    assert torch.equal(cosines[:20].argmax(dim=1), cosines[20:40].argmax(dim=1))
    assert 0.8 < float(copies.mean()) < 0.95
    with pytest.raises(OptionError, match="3 wide, the bank 64"):
        real_source(MemoryBank(rows), torch.ones(1, 3), seed=0)


def test_too_few_photos(model: Patchioner) -> None:
    with pytest.raises(OptionError, match="0 photos give 0 queries"):
        region_queries(model, [], 3)


def test_an_index_larger_than_allowed_is_not_built() -> None:
    rows = MemoryBank(torch.eye(8))
    (line,) = time_top_k(
        rows, "flat", torch.ones(1, 8), [1], top_k=2, source="eye", rounds=1, memory_mb=1e-4
    )
    assert line.note.startswith("not run: about")
    assert expected_mb("ivfpq", rows) < expected_mb("flat", rows)


def test_captions_that_change_are_counted() -> None:
    rows = MemoryBank(torch.eye(8))
    queries = torch.eye(8)[:4] + 0.9 * torch.eye(8)[4:]

    def decode(embeddings: torch.Tensor) -> list[str]:
        return [f"{row[4:].sum() > 1e-9}" for row in embeddings]

    def line(top_k: int) -> Line:
        asked = (rows, None, queries, [1])
        return next(time_top_k(*asked, top_k=top_k, source="", rounds=1, decode=decode))

    few, all_but_one = line(1), line(7)
    assert (few.changed, all_but_one.changed) == (1.0, 0.0)
    assert few.mass is not None
    assert all_but_one.mass is not None
    assert few.mass < all_but_one.mass == pytest.approx(1.0)


def test_the_table_of_random_rows(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    words = [
        "--rows",
        "300",
        "400",
        "--dim",
        "16",
        "--top-k",
        "20",
        "--rounds",
        "1",
        "--compared",
        "5",
    ]
    words += [
        "--probes",
        "3",
        "--queries",
        "1",
        "3",
        "--published",
        "--json",
        str(tmp_path / "out.json"),
    ]
    assert bank.main(words) == 0
    out = capsys.readouterr().out
    assert out.count("| random |") == 2 * (3 + len(KINDS) + 3)
    assert "| 400 | random | exact |" in out
    lines = json.loads((tmp_path / "out.json").read_text())["lines"]
    masses = {line["way"]: line["mass"] for line in lines if line["rows"] == 300}
    assert masses["exact"] == 1
    assert 0 < masses["ivf"] < masses["ivf, 3 probes"] <= masses["flat"] + 1e-4
    assert masses["flat"] == pytest.approx(masses["top-k, no index"], abs=1e-5)


def test_the_table_of_a_real_bank(
    model: Patchioner, world: World, capsys: Capture, tmp_path: Path
) -> None:
    assert model.parts.bank is not None
    model.parts.bank.save(tmp_path / "bank", dtype="float32")
    words = ["--rows", "40", "--bank", str(tmp_path / "bank"), "--data", str(world.root)]
    words += [
        "--kind",
        "flat",
        "--top-k",
        "3",
        "--rounds",
        "1",
        "--queries",
        "1",
        "--compared",
        "4",
    ]
    assert bank.main(words, load_model=lambda name, device: model) == 0
    out = capsys.readouterr().out
    assert out.count("real, noised copies past 30 |") == 3
    assert out.count(" % |\n") == 2
    assert bank.main([*words, "--of", "real"], load_model=lambda name, device: model) == 0
    assert "| random |" not in capsys.readouterr().out
    assert bank.main(["--of", "real"]) == 1
    assert "--of real needs --bank" in capsys.readouterr().err
    assert bank.main([*words, "--bank", str(tmp_path / "none")], load_model=lambda n, d: model) == 1
    assert "not a memory bank" in capsys.readouterr().err
