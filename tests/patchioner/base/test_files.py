"""Files and folders are whole or absent, also after a kill at any point; JSON errors name the file."""

import errno
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patchioner.base import files
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import RunFolder, read_json, recover_folder, replace_folder, write_json
from tests.support import MonkeyPatch, failing

ENV = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}


def test_a_writer_that_is_interrupted_or_fails_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt), files.atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert read_json(path) == {"a": 1}
        raise KeyboardInterrupt
    for value in (math.nan, object()):
        with pytest.raises(CheckpointError, match="config.json"):
            write_json(path, {"a": value})
    with pytest.raises(OSError, match="config.json"), files.atomic_path(path):
        raise OSError(errno.ENOSPC, "the disk is full")
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b'{"a": 1, "a": 2}', b"{", b"{'a': 1}", b"\xff\xfe\x00", b"[" * 100_000])
def test_corrupt_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json: not valid JSON"):
        read_json(path)
    path.write_text('{"a": 1}', encoding="utf-8-sig")  # as Windows writes it
    assert read_json(path) == {"a": 1}


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


OLD = {"a.txt": "old", "part/b.txt": "old", "gone.txt": "old", "notes/mine.txt": "mine"}
NEW = {"a.txt": "new", "part/b.txt": "new", "notes/mine.txt": "mine"}


def write_old(target: Path) -> None:
    for name, text in OLD.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)


def write_new(target: Path) -> None:
    with replace_folder(target, owned=("a.txt", "part", "gone.txt")) as fresh:
        (fresh / "part").mkdir()
        (fresh / "a.txt").write_text("new")
        (fresh / "part" / "b.txt").write_text("new")


@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in two"])
def test_a_folder_is_replaced(tmp_path: Path, exchange: bool, monkeypatch: MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "deep" / "model"
    write_new(target)
    assert contents(target) == {"a.txt": "new", "part/b.txt": "new"}
    write_old(target)
    target.chmod(0o750)
    write_new(target)
    assert contents(target) == NEW and target.stat().st_mode & 0o777 == 0o750
    assert list(target.parent.iterdir()) == [target]


def test_two_writers_wait_for_one_another(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write(text: str) -> None:
        for _ in range(20):
            with replace_folder(target) as fresh:
                for name in "abc":
                    (fresh / name).write_text(text)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, "xyz"))
    assert len(set(contents(target).values())) == 1
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in two"])
def test_a_kill_leaves_old_or_new(tmp_path: Path, exchange: bool, monkeypatch: MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    names = ("mkdir", "rename", "replace", "link", "unlink", "rmdir")
    calls = [*(("os", name) for name in names), ("patchioner.base.files", "_exchange")]
    monkeypatch.setitem(failing.CALLS, "any", tuple(calls))
    target, states = tmp_path / "model", []
    write_old(target)

    def check(_: BaseException | None) -> None:
        recover_folder(target)
        states.append(contents(target))
        write_new(target)  # whatever the kill left is no hindrance
        assert contents(target) == NEW and list(tmp_path.iterdir()) == [target]
        write_old(target)

    assert failing.every_kill("any", lambda: write_new(target), check) > 8
    assert states[0] == OLD and states[-1] == NEW and all(one in (OLD, NEW) for one in states)


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    code = "from patchioner.base import files\nwith files.folder_lock(files.Path('.')): pass"
    command = [sys.executable, "-c", code]

    def other() -> bytes:
        return subprocess.run(command, stderr=subprocess.PIPE, cwd=tmp_path, env=ENV).stderr

    with files.folder_lock(tmp_path):
        assert b"another process is writing into" in other()
    assert other() == b""
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="file"), files.folder_lock(tmp_path / "file" / "inside"):
        pass


RECORD = "run.json"
RUN: dict[str, object] = {"options": {"seed": 0, "noise": None}, "corpus": "abc"}


def claim(root: Path, *, resume: bool = True) -> bool:
    """Whether the run that is claimed, and let go again, was finished."""
    with RunFolder.claim(root, RUN, resume=resume, record=RECORD) as held:
        return held.finished


@pytest.mark.parametrize("resume", [True, False])
def test_absent_and_empty_folders_are_taken_others_left_alone(tmp_path: Path, resume: bool) -> None:
    for name in ("empty", "kept"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / f".{RECORD}.123-456.tmp").write_text("{")  # of a kill at the first write
    for root in (tmp_path / "a" / "b", tmp_path / "empty"):
        assert not claim(root, resume=resume)
        assert read_json(root / RECORD)["run"] == RUN
        assert [path.name for path in root.iterdir()] == [RECORD]
    note = tmp_path / "kept" / "note.txt"
    note.write_text("mine", encoding="utf-8")
    for root in (note.parent, note):
        with pytest.raises(OptionError, match=str(root)):
            claim(root, resume=resume)
    assert list(note.parent.iterdir()) == [note]


def test_finishing_keeps_the_result_and_drops_the_work(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path, RUN, resume=False, record=RECORD) as run:
        run.work.mkdir()
        (run.work / "shard").write_text("x", encoding="utf-8")
        with pytest.raises(OptionError, match="another process"):
            claim(tmp_path)
        run.finish({"bank_rows": 3})
    assert not run.work.exists() and claim(tmp_path)
    assert read_json(tmp_path / RECORD) == {"run": RUN, "finished": True, "bank_rows": 3}
    for content in ("[]", "{}", '{"run": 3}', '{"run":'):  # foreign or damaged
        (tmp_path / RECORD).write_text(content, encoding="utf-8")
        with pytest.raises((OptionError, CheckpointError), match=RECORD):
            claim(tmp_path)


def test_a_walk_meets_every_folder_once(tmp_path: Path) -> None:
    for name in ("d/real/a", "far/b", "d/.hidden/c", "d/__MACOSX/d", "d/._e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for name, to in (("link", "real"), ("loop", "."), ("out", tmp_path / "far"), ("gone", "no")):
        (tmp_path / "d" / name).symlink_to(to)
    assert sorted(files.walk(tmp_path / "d")) == [("gone", None), ("out/b", 1), ("real/a", 1)]
