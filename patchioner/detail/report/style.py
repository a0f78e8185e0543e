"""Looks of the page, and what lights up when: its style sheet. There is no script.

Knows: CSS. Does NOT know: content. An element with ``data-i="3"`` is an item (a sentence, a region's row); one with
``data-for="0 3"`` is a layer of the photo that items 0 and 3 of its section light up; those in ``data-also`` do so
faintly.
"""

from __future__ import annotations

from collections.abc import Sequence

_LAYERS = (("for", 1.0), ("also", 0.4))

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --quiet: #5b6168; --line: #d5d9de;
  --panel: #f5f6f8; --mark: #0b5cad; --lit: #ffe58a; --lit-ink: #1c1e21; --bad: #a5281b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e8eaed; --quiet: #a4abb3; --line: #3a3f46;
  --panel: #1f2226; --mark: #7cb8ff; --lit: #6b5600; --lit-ink: #fff; --bad: #ff9d8f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .3rem 0; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
h4 { font-size: .88rem; font-weight: 600; color: var(--quiet); margin: .7rem 0 .2rem; }
a { color: var(--mark); }
.quiet { color: var(--quiet); font-size: .88rem; }
nav ol { columns: 18rem; padding-left: 1.6rem; margin: .5rem 0; }
section { border-top: 2px solid var(--line); margin-top: 1.5rem; padding-top: 1rem; }
.columns { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 5fr); gap: 1.5rem; }
figure { margin: 0; position: sticky; top: 1rem; align-self: start; }
figure svg { display: block; width: 100%; height: auto; max-height: calc(100vh - 5rem); border-radius: .3rem;
  background: var(--panel); }
figcaption { margin-top: .3rem; }
.paragraph { font-size: 1.12rem; margin: 0 0 .8rem; }
.item { scroll-margin-top: 9rem; color: inherit; border-radius: .2rem; text-underline-offset: .22em;
  text-decoration: underline dotted var(--quiet) 1px; }
.item:hover, .item:focus, .item:target { background: var(--lit); color: var(--lit-ink); }
.item:focus-visible { outline: 2px solid var(--mark); outline-offset: 1px; }
.empty { border-left: .3rem solid var(--bad); background: var(--panel); padding: .5rem .8rem; }
.dropped { list-style: none; margin: 0; padding: 0; font-size: .93rem; }
.dropped li { margin: .25rem 0; } .dropped s { color: var(--quiet); text-decoration-color: var(--bad); }
.dropped .item { text-decoration: none; }
.dropped .item:is(:hover, :focus, :target) s { color: var(--lit-ink); }
.why { color: var(--bad); font-size: .88rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .6rem 0; padding: .3rem .7rem; }
summary { cursor: pointer; font-weight: 600; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .88rem; min-width: 100%; }
caption { text-align: left; color: var(--quiet); padding-bottom: .2rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top;
  font-variant-numeric: tabular-nums; }
tbody th { font-weight: 600; }
pre { font-size: .8rem; overflow-x: auto; white-space: pre-wrap; margin: .5rem 0; }
[data-for] { opacity: 0; pointer-events: none; }
.casing, .edge { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
.casing { stroke: #000; stroke-width: 6; stroke-opacity: .75; } .edge { stroke: #ffd100; stroke-width: 3; }
@media (max-width: 46rem) { .columns { grid-template-columns: minmax(0, 1fr); }
  figure { top: 0; background: var(--paper); padding-bottom: .3rem; z-index: 1; } figure svg { max-height: 42vh; }
  .item { scroll-margin-top: 50vh; } }
@media print { figure { position: static; } section { break-before: page; } }
"""


def lighting(items: int) -> str:
    """Rules by which item k lights its layers: the pointer first, then the keyboard's focus, then what was tapped.

    Args:
        items: most items of any section.
    """
    return "\n".join(_rule(item) for item in range(items))


def _rule(item: int) -> str:
    one = f'[data-i="{item}"]'
    away = "section:not(:has([data-i]:hover))"
    states = (
        f"section:has({one}:hover)",
        f"{away}:has({one}:focus-visible)",
        f"{away}:not(:has([data-i]:focus-visible)):has({one}:target)",
    )
    return "\n".join(_lit(states, f'[data-{kind}~="{item}"]', opacity) for kind, opacity in _LAYERS)


def _lit(states: Sequence[str], layer: str, opacity: float) -> str:
    return f"{', '.join(f'{state} {layer}' for state in states)} {{ opacity: {opacity}; }}"
