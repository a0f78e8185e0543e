"""The folder of a run: empty, the same run, or refused; and what makes a run the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.run_folder import RECORD, RunFolder, digest

RUN = {"options": {"seed": 0, "noise": None}, "corpus": "abc"}


def test_absent_and_empty_folders_are_taken(tmp_path: Path) -> None:
    for root in (tmp_path / "a" / "b", tmp_path / "empty"):
        if root.name == "empty":
            root.mkdir()
        run = RunFolder.claim(root, RUN, resume=False)
        assert not run.finished
        assert json.loads((root / RECORD).read_text(encoding="utf-8"))["run"] == RUN


def test_resume_takes_an_absent_folder_too(tmp_path: Path) -> None:
    assert not RunFolder.claim(tmp_path / "new", RUN, resume=True).finished


def test_other_files_and_plain_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("mine", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(OptionError, match="holds other files"):
            RunFolder.claim(tmp_path, RUN, resume=resume)
        with pytest.raises(OptionError, match="is a file"):
            RunFolder.claim(note, RUN, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    RunFolder.claim(tmp_path, RUN, resume=False)
    other = {"options": {"seed": 1, "noise": None}, "corpus": "abd"}
    with pytest.raises(OptionError, match=r"another run \(corpus, options.seed differ\)"):
        RunFolder.claim(tmp_path, other, resume=True)


def test_the_same_run_goes_on_only_when_asked_to(tmp_path: Path) -> None:
    RunFolder.claim(tmp_path, RUN, resume=False)
    with pytest.raises(OptionError, match="resume"):
        RunFolder.claim(tmp_path, RUN, resume=False)
    assert not RunFolder.claim(tmp_path, RUN, resume=True).finished


def test_finishing_keeps_the_result_and_drops_the_work(tmp_path: Path) -> None:
    run = RunFolder.claim(tmp_path, RUN, resume=False)
    run.work.mkdir()
    (run.work / "shard").write_text("x", encoding="utf-8")
    run.finish({"bank_rows": 3})
    assert not run.work.exists()
    assert RunFolder.claim(tmp_path, RUN, resume=True).finished
    record = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))
    assert record == {"run": RUN, "finished": True, "bank_rows": 3}


@pytest.mark.parametrize("content", ["[]", "{}", '{"run": 3}'])
def test_a_foreign_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises(OptionError, match="not ours"):
        RunFolder.claim(tmp_path, RUN, resume=True)


def test_a_damaged_record_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"run":', encoding="utf-8")
    with pytest.raises(CheckpointError, match=RECORD):
        RunFolder.claim(tmp_path, RUN, resume=True)


def test_a_digest_follows_every_weight() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    before = digest(network)
    assert digest(network) == before
    with torch.no_grad():
        network.bias[1] += 1e-3
    assert digest(network) != before
