import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import trace
from benchmarks.build_traces import Spoken, main, read_reply, split
from benchmarks.data import BenchmarkDataError, PhotoFolder
from tests.support import Capture
from tests.support.chat_server import ChatServer, Reaction, fails, says

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_traces"


def record(image: str, captions: list[str], traces: list[Any]) -> dict[str, Any]:
    """A record of Localized Narratives: one stroke a sentence, each spoken while its stroke is drawn."""
    timed, strokes, begin = [], [], 0.0
    for caption, points in zip(captions, traces, strict=True):
        words = caption.split()
        at = np.linspace(begin, begin + points[-1]["t"], len(words) + 1).tolist()
        for word, start, end in zip(words, at, at[1:], strict=False):
            timed.append({"utterance": word, "start_time": start, "end_time": end})
        strokes.append([{**point, "t": begin + point["t"]} for point in points])
        begin += points[-1]["t"] + 1.0
    return {"image_id": image, "timed_caption": timed, "traces": strokes}


def stroke(*t: float) -> list[dict[str, float]]:
    return [{"x": 0.1 * one, "y": 0.5, "t": one} for one in t]


def rewriter(request: dict[str, Any]) -> Reaction:
    words = request["messages"][1]["content"].rpartition("Sentence: ")[2]
    return says("INVALID" if "background" in words else f'Caption: "{words.lower()[:-1]}"')


@pytest.fixture
def real(tmp_path: Path) -> Path:
    if not REAL.is_dir():
        pytest.skip("../shared/data/real_traces is not beside the repository")
    content = json.loads((REAL / "traces.json").read_text(encoding="utf-8"))
    lines = [json.dumps(record(key, **entry)) for key, entry in content.items()]
    path = tmp_path / "narratives.jsonl"
    path.write_text("\n".join([*lines, '{"image_id": 3}', "", "{"]), encoding="utf-8")
    return path


def run(path: Path, out: Path, server: ChatServer, *more: str) -> int:
    words = ["--rewriter", "openai:m", "--base-url", server.url, "--out", str(out)]
    return main([str(path), *words, *more])


def test_real_narratives_become_samples(real: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "traces.json"
    with ChatServer(then=rewriter) as server:
        assert run(real, out, server) == 0
    given = json.loads((REAL / "traces.json").read_text(encoding="utf-8"))
    for image, entry in json.loads(out.read_text(encoding="utf-8")).items():
        spoken = [text.lower().rstrip(".") for text in given[image]["captions"]]
        both = zip(spoken, given[image]["traces"], strict=True)
        kept = {text: points for text, points in both if "background" not in text}
        assert entry["captions"] == list(kept)
        for pair in zip(entry["traces"], kept.values(), strict=True):
            found, wanted = ([[one[key] for key in "xyt"] for one in points] for points in pair)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    reading = trace.read(out, PhotoFolder(REAL / "frames"))
    assert (len(reading.samples), len(reading.skipped)) == (9, 0)
    about = json.loads(Path(f"{out}.about.json").read_text(encoding="utf-8"))
    assert list(about["left_out"].values()) == [2, 2]
    assert "record 11" in capsys.readouterr().err


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(real: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    with ChatServer(then=rewriter) as server:
        assert run(real, whole, server) == 0
        asked = len(server.requests)
        assert run(real, broken, server, "--max-calls", "3", "--concurrency", "1") == 1
        assert not broken.exists()
        assert run(real, broken, server) == 0
        assert len(server.requests) == 2 * asked
    assert broken.read_bytes() == whole.read_bytes()
    with ChatServer(then=lambda _: says("a tiger")) as server:  # --limit draws by the seed
        drawn = []
        for seed in ("1", "1", "2"):
            assert run(real, tmp_path / seed, server, "--limit", "3", "--seed", seed) == 0
            drawn.append(set(json.loads((tmp_path / seed).read_text(encoding="utf-8"))))
        assert drawn[0] == drawn[1] != drawn[2]
    with ChatServer(then=lambda _: fails(401, "bad key")) as server:
        assert run(real, tmp_path / "out.json", server) == 1
    assert not (tmp_path / "out.json").exists()
    assert main([str(real), "--rewriter", "hf:m", "--out", str(tmp_path / "y")]) == 1


def spoken(words: str, *strokes: Any, start: float = 0.0, end: float = 20.0) -> Any:
    timed = [{"utterance": words, "start_time": start, "end_time": end}]
    (found,) = split({"image_id": 5, "timed_caption": timed, "traces": list(strokes)})
    return found


def test_strokes_of_one_sentence_are_parted_off_the_photo() -> None:
    found = spoken("A dog sleeps.", stroke(0, 1, 2), stroke(5, 6, 7), start=1.0, end=6.0)
    assert isinstance(found, Spoken) and found.image == "5"
    drawn = [number for p in found.points for number in (p["x"], p["t"])]
    assert drawn == pytest.approx([0.1, 0, 0.2, 1, -1, 4, 0.5, 4, 0.6, 5])


def test_what_is_left_out() -> None:
    assert "words" in spoken("Dog.", stroke(0, 1))
    for points in (stroke(0), stroke(0, 11, 12)):
        assert "points" in spoken("A dog sleeps.", points)
    off = ([[{"x": 0.1, "y": y, "t": 0}]] for y in (math.nan, "left"))
    some = ({"image_id": "a", "timed_caption": [], "traces": traces} for traces in off)
    for broken in ([], {}, {"image_id": "a", "timed_caption": 3, "traces": []}, *some):
        with pytest.raises(BenchmarkDataError):
            list(split(broken))


def test_replies() -> None:
    for reply in ("a dog", "an invalid in a wheelchair"):
        assert read_reply(reply) == reply
    assert read_reply('Caption: "a dog."') == "a dog."
    for reply in ("INVALID", "Invalid: no object", "a\nb", "", "word " * 41):
        assert read_reply(reply) is None
