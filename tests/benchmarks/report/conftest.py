"""Small finished runs, written by the commands themselves, and a reader of pages that sees what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dense, image, objects, region_set, trace

COMMANDS = {
    "trace": (trace.main, "traces_dev.json"),
    "dense": (dense.main, "dense_refcocos_dev.json"),
    "region_set": (region_set.main, "region_sets_dev.json"),
    "image": (image.main, "image_captions_dev.json"),
    "objects": (objects.main, "class_boxes_dev.json"),
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements with their attributes and ancestors, and the text; raises where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of a kind."""
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def words(self, *tags: str) -> str:
        """The text of some kinds of element; of all but script and style where none is named."""
        wanted = tags or tuple(tag for tag in self.text if tag not in ("script", "style"))
        return " ".join(" ".join(self.text.get(tag, [])) for tag in wanted)


@pytest.fixture
def page() -> Callable[[str], Page]:
    """Parses a page."""
    return Page


CLASSES = {"red": "dog", "green": "cat", "blue": "person", "yellow": "kite", "cyan": "bus"}


class Namer:
    """The model of colours, saying a COCO class for each colour; dogs it takes for cats."""

    def __init__(self, model: Any) -> None:
        self.encode, self.model = model.encode, model

    def caption_many(self, items: Any, **how: Any) -> Any:
        """As the model of colours."""
        return [
            [replace(one, text=_named(one.text)) for one in row]
            for row in self.model.caption_many(items, **how)
        ]


def _named(text: str) -> str:
    wrong = {"dog": "cat"}
    return " ".join(
        wrong.get(CLASSES.get(word, word), CLASSES.get(word, word)) for word in text.split()
    )


def write_classes(path: Path) -> None:
    """The class boxes again, with COCO classes."""
    content = json.loads(path.read_text())
    for entry in content:
        for box in entry["boxes"]:
            box["name"] = CLASSES.get(box["name"], box["name"])
    path.write_text(json.dumps(content))


@pytest.fixture
def run(data: Path, tmp_path: Path, colour_model: Any) -> Callable[..., Path]:
    """Runs one task into a folder; further words are options of its command."""

    def start(task: str, *more: str, name: str = "out") -> Path:
        main, file = COMMANDS[task]
        out = tmp_path / "runs" / name
        words = [f"--data={data / 'annotations' / file}", f"--images={data / 'photos'}"]
        words += ["--java=no", "--rounds=50", f"--out={out}", *more]
        model = colour_model
        if task == "objects":
            write_classes(data / "annotations" / file)
            model = Namer(colour_model)
        assert main(words, load_model=lambda *_: model) == 0
        return out

    return start
