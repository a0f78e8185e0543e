"""The command as a whole: help, exit statuses, what is imported, `doctor`, and the script that people copy."""

from __future__ import annotations

import io
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


REFUSED = {
    ("caption photo.png", 2): [
        ("--box 1,2,3", "X1,Y1,X2,Y2"), ("--box a,b,c,d", "a,b,c,d"), ("--box 30,0,10,10", "inverted"),
        ("--point 7", "X,Y"), ("--trace=", "trace"), ("--trace missing.json", "missing.json"), ("--boks", "--help"),
        ("--mask missing.png", "missing.png"), ("--region-set 0,0,9", "0,0,9"), ("--normalized", "--regions"),
        ("--weighting uniform,variance=1", "gaussian,variance=0.5"), ("--weighting gausian", "gaussian"),
        ("--weighting gaussian,variance=-1", "'-1'"), ("--weighting gaussian,variance=nan", "'nan'"),
        ("--temperature 0", "'0'"), ("--temperature inf", "'inf'"), ("--temperature 1 --beam 3", "--beam"),
        ("--beam 0", "'0'"), ("--beam 1.5", "'1.5'"), ("--min-confidence 1.5", "'1.5'"), ("--labels ''", "''"),
        ("--labels one", "'one'"), ("--labels c.txt", "c.txt"), ("--labels 'a;b' --beam 3", "--beam"),
        ("--labels 'a;b' --plain", "--plain"), ("--labels 'a;b' --style phrase", "--style"),
        ("--patches --point 1,1", "--patches"), (f"--temperature 1 --seed {2**128}", "seed"), ("--out a.xyz", "a.xyz"),
    ],
    ("caption photo.png", 1): [("--regions missing", "missing"), ("--bank missing", "missing")],
    ("caption photo.png photo.png", 1): [("--out one.png", "one.png")],
    ("caption", 1): [("missing", "missing"), ("scikit-image:cofee", "coffee")],
    ("detail photo.png", 2): [
        ("--out x.txt", "does not end in .jsonl"), ("--report x", "does not end in .html"), ("--fuser hf:", "hf:MODEL"),
        ("--json --out x.jsonl", "leave --json out"), ("--max-cost 1", "--price-in"), ("--grid 0x3", "ROWSxCOLUMNS"),
        ("--min-support 2", "0 to 1"), ("--min-support 0.5 --scorer none", "needs a scorer"),
        ("--calibration x", "belongs to"), ("--preset best", "invalid choice"), ("--scorer blap:x", "blip:MODEL"),
        ("--describer opnai:qwen:7b", "patchioner, hf:MODEL, openai:MODEL"), ("--scorer clip", "clip:NAME"),
        ("--describer patchioner:x", "patchioner:x"), ("--scorer clip:ViT-B-32", "give --calibration FILE"),
        ("--model none", "name another --describer"),
    ],
    ("capton", 2): [("x.jpg", "--help")], ("caption", 2): [("", "--help")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "status", "words", "says"),
    [(*verb, *row) for verb, rows in REFUSED.items() for row in rows],
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
        line = f"caption_region.py photo.png {words} --model tiny"
        monkeypatch.setattr(sys, "argv", line.split())
        assert caption_region.main() == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for words in ("--box 90 90 99 99", "--trace 500,500", "--mask gone.png"):
        line = f"caption_region.py photo.png {words} --model tiny"
        monkeypatch.setattr(sys, "argv", line.split())
        assert caption_region.main() == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_a_box_caption_enters_few_files(desk: Path) -> None:
    line = f"tools/trace.py caption {desk}/photo.png --box 1,2,30,40 --model {desk}/tiny"
    words = [sys.executable, *shlex.split(line)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = int(done.stdout.splitlines()[-1].split()[0])
    assert 20 < files <= 42, done.stdout
