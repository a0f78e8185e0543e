"""One process per folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.runner.lock import folder_lock
from patchioner.base.errors import OptionError

pytest.importorskip("fcntl")

HOLD = """
import sys
from pathlib import Path
from benchmarks.runner.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    sys.stdin.read()
"""


def test_another_process_is_kept_out_until_it_ends(world: Any, tmp_path: Path) -> None:
    """A kill frees the folder too: the lock is the process's, not a file."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OptionError, match="another process is writing into"):
            world.run(tmp_path / "out")
        assert world.talker.encoded == [], "refused before any work"
        process.kill()
    world.run(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "predictions.jsonl", "results.json", "run.json", "settings.json",
    ]  # fmt: skip


def test_errors_inside_are_not_taken_for_a_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), folder_lock(tmp_path):
        raise BlockingIOError
    with folder_lock(tmp_path):  # free again
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(OptionError, match="another --out"), folder_lock(folder):
            pass
