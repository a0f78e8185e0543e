"""`patchioner detail` from the command line: texts, JSON, files, pages, regions, wrong usage, every kind of stop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
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
from patchioner.detail.values import DetailRegion, Photo, Statement, from_json
from tests.support import Capture, MonkeyPatch
from tests.support.chat_server import ChatServer, Reaction, fails, says
from tests.support.tiny import noise_photo, tiny_parts

Run = Callable[..., int]


def constant(inputs: tuple[str, ...]) -> Logistic:
    """Finds everything supported."""
    zeros, ones = (0.0,) * len(inputs), (1.0,) * len(inputs)
    return Logistic(inputs, zeros, ones, zeros, 2.0, 0.5)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = tiny_parts()
    objects = Evidence(Patchioner(parts)).object_inputs
    calibration = Calibration(constant(SENTENCE_INPUTS), constant(objects))
    settings = replace(parts.settings, calibration={"detail": calibration.to_json()})
    folder = tmp_path_factory.mktemp("models") / "tiny"
    Patchioner(replace(parts, settings=settings)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def sensible_words(monkeypatch: MonkeyPatch) -> None:
    """A random decoder writes no sentences; everything else is real."""

    def describe(
        self: PatchionerDescriber, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        things = ("bus", "dog", "table", "kite", "boat", "horse", "cup", "bench")
        return [
            Statement(region.id, sample, f"A {colour} {things[place % len(things)]} stands there.")
            for place, region in enumerate(regions)
            for sample, colour in enumerate(("red", "green"))
        ]

    monkeypatch.setattr(PatchionerDescriber, "describe", describe)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        noise_photo(seed=number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(checkpoint: Path) -> Run:
    def call(*words: object) -> int:
        return main(["detail", *map(str, words), "--model", str(checkpoint), "--samples", "2"])

    return call


def test_the_paragraph_comes_out(run: Run, photos: Path, capsys: Capture) -> None:
    assert run(photos / "0.png", "--max-words", 30) == 0
    assert 0 < len(capsys.readouterr().out.split()) <= 30
    assert run(photos) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert blocks[0].startswith(f"{photos / '0.png'}:\n") and len(blocks) == 3


def test_json_has_the_provenance(run: Run, photos: Path, capsys: Capture) -> None:
    box = "10,5,60,50"
    assert run(photos / "0.png", photos / "1.png", "--json", "--box", box, "--grid", "1x2") == 0
    _, line = capsys.readouterr().out.splitlines()
    name, caption = from_json(json.loads(line))
    assert name == str(photos / "1.png") and caption.sentences and caption.kept
    assert [one.kind for one in caption.regions] == ["global", "user", "grid", "grid"]
    assert caption.regions[1].box == (10, 5, 60, 50)


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
    page, words = photos.parent / "x.html", (photos / "0.png", "--min-support", 1)
    assert run(*words, "--report", page) == 0
    captured = capsys.readouterr()
    assert captured.out == "\n" and "nothing is said: none of" in captured.err
    assert "Nothing is said of this photo: none of" in page.read_text()
    assert run(*words, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["text"], values["sentences"], values["kept"]) == ("", [], [])
    assert "unsupported" in values["reason"]


def test_a_list_with_regions_of_its_own(run: Run, photos: Path, capsys: Capture) -> None:
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[20:40, 30:70] = 255
    Image.fromarray(mask).save(photos / "mask.png")
    listed = photos / "list.json"
    entry = {"mask": "mask.png", "label": "thing"}
    listed.write_text(json.dumps(["0.png", {"photo": "1.png", "regions": [entry]}]))
    assert run(listed, "--json", "--box", "0,0,50,50") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    given = [region for region in first["regions"] if region["kind"] == "user"]
    assert [region["box"] for region in given] == [[0, 0, 50, 50]]
    (own,) = [region for region in second["regions"] if region["kind"] == "user"]
    assert (own["name"], own["box"]) == ("thing", [30, 20, 70, 40])
    assert sum(own["mask"]["counts"][1::2]) == 20 * 40


def test_one_bad_photo_costs_itself_alone(run: Run, photos: Path, capsys: Capture) -> None:
    (photos / "1.png").write_bytes(b"?")
    assert run(photos, "--json", "--scorer", "none") == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err.count("error") == 1 and "1.png" in captured.err


@pytest.mark.parametrize(("words", "message"), [
    (["--out", "x.txt"], "does not end in .jsonl"), (["--report", "x"], "does not end in .html"),
    (["--json", "--out", "x.jsonl"], "leave --json out"), (["--max-cost", "1"], "--price-in"),
    (["--grid", "0x3"], "ROWSxCOLUMNS"), (["--min-support", "2"], "0 to 1"),
    (["--min-support", "0.5", "--scorer", "none"], "needs a scorer"), (["--calibration", "x"], "belongs to"),
    (["--preset", "best"], "invalid choice"), (["--describer", "opnai:qwen:7b"], "patchioner, hf:MODEL, openai:MODEL"),
    (["--describer", "patchioner:x"], "patchioner:x"), (["--fuser", "hf:"], "hf:MODEL"),
    (["--scorer", "blap:x"], "blip:MODEL"), (["--scorer", "clip"], "clip:NAME"),
    (["--scorer", "clip:ViT-B-32"], "give --calibration FILE"),
])  # fmt: skip
def test_wrong_usage(run: Run, words: list[str], message: str, capsys: Capture) -> None:
    assert run("photo.png", *words) == 2
    assert message in capsys.readouterr().err


def test_options_of_servers_without_a_server(run: Run, photos: Path, capsys: Capture) -> None:
    assert run(photos / "0.png", "--base-url", "http://x/v1", "--key-env", "X") == 0
    err = capsys.readouterr().err
    assert "--base-url does nothing" in err and "--key-env does nothing" in err
    assert main(["detail", "a.png", "--model", "none"]) == 2
    assert "name another --describer" in capsys.readouterr().err


# A batch that asks a server, stopped in every way: it ends like one that was not, and asks nothing twice.

PHOTOS, KEY = 6, "sk-secret-of-the-test"
SENTENCES = (
    "A red bus stands at a kerb.", "A small dog lies on a green bench.", "Two people cross a wet street.",
    "A wooden table holds a white cup.", "There is a blue kite above a beach.",
)  # fmt: skip


def speak(request: dict[str, Any]) -> Reaction:
    """Says of a picture always the same; to the fuser nothing that it can use."""
    stage, question = identity(request)
    number = int(hashlib.sha256(str(question).encode()).hexdigest(), 16)
    text = SENTENCES[number % len(SENTENCES)] if stage == "describe" else "I would rather not."
    return says(*[text] * request.get("n", 1))


def identity(request: dict[str, Any]) -> tuple[str, object]:
    """Tells questions apart as the cache does: the seed of a description is its own."""
    content = request["messages"][-1]["content"]
    return ("fuse", content) if isinstance(content, str) else ("describe", request["seed"])


def answered(cache: Path) -> set[tuple[str, object]]:
    """Identities of what is in the cache."""
    found: set[tuple[str, object]] = set()
    for file in cache.rglob("*.json"):
        question = json.loads(file.read_text())["question"]
        own, describes = int(file.stem[:8], 16) >> 1, question["stage"] == "describe"
        found.add(("describe", own) if describes else ("fuse", question["user"]))
    return found


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(then=speak) as running:
        yield running


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
        "--grid", "1x2", "--samples", "2", "--describer", "openai:tiny", "--fuser", fuser, "--base-url", server.url,
        "--concurrency", "2",
    ]  # fmt: skip


def stopped(arguments: list[str], kind: signal.Signals, reached: threading.Event) -> str:
    """Runs the command, stops it once the server has been `reached` often enough; what it says of errors."""
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
    return errors


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
        assert len(set(map(identity, server.requests))) == asked and server.most <= 2
        known: set[tuple[str, object]] = set()
        for kind in (signal.SIGINT, signal.SIGKILL):
            seen, limit = len(server.requests), len(server.requests) + 10
            reached.clear()
            stopped(words(server, folder, out), kind, reached)
            then = Reaction(hang=True)
            assert not known & set(map(identity, server.requests[seen:]))
            known = answered(cache)
            assert known
        assert len(known) < asked, "both were stopped too late to tell anything"
        seen, limit = len(server.requests), 10**9
        assert main(words(server, folder, out)) == 0
        assert not known & set(map(identity, server.requests[seen:]))
    assert out.read_bytes() == whole.read_bytes()
    for file in (out, *cache.rglob("*.json")):
        assert KEY not in file.read_text()


def test_a_spent_budget(server: ChatServer, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.jsonl"
    plain = words(server, folder, out, "patchioner")
    priced = ["--price-in", "10", "--price-out", "20"]
    assert main([*plain, *priced, "--max-calls", "8"]) == 1
    errors = capsys.readouterr().err
    assert "stopped: " in errors and "budget of 8 calls is spent" in errors
    assert "asked 8 times, 8 answered; tokens: 800 sent, 80 came back; price: 0.0096" in errors
    assert len(server.requests) == 8
    finished = out.read_text().splitlines() if out.exists() else []
    assert main(plain) == 0
    assert len(set(map(identity, server.requests))) == len(server.requests)
    lines = out.read_text().splitlines()
    assert set(finished) <= set(lines) and len(lines) == PHOTOS


def test_without_a_file(server: ChatServer, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    plain = [*words(server, folder, None), "--max-calls", "2"]
    assert main(plain) == 1
    errors = capsys.readouterr().err
    assert errors.count("budget of 2 calls is spent") == 1
    assert f"0 of {PHOTOS} photos described" in errors and "--cache would keep them" in errors
    assert main([*plain, "--cache", str(tmp_path / "kept")]) == 1
    assert "are lost" not in capsys.readouterr().err
    assert list((tmp_path / "kept").rglob("*.json"))


@pytest.mark.parametrize(("code", "stops"), [("content_filter", False), ("access_denied", True)])
def test_a_forbidden_photo_is_one_photo_and_a_forbidden_key_is_all(
    folder: Path, tmp_path: Path, capsys: Capture, code: str, stops: bool
) -> None:
    refused: list[str] = []

    def react(request: dict[str, Any]) -> Reaction:
        shown = json.dumps(request["messages"][-1]["content"])
        refused.extend([] if refused else [shown])
        return fails(403, "not for you", code=code) if shown in refused else speak(request)

    out = tmp_path / "out.jsonl"
    with ChatServer(then=react) as server:
        assert main(words(server, folder, out, "patchioner")) == 1
    errors = capsys.readouterr().err
    assert ("stopped: " in errors) == ("check the key" in errors) == stops
    if not stops:
        assert len(out.read_text().splitlines()) == PHOTOS - 1
        (line,) = [line for line in errors.splitlines() if "HTTP 403" in line]
        assert ".png" in line and "not for you" in line
        assert "the server refuses this content" in line
    workers = [one.name for one in threading.enumerate()]
    assert not [name for name in workers if name.startswith(("patchioner", "chat"))]
