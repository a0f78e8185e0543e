"""HTML and SVG out of texts that may be hostile: what is no `Markup` is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | None | Iterable[Child]"
Attribute: TypeAlias = str | int | float | bool | None
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_VOID = frozenset({"meta", "link", "input", "img", "br", "hr"})
_EMPTY = frozenset({"rect", "path", "image"})  # of SVG, where a slash ends them
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """One element; `class_` is written as class, `data_for` as data-for; True gives a bare attribute, None none."""
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            attribute = key.rstrip("_").replace("_", "-")
            words.append(attribute if value is True else f'{attribute}="{join(value)}"')
    start = " ".join(words)
    if name in _EMPTY and not children:
        return Markup(f"<{start}/>")
    return Markup(f"<{start}>" if name in _VOID else f"<{start}>{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Texts (escaped), other elements, or iterables of them, one after another; None is left out.

    Control characters, lone surrogates and the marks that turn the direction of writing around become a sign: a model's
    text must not rearrange what stands beside it.
    """
    if children is None or isinstance(children, Markup):
        return Markup(children or "")
    if isinstance(children, float):
        return Markup(f"{round(children, 3):g}")
    if isinstance(children, (str, int)):
        return Markup(html.escape(_UNFIT.sub("\ufffd", str(children))))
    return Markup("".join(map(join, children)))


def table(caption: str, head: Iterable[Child], rows: Iterable[Iterable[Child]], *, class_: str | None = None) -> Markup:
    """A table whose first column names its rows, in a frame that scrolls sideways where it is too wide."""
    heads = element("tr", [element("th", cell, scope="col") for cell in head])
    body = [
        element("tr", element("th", name, scope="row"), [element("td", one) for one in cells]) for name, *cells in rows
    ]
    parts = (element("caption", element("span", caption)), element("thead", heads), element("tbody", body))
    whole = element("table", *parts, class_=class_)
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def folded(title: Child, *content: Child, open: bool = False) -> Markup:
    """What is read on demand, under its title."""
    return element("details", element("summary", title), *content, open=open)


def page(title: str, css: str, *body: Child, policy: str = _POLICY) -> str:
    """A whole HTML file that loads nothing and, but for what `policy` allows, runs nothing: its head forbids it to."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(css)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"
