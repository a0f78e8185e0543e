"""Builds HTML and inline SVG from nested calls, and escapes every text on the way.

Knows: syntax. Does NOT know: what a page says.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"meta", "link", "input", "img", "br", "hr"})
_EMPTY = frozenset({"rect", "path", "image"})  # of SVG, where a slash ends them
_UNFIT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


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
        attributes: `class_` is written as class, `data_for` as data-for; True gives a bare attribute, None and False
            none.

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
    start = " ".join(words)
    if name in _EMPTY and not children:
        return Markup(f"<{start}/>")
    return Markup(f"<{start}>" if name in _VOID else f"<{start}>{join(children)}</{name}>")


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
    """A text as HTML; `Markup` stays as it is.

    Control characters, lone surrogates and the marks that turn the direction of writing around become a sign: a model's
    text must not rearrange what stands beside it.

    Example:
        >>> escape('<b> & "quotes"')
        '&lt;b&gt; &amp; &quot;quotes&quot;'
    """
    return text if isinstance(text, Markup) else Markup(html.escape(_UNFIT.sub("\ufffd", text)))


def table(
    caption: str, head: Iterable[Child], rows: Iterable[tuple[str | None, list[Child]]]
) -> Markup:
    """A table whose first column names its rows, in a frame that scrolls sideways.

    Args:
        caption: what it shows.
        head: one per column.
        rows: (class of the row, cells).
    """
    body = [
        element(
            "tr",
            element("th", cells[0], scope="row"),
            [element("td", cell) for cell in cells[1:]],
            class_=class_,
        )
        for class_, cells in rows
    ]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", [element("th", cell, scope="col") for cell in head])),
        element("tbody", body),
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _text(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{round(value, 3):g}" if isinstance(value, float) else str(value)
