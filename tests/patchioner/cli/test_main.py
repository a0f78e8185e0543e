"""The command as a whole: help, exit statuses, what is imported, `doctor`, and the script that people copy."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.cli import models, spelling
from patchioner.cli.main import main

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]
REPOSITORY = Path(__file__).resolve().parents[3]


def test_help_and_version(capsys: Capture) -> None:
    for words in ([], ["--help"]):
        assert main(words) == 0
        assert all(verb in capsys.readouterr().out for verb in ["caption"])
    assert main(["caption", "--help"]) == 0
    assert "--region-set" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("patchioner ")


@pytest.mark.parametrize("argv", [["capton", "x.jpg"], ["caption"], ["caption", "x.jpg", "--boks"]])
def test_wrong_usage_is_one_line(argv: list[str], capsys: Capture) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "patchioner" in error and "--help" in error


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from patchioner.cli.main import main, VERBS; "
        "statuses = [main([*words, '--help']) for words in ([], *([verb] for verb in VERBS))]; "
        "sys.exit(any(statuses) or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt, 130), (AttributeError, None)])
def test_interruption_exits_130_and_our_bugs_are_not_hidden(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, raised: Any, status: int | None
) -> None:
    def stop(*names: Any, **options: Any) -> Any:
        raise raised

    monkeypatch.setattr(Patchioner, "from_pretrained", stop)
    if status is None:
        with pytest.raises(raised):
            run(photo)
    else:
        assert run(photo) == status


def test_letters_that_the_terminal_lacks_do_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    spelling.write_line("café.jpg")
    assert raw.getvalue() == b"caf?.jpg\n"


def test_the_doctor_reports_and_finds_what_is_in_the_way(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        metadata, "packages_distributions", lambda: {"patchioner": ["openpatchioner"]}
    )
    monkeypatch.setattr(models, "EXTRAS", {"demo": "no_such_module", "clip": "json"})
    assert main(["doctor"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "[demo]" in lines["demo"] and "no_such_module" in lines["demo"]
    assert lines["clip"].split()[1] == "installed" and lines["HF_HUB_OFFLINE"].split()[1] == "1"
    assert {"patchioner", "python", "torch", "cpu", "cache"} <= set(lines)

    both = {"patchioner": ["openpatchioner", "patchioner"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    assert main(["doctor"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "pip uninstall patchioner" in error


def test_the_script_that_people_copy_works(
    checkpoint: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    path = REPOSITORY / "caption_region.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    found = importlib.util.spec_from_file_location("caption_region", path)
    assert found is not None and found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)

    def run(*words: object) -> int:
        argv = ["caption_region.py", *map(str, words), "--model", str(checkpoint)]
        monkeypatch.setattr(sys, "argv", argv)
        return int(script.main())

    mask = photo.parent / "mask.png"
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save(mask)
    for words in ([], ["--box", 1, 2, 30, 40], ["--mask", mask], ["--trace", "1,2", "3,4"]):
        assert run(photo, *words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for bad in (["--box", 90, 90, 99, 99], ["--trace", "500,500"], ["--mask", "gone.png"]):
        assert run(photo, *bad) == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_a_box_caption_enters_few_files(checkpoint: Path, photo: Path) -> None:
    words = ["tools/trace.py", "caption", photo, "--box", "1,2,30,40", "--model", checkpoint]
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = int(done.stdout.splitlines()[-1].split()[0])
    assert 20 < files <= 42, done.stdout
