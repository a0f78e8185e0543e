"""Tables of these reports, on the builder of HTML that the captioner's own reports use.

Knows: what a table looks like here. Does NOT know: how texts are escaped, what a page says.
"""

from __future__ import annotations

from collections.abc import Iterable

from patchioner.detail.report import Attribute, Child, Markup, element, escape, join

__all__ = [
    "Attribute",
    "Child",
    "Markup",
    "caption_of",
    "element",
    "escape",
    "framed",
    "join",
    "table",
]


def table(
    caption: Child, head: Iterable[Child], rows: Iterable[Iterable[Child]], class_: str = ""
) -> Markup:
    """A table whose first column names its rows, in a frame that scrolls sideways where it is too wide.

    Example:
        >>> "<caption><span>Scores</span></caption>" in table("Scores", ["run", "CIDEr"], [["a", 1.0]])
        True
    """
    body = [
        element("tr", [_cell(cell, heading=index == 0) for index, cell in enumerate(row)])
        for row in rows
    ]
    return framed(
        element(
            "table",
            caption_of(caption),
            element("thead", element("tr", [element("th", cell, scope="col") for cell in head])),
            element("tbody", body),
            class_=class_ or None,
        )
    )


def caption_of(text: Child) -> Markup:
    """The caption of a table, no wider than the window even where its table is."""
    return element("caption", element("span", text))


def framed(content: Child) -> Markup:
    """A frame that scrolls sideways by itself, so that the page never does."""
    return element("div", content, class_="scroll", tabindex="0")


def _cell(content: Child, *, heading: bool) -> Markup:
    return element("th", content, scope="row") if heading else element("td", content)
