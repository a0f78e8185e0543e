"""An HTML page as its reader meets it."""

import base64
import io
from html.parser import HTMLParser
from typing import Any

from PIL import Image


class Page(HTMLParser):
    """Every element as (tag, attributes, tags above it), every text by the tag around it; tags must nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs), list(self._open)))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open[-1] if self._open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(text for texts in self.text.values() for text in texts)

    def check_alone(self) -> None:
        """Ids are unique, links lead to them, pictures are inside, nothing runs."""
        ids = [str(attributes["id"]) for _, attributes, _ in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids)) and not self.all("script")
        for _, attributes, _ in self.elements:
            assert not [key for key in attributes if key.startswith("on")]
            for link in filter(None, (attributes.get("href"), attributes.get("src"))):
                assert link.startswith("data:image/") or link[1:] in ids


def embedded(url: str | None) -> Image.Image:
    """The picture of a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(str(url).partition(",")[2])))
