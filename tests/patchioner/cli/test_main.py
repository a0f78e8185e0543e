"""The command as a whole: help, exit statuses, what is imported, `doctor`, and the script that people copy."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caption_region
from patchioner.cli import models, spelling
from patchioner.cli.main import main
from tests.support import Capture, MonkeyPatch

Run = Callable[..., int]
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("argv", "status", "says"), [
    ([], 0, "caption"), (["--version"], 0, "patchioner "), (["caption", "--help"], 0, "--region-set"),
    (["capton", "x.jpg"], 2, "--help"), (["caption"], 2, "--help"), (["caption", "x.jpg", "--boks"], 2, "--help"),
])  # fmt: skip
def test_help_version_and_wrong_usage_in_one_line(
    argv: list[str], status: int, says: str, capsys: Capture
) -> None:
    assert main(argv) == status
    out, err = capsys.readouterr()
    assert says in (err if status else out)
    assert err.count("\n") == (status == 2)


def test_help_and_a_batch_of_nothing_need_no_torch() -> None:
    code = (
        "import sys; from patchioner.cli.main import main, VERBS; "
        "statuses = [main([*words, '--help']) for words in ([], *([verb] for verb in VERBS))]; "
        "statuses.append(main(['batch', 'nowhere', '--out', 'x.jsonl']) != 1); "
        "sys.exit(any(statuses) or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_letters_that_the_terminal_lacks_do_not_stop_it(monkeypatch: MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    spelling.write_line("café.jpg")
    assert raw.getvalue() == b"caf?.jpg\n"


def test_the_doctor_finds_what_is_wrong(capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    alone, both = ({"patchioner": ["openpatchioner", "patchioner"][:n]} for n in (1, 2))
    monkeypatch.setattr(metadata, "packages_distributions", lambda: alone)
    monkeypatch.setattr(models, "EXTRAS", {"demo": "no_such_module", "clip": "json"})
    assert main(["doctor"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "[demo]" in lines["demo"] and "no_such_module" in lines["demo"]
    assert lines["clip"].split()[1] == "installed" and lines["HF_HUB_OFFLINE"].split()[1] == "1"
    assert {"patchioner", "python", "torch", "cpu", "cache"} <= set(lines)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    assert main(["doctor"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "pip uninstall patchioner" in error


def test_the_script_that_people_copy_works(
    checkpoint: Path, photo: Path, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    assert len((REPOSITORY / "caption_region.py").read_text("utf-8").splitlines()) < 60

    def run(words: str) -> int:
        argv = ["caption_region.py", str(photo), *words.split(), "--model", str(checkpoint)]
        monkeypatch.setattr(sys, "argv", argv)
        return int(caption_region.main())

    monkeypatch.chdir(photo.parent)
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save("mask.png")
    for words in ("", "--box 1 2 30 40", "--mask mask.png", "--trace 1,2 3,4"):
        assert run(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for words in ("--box 90 90 99 99", "--trace 500,500", "--mask gone.png"):
        assert run(words) == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_a_box_caption_enters_few_files(checkpoint: Path, photo: Path) -> None:
    words = ["tools/trace.py", "caption", photo, "--box", "1,2,30,40", "--model", checkpoint]
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = int(done.stdout.splitlines()[-1].split()[0])
    assert 20 < files <= 42, done.stdout
