"""The command as a whole: help, exit statuses, what is imported, `doctor`, and the script that people copy."""

import io
import json
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caption_region
from patchioner.cli import models, spelling
from tests.patchioner.cli.conftest import Command
from tests.support import Capture, MonkeyPatch

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("line", "says"), [
    ("", "caption"), ("--version", "patchioner "), ("caption --help", "--region-set")
])  # fmt: skip
def test_help_and_version(command: Command, line: str, says: str) -> None:
    done = command(line)
    assert (done.status, done.err) == (0, "") and says in done.out


REFUSED = json.loads(Path(__file__).with_name("refused.json").read_text(encoding="utf-8"))
"""Verb and status -> words, and what is said of them."""


@pytest.mark.parametrize(
    ("verb", "status", "words", "says"), [(verb, status, *row) for verb, status, rows in REFUSED for row in rows]
)
def test_what_can_be_checked_is_refused_in_a_line_before_a_model_is_loaded(
    command: Command, verb: str, status: int, words: str, says: str
) -> None:
    done = command(f"{verb} --model nowhere/at-all {words}")
    assert (done.status, done.out) == (status, "")
    assert says in done.err and "at-all" not in done.err
    assert done.err.count("\n") == 1 and "Traceback" not in done.err


def test_help_and_a_batch_of_nothing_need_no_torch() -> None:
    code = (
        "import sys; from patchioner.cli import main, VERBS; "
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


def test_the_doctor_finds_what_is_wrong(command: Command, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    alone, both = ({"patchioner": ["openpatchioner", "patchioner"][:n]} for n in (1, 2))
    monkeypatch.setattr(metadata, "packages_distributions", lambda: alone)
    monkeypatch.setattr(models, "EXTRAS", {"demo": "no_such_module", "clip": "json"})
    done = command("doctor")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert done.status == 0 and {"patchioner", "python", "torch", "cpu", "cache"} <= set(lines)
    assert "[demo]" in lines["demo"] and "no_such_module" in lines["demo"]
    assert lines["clip"].split()[1] == "installed" and lines["HF_HUB_OFFLINE"].split()[1] == "1"
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    done = command("doctor")
    assert done.status == 1 and done.err.count("pip uninstall patchioner") == 1


def test_the_script_that_people_copy_works(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    assert len((REPOSITORY / "caption_region.py").read_text("utf-8").splitlines()) < 60
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save("mask.png")
    for words in ("", "--box 1 2 30 40", "--mask mask.png", "--trace 1,2 3,4"):
        monkeypatch.setattr(sys, "argv", f"caption_region.py photo.png {words} --model tiny".split())
        assert caption_region.main() == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for words in ("--box 90 90 99 99", "--trace 500,500", "--mask gone.png"):
        monkeypatch.setattr(sys, "argv", f"caption_region.py photo.png {words} --model tiny".split())
        assert caption_region.main() == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_a_box_caption_enters_few_files(desk: Path) -> None:
    line = f"tools/trace.py caption {desk}/photo.png --box 1,2,30,40 --model {desk}/tiny"
    words = [sys.executable, *shlex.split(line)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = int(done.stdout.splitlines()[-1].split()[0])
    assert 20 < files <= 42, done.stdout
