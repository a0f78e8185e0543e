"""`patchioner detail` from the command line: texts, JSON, files, pages, regions, wrong usage, every kind of stop."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.detail import Photo, Statement, from_json
from patchioner.detail.describe import PatchionerDescriber
from patchioner.detail.score import SENTENCE_INPUTS, Calibration, Evidence
from patchioner.guidance import Logistic
from tests.patchioner.cli.conftest import Command
from tests.support import MonkeyPatch
from tests.support.chat_server import ChatServer, Reaction, fails, says
from tests.support.tiny import noise_photo, tiny_parts

DETAIL = "detail --model tiny --samples 2"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that finds everything supported."""
    parts = tiny_parts()

    def certain(*inputs: str) -> Logistic:
        zeros, ones = (0.0,) * len(inputs), (1.0,) * len(inputs)
        return Logistic(inputs, zeros, ones, zeros, 2.0, 0.5)

    objects = certain(*Evidence(Patchioner(parts)).object_inputs)
    fitted = Calibration(certain(*SENTENCE_INPUTS), objects)
    settings = replace(parts.settings, calibration={"detail": fitted.to_json()})
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


@pytest.fixture(autouse=True)
def photos(desk: Path) -> None:
    Path("photos").mkdir()
    for number in range(PHOTOS):
        noise_photo(seed=number).save(f"photos/{number}.png")


def test_paragraphs_come_out_and_one_bad_photo_costs_itself_alone(command: Command) -> None:
    done = command(f"{DETAIL} photo.png --max-words 30 --key-env X")
    assert done.status == 0 and 0 < len(done.out.split()) <= 30
    assert "--key-env does nothing" in done.err
    Path("photos/1.png").write_bytes(b"?")
    done = command(f"{DETAIL} photos --scorer none")
    blocks = done.out.strip().split("\n\n")
    assert blocks[0].startswith("photos/0.png:\n") and len(blocks) == PHOTOS - 1
    assert (done.status, done.err.count("error")) == (1, 1) and "1.png" in done.err


def test_json_has_the_provenance_and_photos_have_regions_of_their_own(command: Command) -> None:
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[20:40, 30:70] = 255
    Image.fromarray(mask).save("photos/mask.png")
    entries = {"0.png": [], "1.png": [{"mask": "mask.png", "label": "thing"}]}
    Path("photos/own.json").write_text(json.dumps({"images": entries}))
    told = "--regions photos/own.json --json --box 0,0,50,50 --grid 1x2"
    done = command(f"{DETAIL} photos/0.png photos/1.png {told}")
    (name, first), (_, second) = (from_json(json.loads(line)) for line in done.out.splitlines())
    assert name == "photos/0.png" and first.sentences and first.kept
    assert [one.kind for one in first.regions] == ["global", "user", "grid", "grid"]
    assert first.regions[1].box == (0, 0, 50, 50)
    given = second.regions[2]
    assert (given.kind, given.name, given.box) == ("user", "thing", (30, 20, 70, 40))
    assert given.mask is not None and given.mask.sum() == 20 * 40


def test_a_file_and_a_page(command: Command) -> None:
    written = []
    for told in ("6 described, 0 had their line already, of 6 photos", "0 described, 6 had"):
        done = command(f"{DETAIL} photos --out out.jsonl --report out.html")
        assert (done.status, done.out) == (0, "") and told in done.err
        written.append((Path("out.jsonl").read_bytes(), Path("out.html").read_text()))
    assert written[0] == written[1]
    assert written[0][1].count("<section") == PHOTOS
    assert "data:image/png" in written[0][1], "no heat map"
    assert not Path("out.jsonl.cache").exists()


def test_unsupported_sentences_leave_nothing(command: Command) -> None:
    done = command(f"{DETAIL} photo.png --min-support 1 --report x.html")
    assert (done.status, done.out) == (0, "\n") and "nothing is said: none of" in done.err
    assert "Nothing is said of this photo: none of" in Path("x.html").read_text()


# A batch that asks a server, stopped in every way: it ends like one that was not, and asks nothing twice.

PHOTOS, KEY = 6, "sk-secret-of-the-test"
SENTENCES = (
    "A red bus stands at a kerb.", "A small dog lies on a green bench.", "Two people cross a wet street.",
    "A wooden table holds a white cup.", "There is a blue kite above a beach.",
)  # fmt: skip
ASKING = (
    "detail photos --model none --scorer none --grid 1x2 --samples 1 --describer openai:tiny --concurrency 2 "
    "--base-url"
)  # fmt: skip


def speak(request: dict[str, Any]) -> Reaction:
    """Says of a picture always the same; to the fuser nothing that it can use."""
    if isinstance(request["messages"][-1]["content"], str):
        return says("I would rather not.")
    return says(SENTENCES[request["seed"] % len(SENTENCES)])


def distinct(requests: list[dict[str, Any]]) -> int:
    return len({json.dumps(request) for request in requests})


@pytest.fixture
def key(monkeypatch: MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def stop(line: str, kind: signal.Signals, reached: threading.Event) -> None:
    """Runs the command, and stops it once the server has been `reached` often enough."""
    process = subprocess.Popen(
        [sys.executable, "-m", "patchioner", *shlex.split(line)],
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job would hand on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert reached.wait(120), "the server was not asked"
    process.send_signal(kind)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == (130 if kind == signal.SIGINT else -kind), errors
    assert "Traceback" not in errors


def test_stopped_and_killed_it_ends_the_same(command: Command, key: None) -> None:
    """Ctrl-C while the server asks to come back in 50 s, which is not waited for; then a kill while it answers."""
    reached, limit = threading.Event(), 10**9
    then = fails(429, "too many", headers={"Retry-After": "50"})

    def react(request: dict[str, Any]) -> Reaction:
        if len(server.requests) < limit:
            return speak(request)
        reached.set()
        return then

    with ChatServer(then=react) as server:
        line = f"{ASKING} {server.url} --fuser openai:tiny --out"
        assert command(f"{line} whole.jsonl").status == 0
        asked = len(server.requests)
        assert distinct(server.requests) == asked and server.most <= 2
        kept = [0]
        for kind in (signal.SIGINT, signal.SIGKILL):
            limit = len(server.requests) + 8
            reached.clear()
            stop(f"{line} out.jsonl", kind, reached)
            then = Reaction(hang=True)
            kept.append(len([*Path("out.jsonl.cache").rglob("*.json")]))
        assert 0 < kept[1] < kept[2] < asked, "both were stopped too late to tell anything"
        seen, limit = len(server.requests), 10**9
        assert command(f"{line} out.jsonl").status == 0
        assert len(server.requests) - seen == asked - kept[2]
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    for file in (Path("out.jsonl"), *Path("out.jsonl.cache").rglob("*.json")):
        assert KEY not in file.read_text()


def test_a_spent_budget(command: Command, key: None) -> None:
    with ChatServer(then=speak) as server:
        line = f"{ASKING} {server.url}"
        done = command(f"{line} --out out.jsonl --price-in 10 --price-out 20 --max-calls 8")
        assert done.status == 1
        assert "stopped: " in done.err and "budget of 8 calls is spent" in done.err
        assert "asked 8 times, 8 answered; tokens: 800 sent, 80 came back; price: 0.0096" in done.err
        assert command(f"{line} --out out.jsonl").status == 0
        assert distinct(server.requests) == len(server.requests)
        done = command(f"{line} --max-calls 2")
        assert done.status == 1 and done.err.count("budget of 2 calls is spent") == 1
        assert "0 of 6 photos described" in done.err and "--cache would keep them" in done.err
        assert "are lost" not in command(f"{line} --max-calls 2 --cache kept").err
    assert [*Path("kept").rglob("*.json")]
    left = [one.name for one in threading.enumerate()]
    assert not [name for name in left if name.startswith(("patchioner", "chat"))]
