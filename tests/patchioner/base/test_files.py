"""Files and folders are whole or absent, also after a kill at any point; JSON errors name the file."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from patchioner.base import CheckpointError, OptionError, atomic_path, files, read_json, write_json
from patchioner.base.files import folder_lock, recover_folder, replace_folder


def test_json_round_trip_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.json"
    value = {"name": "é", "list": [1, 2.5, None, True]}
    write_json(path, value)
    assert read_json(path) == value
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_failed_write_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    for value in (math.nan, object()):
        with pytest.raises(CheckpointError, match="config.json"):
            write_json(path, {"a": value})
    assert read_json(path) == {"a": 1}


def test_interrupted_writer_leaves_earlier_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"earlier"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b"\xff\xfe\x00", b"[" * 100_000])
def test_corrupt_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json: not valid JSON"):
        read_json(path)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_json(tmp_path)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


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
def test_a_folder_is_replaced_and_what_is_anothers_stays(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_failed_replacement_leaves_the_old_folder_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_old(target)
    with pytest.raises(KeyboardInterrupt), replace_folder(target) as fresh:
        (fresh / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert contents(target) == OLD and list(tmp_path.iterdir()) == [target]


def test_what_a_link_names_is_replaced(tmp_path: Path) -> None:
    write_old(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_new(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and contents(tmp_path / "real") == NEW


def test_two_writers_wait_for_one_another(tmp_path: Path) -> None:
    target, errors = tmp_path / "model", []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                with replace_folder(target) as fresh:
                    for name in "abc":
                        (fresh / name).write_text(text)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(set(contents(target).values())) == 1
    assert list(tmp_path.iterdir()) == [target]


def killed_after(target: Path, calls: int, in_two_steps: bool) -> bool:
    """Replace a folder in a child that is killed at a call to the system; whether it came to its end before."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    left = calls

    def deadly(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return call

    for name in ("open", "mkdir", "rename", "replace", "link", "fsync", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    files._exchange = deadly((lambda *_: False) if in_two_steps else files._exchange)  # type: ignore[assignment]
    write_new(target)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("in_two_steps", [False, True])
def test_a_kill_at_any_point_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, in_two_steps: bool
) -> None:
    states = []
    for calls in itertools.count():
        target = tmp_path / f"{calls}" / "model"
        write_old(target)
        finished = killed_after(target, calls, in_two_steps)
        recover_folder(target)
        states.append(contents(target))
        assert states[-1] in (OLD, NEW)
        write_new(target)  # whatever the kill left is no hindrance
        assert contents(target) == NEW and list(target.parent.iterdir()) == [target]
        if finished:
            break
    assert states[0] == OLD and states[-1] == NEW and len(states) > 10


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from patchioner.base.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): pass"
    )

    def other() -> bytes:
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=False, stderr=subprocess.PIPE
        ).stderr

    with folder_lock(tmp_path):
        assert str(tmp_path).encode() in other()
    assert other() == b""
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="file"), folder_lock(tmp_path / "file" / "inside"):
        pass
