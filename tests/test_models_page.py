"""The page of models: every command on it is one that the command line takes, the Python runs, the links lead on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from patchioner import Patchioner
from patchioner.backbones import TimmViT
from patchioner.cli.main import command_parser
from tests.support import published
from tests.support.tiny import tiny_backbone

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    split = [shlex.split(line.split(" > ")[0], comments=True) for line in lines]
    return [words[1:] for words in split if words and words[0] == "patchioner"]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_documented_command_is_understood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text("a cat\na dog\n")
    assert command_parser().parse_args(words)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, mode: str) -> TimmViT:
        return tiny_backbone(mode="crop", size=64)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("patchioner.checkpoints.published.reading.read_backbone", read)
    published.write_decap(tmp_path / "Patch-ioner_talk2dino_decap_COCO_Captions")
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "models.md", "exec"), namespace)
    again = Patchioner.from_pretrained(tmp_path / "decap", device="cpu")
    assert again.settings == namespace["model"].settings


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#h][^)]*)\)", TEXT):
        assert (PAGE.parent / target).exists(), target
