"""Every command and every Python block of README and docs runs, in order, on the shipped model."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.checkpoints.folder import SHIPPED
from patchioner.cli import command_parser, main
from tests.support import Capture, MonkeyPatch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
data = pytest.importorskip("skimage.data", reason="the documents' photos come with scikit-image")

# What needs a connection, a server or data of one's own: spelled right (it is parsed), not run.
ELSEWHERE = re.compile(
    r"Ruggero1912|openai:|hf:|\bMODEL\b|my-copy|my-model|--model decap|^patchioner serve|--engine ray"
)
SHIPPED_ALONE = re.compile("coffee.png|bank")  # of the others, a tiny model proves as much


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(start: str, *pages: Path) -> list[tuple[str, ...]]:
    """Words of every command line that begins so, each once."""
    lines = [line for page in pages for block in blocks(page, "bash") for line in block.splitlines()]
    told = [line[line.index(start) :].split(" > ")[0] for line in lines if start in line]
    found = [tuple(shlex.split(one, comments=True)) for one in told]
    return [words for words in dict.fromkeys(found) if words[0] == start.split()[0]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: MonkeyPatch, shipped: Patchioner) -> Path:
    """A folder with everything that the examples name; the shipped model is there, too."""
    desk = tmp_path
    photo = Image.fromarray(data.chelsea()).resize((320, 240))
    for name in ("photo.jpg", "a.jpg", "b.jpg", "photos/a.jpg"):
        (desk / name).parent.mkdir(exist_ok=True)
        photo.save(desk / name)
    mask = np.zeros((1, 240, 320), dtype=bool)
    mask[:, 40:200, 60:250] = True
    np.savez_compressed(desk / "masks.npz", masks=mask)
    Image.fromarray(mask[0]).save(desk / "mask.png")
    annotations = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [10, 10, 90, 90]}],
    }
    (desk / "annotations.json").write_text(json.dumps(annotations), encoding="utf-8")
    rows = [f"{number},a photo of {number} cats" for number in range(2, 130)]
    (desk / "captions.csv").write_text("\n".join(["id,caption", *rows]), encoding="utf-8")
    for folder in ("examples", "configs"):
        shutil.copytree(ROOT / folder, desk / folder)
    read = Patchioner.from_pretrained

    def load(name: object = SHIPPED, **options: Any) -> Patchioner:
        return shipped if name == SHIPPED and options.get("bank") is None else read(name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Patchioner, "from_pretrained", load)
    monkeypatch.chdir(desk)
    return desk


def test_the_commands_run_in_their_order(
    desk: Path, calibrated: Patchioner, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    for words in commands("patchioner ", *PAGES):
        command = shlex.join(words)
        assert command_parser().parse_args(words[1:]), command
        if ELSEWHERE.search(command) or "catalogue-model" in command:
            continue
        with monkeypatch.context() as patch:
            if not SHIPPED_ALONE.search(command):
                patch.setattr(Patchioner, "from_pretrained", lambda *_, **__: calibrated)
            assert main(list(words[1:])) == 0, command
        out = capsys.readouterr().out
        written = [desk / words[words.index(flag) + 1] for flag in ("--out",) if flag in words]
        assert out.strip() or all(path.exists() for path in written), command
        if written and written[0].suffix == ".png":
            with Image.open(written[0]) as picture:
                assert picture.width > 300


@pytest.mark.parametrize("page", [x for x in PAGES if blocks(x, "python")], ids=lambda x: x.name)
def test_the_python_blocks_run_in_their_order(
    page: Path, desk: Path, calibrated: Patchioner, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    if page.stem != "README":
        monkeypatch.setattr(Patchioner, "from_pretrained", lambda *_, **__: calibrated)
    namespace: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)
    assert capsys.readouterr().out or len(namespace) > 3


def test_the_documented_adaptation_captions(desk: Path, capsys: Capture) -> None:
    """As documented, on the first 60 sentences and for one epoch."""
    import train_text_decoder

    corpus = desk / "examples" / "catalogue.txt"
    corpus.write_text("\n".join(corpus.read_text().splitlines()[:60]) + "\n", encoding="utf-8")
    (training,) = commands("python train_text_decoder.py", PAGES[0])
    assert train_text_decoder.main([*training[2:], "--epochs", "1"]) == 0
    told = commands("patchioner ", *PAGES)
    (command,) = (words for words in told if words[-1] == "catalogue-model")
    assert main(list(command[1:])) == 0
    assert capsys.readouterr().out.count("whole image") == 1


def test_the_documented_benchmark_runs_on_the_sample_set(desk: Path, capsys: Capture) -> None:
    from benchmarks import trace

    (command,) = re.findall(r"`python -m benchmarks\.trace ([^`]*)`", PAGES[0].read_text("utf-8"))
    words = shlex.split(command, comments=True)
    words[words.index("--limit") + 1] = "2"
    assert trace.main([*words, "--java=no"]) == 0
    assert "CIDEr" in capsys.readouterr().out


def test_the_documents_stay_short_and_link_to_what_exists() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    for page, text in texts.items():
        for target in re.findall(r"\]\(([^)#h][^)#]*)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    words = [len(text.split()) for text in texts.values()]
    assert words[0] <= 1000 and sum(words) <= 8000, words
