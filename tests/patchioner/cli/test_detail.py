"""`patchioner detail` from the command line: texts, JSON, files, pages, regions, wrong usage, every kind of stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.calibration import Logistic
from patchioner.cli.main import main
from patchioner.detail.describe import PatchionerDescriber
from patchioner.detail.score import SENTENCE_INPUTS, Calibration, Evidence
from patchioner.detail.values import Photo, Statement, from_json
from tests.support import Capture, MonkeyPatch
from tests.support.chat_server import ChatServer, Reaction, fails, says
from tests.support.tiny import noise_photo, tiny_parts

Run = Callable[..., int]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that finds everything supported."""
    parts = tiny_parts()
    fitted = []
    for inputs in (SENTENCE_INPUTS, Evidence(Patchioner(parts)).object_inputs):
        zeros, ones = (0.0,) * len(inputs), (1.0,) * len(inputs)
        fitted.append(Logistic(inputs, zeros, ones, zeros, 2.0, 0.5))
    settings = replace(parts.settings, calibration={"detail": Calibration(*fitted).to_json()})
    folder = tmp_path_factory.mktemp("models") / "tiny"
    Patchioner(replace(parts, settings=settings)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def sensible_words(monkeypatch: MonkeyPatch) -> None:
    """A random decoder writes no sentences; everything else is real."""
    things = ("bus", "dog", "table", "kite", "boat", "horse", "cup", "bench")

    def describe(self: object, photo: Photo, regions: Any, *, seed: int = 0) -> list[Statement]:
        return [
            Statement(region.id, sample, f"A {colour} {things[place % len(things)]} stands there.")
            for place, region in enumerate(regions)
            for sample, colour in enumerate(("red", "green"))
        ]

    monkeypatch.setattr(PatchionerDescriber, "describe", describe)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        noise_photo(seed=number).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def run(checkpoint: Path) -> Run:
    options = ["--model", str(checkpoint), "--samples", "2"]
    return lambda *words: main(["detail", *options, *map(str, words)])


def test_paragraphs_come_out_and_one_bad_photo_costs_itself_alone(
    run: Run, photos: Path, capsys: Capture
) -> None:
    assert run(photos / "0.png", "--max-words", 30, "--key-env", "X") == 0
    captured = capsys.readouterr()
    assert 0 < len(captured.out.split()) <= 30 and "--key-env does nothing" in captured.err
    (photos / "1.png").write_bytes(b"?")
    assert run(photos, "--scorer", "none") == 1
    captured = capsys.readouterr()
    blocks = captured.out.strip().split("\n\n")
    assert blocks[0].startswith(f"{photos / '0.png'}:\n") and len(blocks) == 2
    assert captured.err.count("error") == 1 and "1.png" in captured.err


def test_json_has_the_provenance_and_lists_have_regions_of_their_own(
    run: Run, photos: Path, capsys: Capture
) -> None:
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[20:40, 30:70] = 255
    Image.fromarray(mask).save(photos / "mask.png")
    listed, entry = photos / "list.json", {"mask": "mask.png", "label": "thing"}
    listed.write_text(json.dumps(["0.png", {"photo": "1.png", "regions": [entry]}]))
    assert run(listed, "--json", "--box", "0,0,50,50", "--grid", "1x2") == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    (name, first), (_, second) = map(from_json, lines)
    assert name == str(photos / "0.png") and first.sentences and first.kept
    assert [one.kind for one in first.regions] == ["global", "user", "grid", "grid"]
    assert first.regions[1].box == (0, 0, 50, 50)
    own = second.regions[1]
    assert (own.kind, own.name, own.box) == ("user", "thing", (30, 20, 70, 40))
    assert own.mask is not None and own.mask.sum() == 20 * 40


def test_a_file_and_a_page(run: Run, photos: Path, capsys: Capture) -> None:
    out, page = photos.parent / "out.jsonl", photos.parent / "out.html"
    assert run(photos, "--out", out, "--report", page) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 described, 0 had their line already, of 3 photos" in captured.err
    before, text = out.read_bytes(), page.read_text()
    assert text.count("<section") == 3
    assert text.count("data:image/png") > 0, "no heat map"
    assert not (photos.parent / "out.jsonl.cache").exists()
    assert run(photos, "--out", out, "--report", page) == 0
    assert "0 described, 3 had" in capsys.readouterr().err
    assert (out.read_bytes(), page.read_text()) == (before, text)


def test_unsupported_sentences_leave_nothing(run: Run, photos: Path, capsys: Capture) -> None:
    page = photos.parent / "x.html"
    assert run(photos / "0.png", "--min-support", 1, "--report", page) == 0
    captured = capsys.readouterr()
    assert captured.out == "\n" and "nothing is said: none of" in captured.err
    assert "Nothing is said of this photo: none of" in page.read_text()


@pytest.mark.parametrize(("words", "message"), [
    (["--out", "x.txt"], "does not end in .jsonl"), (["--report", "x"], "does not end in .html"),
    (["--json", "--out", "x.jsonl"], "leave --json out"), (["--max-cost", "1"], "--price-in"),
    (["--grid", "0x3"], "ROWSxCOLUMNS"), (["--min-support", "2"], "0 to 1"),
    (["--min-support", "0.5", "--scorer", "none"], "needs a scorer"), (["--calibration", "x"], "belongs to"),
    (["--preset", "best"], "invalid choice"), (["--describer", "opnai:qwen:7b"], "patchioner, hf:MODEL, openai:MODEL"),
    (["--describer", "patchioner:x"], "patchioner:x"), (["--fuser", "hf:"], "hf:MODEL"),
    (["--scorer", "blap:x"], "blip:MODEL"), (["--scorer", "clip"], "clip:NAME"),
    (["--scorer", "clip:ViT-B-32"], "give --calibration FILE"), (["--model", "none"], "name another --describer"),
])  # fmt: skip
def test_wrong_usage(run: Run, words: list[str], message: str, capsys: Capture) -> None:
    assert run("photo.png", *words) == 2
    assert message in capsys.readouterr().err


# A batch that asks a server, stopped in every way: it ends like one that was not, and asks nothing twice.

PHOTOS, KEY = 6, "sk-secret-of-the-test"
SENTENCES = (
    "A red bus stands at a kerb.", "A small dog lies on a green bench.", "Two people cross a wet street.",
    "A wooden table holds a white cup.", "There is a blue kite above a beach.",
)  # fmt: skip


def speak(request: dict[str, Any]) -> Reaction:
    """Says of a picture always the same; to the fuser nothing that it can use."""
    if isinstance(request["messages"][-1]["content"], str):
        return says("I would rather not.")
    return says(SENTENCES[request["seed"] % len(SENTENCES)])


def distinct(requests: list[dict[str, Any]]) -> int:
    return len({json.dumps(request) for request in requests})


@pytest.fixture
def folder(photos: Path, monkeypatch: MonkeyPatch) -> Path:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for number in range(3, PHOTOS):
        noise_photo(seed=number).save(photos / f"{number}.png")
    return photos


def words(
    server: ChatServer, folder: Path, out: Path | None, fuser: str = "openai:tiny"
) -> list[str]:
    return [
        "detail", str(folder), *(("--out", str(out)) if out else ()), "--model", "none", "--scorer", "none",
        "--grid", "1x2", "--samples", "1", "--describer", "openai:tiny", "--fuser", fuser, "--base-url", server.url,
        "--concurrency", "2",
    ]  # fmt: skip


def stop(arguments: list[str], kind: signal.Signals, reached: threading.Event) -> None:
    """Runs the command, and stops it once the server has been `reached` often enough."""
    process = subprocess.Popen(
        [sys.executable, "-m", "patchioner", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job would hand on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert reached.wait(120), "the server was not asked"
    process.send_signal(kind)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == (130 if kind == signal.SIGINT else -kind), errors
    assert "Traceback" not in errors


def test_stopped_and_killed_it_ends_the_same(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C while the server asks to come back in 50 s, which is not waited for; then a kill while it answers."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    cache, reached, limit = Path(f"{out}.cache"), threading.Event(), 10**9
    then = fails(429, "too many", headers={"Retry-After": "50"})

    def react(request: dict[str, Any]) -> Reaction:
        if len(server.requests) < limit:
            return speak(request)
        reached.set()
        return then

    with ChatServer(then=react) as server:
        assert main(words(server, folder, whole)) == 0
        asked = len(server.requests)
        assert distinct(server.requests) == asked and server.most <= 2
        kept = [0]
        for kind in (signal.SIGINT, signal.SIGKILL):
            limit = len(server.requests) + 8
            reached.clear()
            stop(words(server, folder, out), kind, reached)
            then = Reaction(hang=True)
            kept.append(len([*cache.rglob("*.json")]))
        assert 0 < kept[1] < kept[2] < asked, "both were stopped too late to tell anything"
        seen, limit = len(server.requests), 10**9
        assert main(words(server, folder, out)) == 0
        assert len(server.requests) - seen == asked - kept[2]
    assert out.read_bytes() == whole.read_bytes()
    for file in (out, *cache.rglob("*.json")):
        assert KEY not in file.read_text()


def test_a_spent_budget(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    with ChatServer(then=speak) as server:
        plain = words(server, folder, tmp_path / "out.jsonl", "patchioner")
        assert main([*plain, "--price-in", "10", "--price-out", "20", "--max-calls", "8"]) == 1
        errors = capsys.readouterr().err
        assert "stopped: " in errors and "budget of 8 calls is spent" in errors
        assert "asked 8 times, 8 answered; tokens: 800 sent, 80 came back; price: 0.0096" in errors
        assert main(plain) == 0
        assert distinct(server.requests) == len(server.requests)
        capsys.readouterr()
        without = [*words(server, folder, None), "--max-calls", "2"]
        assert main(without) == 1
        errors = capsys.readouterr().err
        assert errors.count("budget of 2 calls is spent") == 1
        assert f"0 of {PHOTOS} photos described" in errors and "--cache would keep them" in errors
        assert main([*without, "--cache", str(tmp_path / "kept")]) == 1
    assert "are lost" not in capsys.readouterr().err
    assert list((tmp_path / "kept").rglob("*.json"))
