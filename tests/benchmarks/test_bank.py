import json
from pathlib import Path

import pytest
import torch

from benchmarks import bank
from benchmarks.bank import real_source
from benchmarks.speed import make_photo
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from tests.support import Capture, randn


def test_real_rows_first_and_noised_copies_past_them() -> None:
    rows = torch.nn.functional.normalize(randn(20, 64), dim=1)
    drawn = real_source(MemoryBank(rows), rows[:2], None, seed=3).draw(0, 50)
    cosines = torch.nn.functional.normalize(drawn) @ rows.T
    assert sorted(cosines[:20].argmax(dim=1).tolist()) == list(range(20))
    torch.testing.assert_close(cosines[:20].amax(dim=1), torch.ones(20))
    assert torch.equal(cosines[:20].argmax(dim=1), cosines[20:40].argmax(dim=1))
    assert 0.8 < float(cosines[20:40].amax(dim=1).mean()) < 0.95
    with pytest.raises(OptionError, match="3 wide, the bank 64"):
        real_source(MemoryBank(rows), torch.ones(1, 3), None, seed=0)


def test_the_tables_of_random_rows_and_of_a_real_bank(model: Patchioner, capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    out, real = tmp_path / "out.json", str(tmp_path / "bank")
    words = ["--top-k=20", "--rounds=1", "--compared=5", "--queries", "1", "3", "--rows"]
    assert bank.main([*words, "300", "--dim=16", "--kind", *bank.KINDS, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| random |") == 2 + len(bank.KINDS)
    masses = {line["way"]: line["mass"] for line in json.loads(out.read_text())["lines"]}
    assert masses["exact"] == 1
    assert 0 < masses["ivf"] <= masses["flat"] + 1e-4
    assert masses["flat"] == pytest.approx(masses["top-k, no index"], abs=1e-5)
    assert model.parts.bank is not None
    model.parts.bank.save(real, dtype="float32")
    (tmp_path / "photos").mkdir()
    make_photo(tmp_path / "photos" / "a.jpg")
    words += ["40", "--kind=ivf", "--data", str(tmp_path), "--bank"]
    assert bank.main([*words, real], model=model) == 0
    printed = capsys.readouterr().out
    assert printed.count("| 40 | real (30 rows) |") == 3 and printed.count(" % |\n") == 2
    assert bank.main([*words, str(tmp_path / "none")], model=model) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
