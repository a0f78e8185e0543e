"""Builds HTML from nested calls, and escapes every text on the way.

Knows: the syntax of HTML and inline SVG. Does NOT know: what a page says.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | None | Iterable[Child]"
Attribute: TypeAlias = str | int | float | bool | None


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """One element.

    Args:
        name: its tag.
        children: texts (escaped), other elements, or iterables of them; None is left out.
        attributes: `class_` is written as class, `data_metric` as data-metric; True gives a bare attribute, None and
            False none.

    Example:
        >>> element("p", "a < b", class_="x", hidden=True)
        '<p class="x" hidden>a &lt; b</p>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        words.append(attribute if value is True else f'{attribute}="{escape(_text(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Children one after another, as in `element`.

    Example:
        >>> join(["a", Markup("<br>"), None, 1])
        'a<br>1'
    """
    if children is None:
        return Markup("")
    if isinstance(children, (str, int, float)):
        return escape(_text(children))
    return Markup("".join(join(child) for child in children))


def escape(text: str) -> Markup:
    """A text as HTML; `Markup` stays as it is. What no HTML file may hold (control characters) is shown as a sign.

    Example:
        >>> escape('<b> & "quotes"')
        '&lt;b&gt; &amp; &quot;quotes&quot;'
    """
    if isinstance(text, Markup):
        return text
    clean = _CONTROL.sub("\ufffd", text).encode("utf-8", "replace").decode("utf-8")
    return Markup(html.escape(clean))


def _text(value: str | int | float) -> str:
    """Numbers as short as they can be: 33.30000001 is 33.3."""
    return (
        f"{round(value, 3):g}"
        if isinstance(value, float)
        else str(value)
        if not isinstance(value, str)
        else value
    )


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
