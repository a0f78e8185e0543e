"""Every command and every Python block of the README runs, with the shipped model."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train_text_decoder
from benchmarks import trace
from patchioner.cli.detail import add_detail_arguments
from patchioner.cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
pytest.importorskip("skimage", reason="the README's photos come with scikit-image")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def caption_commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    found = [
        line[line.index("patchioner caption") :] for line in lines if "patchioner caption " in line
    ]
    assert len(found) >= 6
    return found


def training_command() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    (found,) = (line for line in lines if line.startswith("python train_text_decoder.py"))
    return shlex.split(found)[2:]


ADAPTED = "--model catalogue-model"
MADE = ("--bank small-bank", "--model mini-openvino")
HUB = "Ruggero1912/"


def other_commands() -> list[str]:
    """`patchioner models`, `convert`, `bank`, `export` and what uses their results, in the order of the README."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [
        line
        for line in lines
        if re.match(r"patchioner (models|convert|bank|export) ", line + " ")
        or any(made in line for made in MADE)
    ]


class Generator:
    """Stands in for SAM's automatic mask generator."""

    def generate(self, image: object) -> list[dict[str, Any]]:
        mask = np.zeros((240, 320), dtype=bool)
        mask[40:200, 60:250] = True
        return [{"segmentation": mask, "bbox": [60, 40, 190, 160]}]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the README's examples name."""
    from skimage import data

    photo = Image.fromarray(data.chelsea()).resize((320, 240))
    for name in ("photo.jpg", "a.jpg", "b.jpg", "photos/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo.save(tmp_path / name)
    np.savez_compressed(
        tmp_path / "masks.npz", masks=Generator().generate(None)[0]["segmentation"][None]
    )
    annotations = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 320, "height": 240}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 90, 90]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(annotations), encoding="utf-8")
    rows = [f"{number},a photo of {number} cats" for number in range(2, 130)]
    (tmp_path / "captions.csv").write_text("\n".join(["id,caption", *rows]), encoding="utf-8")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [c for c in caption_commands() if not any(made in c for made in (ADAPTED, *MADE))],
)
def test_a_documented_command_captions(
    command: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.split(" > ")[0], comments=True)
    assert main(words[1:]) == 0
    assert capsys.readouterr().out.strip()
    if "--out" in words:
        with Image.open(desk / words[words.index("--out") + 1]) as picture:
            assert picture.width > 300


def test_documented_banks_and_models(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every one in its order; what needs the hub is tested with a hub of our own (`test_hub`, `test_models`)."""
    commands = other_commands()
    assert len(commands) >= 6
    for command in (command for command in commands if HUB not in command):
        assert main(shlex.split(command, comments=True)[1:]) == 0, command
        assert capsys.readouterr().out.strip()


DETAIL = re.findall(
    r"^patchioner detail .*$",
    README + (ROOT / "docs" / "detail.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)


@pytest.mark.parametrize("command", sorted({c for c in DETAIL if not re.search("openai:|hf:", c)}))
def test_a_documented_description_is_written(
    command: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command, comments=True)
    assert main(words[1:]) == 0
    if "--out" in words:
        assert len((desk / words[words.index("--out") + 1]).read_text().splitlines()) == 1
    else:
        assert capsys.readouterr().out.strip().endswith(".")


@pytest.mark.parametrize("command", sorted({c for c in DETAIL if re.search("openai:|hf:", c)}))
def test_documented_descriptions_by_others_are_well_spelled(command: str) -> None:
    """Nothing is asked here: see `tests/patchioner/cli/test_detail.py`, with a server of our own."""
    parser = argparse.ArgumentParser()
    add_detail_arguments(parser)
    assert parser.parse_args(shlex.split(command, comments=True)[2:]).photos


def test_the_documented_detail_captioner_runs(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "detail.md").read_text(), re.DOTALL
    )
    exec(compile(block, "detail.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_the_documented_benchmarks_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first as it is, on two samples; the long ones' configurations and arguments are read."""
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the development sets are not beside the checkout")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("python -m benchmarks.")]
    assert [shlex.split(c)[2] for c in commands] == [
        "benchmarks.trace", "benchmarks.all", "benchmarks.compare"
    ]  # fmt: skip
    words = shlex.split(commands[0])[3:]
    words[words.index("--limit") + 1] = "2"
    assert trace.main([*words, "--data", str(data), "--java", "no"]) == 0
    assert "baseline: whole" in capsys.readouterr().out
    assert (desk / "build" / "trace" / "report.html").is_file()
    assert (ROOT / "configs" / "benchmarks" / "dev.yaml").is_file()


def test_the_documented_adaptation_captions(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As documented, on the first 60 sentences and for one epoch."""
    corpus = desk / "examples" / "catalogue.txt"
    corpus.write_text("\n".join(corpus.read_text().splitlines()[:60]) + "\n", encoding="utf-8")
    assert train_text_decoder.main([*training_command(), "--epochs", "1"]) == 0
    (command,) = (command for command in caption_commands() if ADAPTED in command)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out.count("whole image") == 3


def test_the_python_blocks_run_in_their_order(desk: Path) -> None:
    namespace: dict[str, Any] = {
        "generator": Generator(),
        "image": np.zeros((240, 320, 3), np.uint8),
    }
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert len(namespace["captions"]) >= 1
    assert namespace["why"].texts and namespace["words"].shape[0] == 2


def test_files_that_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#h][^)]*)\)", README):
        assert (ROOT / target).exists(), target
