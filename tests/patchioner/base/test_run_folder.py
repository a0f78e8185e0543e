"""The folder of a run: empty, the same run, or refused; held while it works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.run_folder import RunFolder

RECORD = "run.json"
RUN = {"options": {"seed": 0, "noise": None}, "corpus": "abc"}


def claim(root: Path, run: dict[str, object] = RUN, *, resume: bool = True) -> bool:
    """Whether the run that is claimed, and let go again, was finished."""
    with RunFolder.claim(root, run, resume=resume, record=RECORD) as held:
        return held.finished


@pytest.mark.parametrize("resume", [True, False])
def test_absent_and_empty_folders_are_taken(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "a" / "b", tmp_path / "empty"):
        assert not claim(root, resume=resume)
        assert json.loads((root / RECORD).read_text(encoding="utf-8"))["run"] == RUN


def test_other_files_and_plain_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("mine", encoding="utf-8")
    for resume in (False, True):
        for root in (tmp_path, note):
            with pytest.raises(OptionError, match=str(root)):
                claim(root, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_kill_within_the_first_write_does_not_close_the_folder(tmp_path: Path) -> None:
    (tmp_path / f".{RECORD}.123-456.tmp").write_text("{")
    assert not claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    claim(tmp_path)
    with pytest.raises(OptionError, match=r"\(corpus, options.seed differ\)"):
        claim(tmp_path, {"options": {"seed": 1, "noise": None}, "corpus": "abd"})


def test_the_same_run_goes_on_only_when_asked_to(tmp_path: Path) -> None:
    claim(tmp_path)
    with pytest.raises(OptionError, match=str(tmp_path)):
        claim(tmp_path, resume=False)
    assert not claim(tmp_path)


def test_finishing_keeps_the_result_and_drops_the_work(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path, RUN, resume=False, record=RECORD) as run:
        run.work.mkdir()
        (run.work / "shard").write_text("x", encoding="utf-8")
        with pytest.raises(OptionError, match="another process"):
            claim(tmp_path)
        run.finish({"bank_rows": 3})
    assert not run.work.exists() and claim(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))
    assert record == {"run": RUN, "finished": True, "bank_rows": 3}


@pytest.mark.parametrize("content", ["[]", "{}", '{"run": 3}', '{"run":'])
def test_a_foreign_or_damaged_record_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content, encoding="utf-8")
    with pytest.raises((OptionError, CheckpointError), match=RECORD):
        claim(tmp_path)
