"""Looks of the page: its style sheet, and the few lines of script that it also does without.

Knows: CSS and JavaScript. Does NOT know: content. Without the script all metrics are shown one below another.
"""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --quiet: #5b6168; --line: #d5d9de;
  --panel: #f5f6f8; --mark: #0b5cad; --second: #a04a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e8eaed; --quiet: #a4abb3; --line: #3a3f46;
  --panel: #1f2226; --mark: #7cb8ff; --second: #ffb070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.35rem; border-bottom: 2px solid var(--line); margin: 2.5rem 0 .8rem; padding-bottom: .2rem; }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
h4, h5 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; margin: .5rem 0; padding: 0; }
a { color: var(--mark); }
.quiet { color: var(--quiet); font-size: .88rem; font-weight: normal; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
caption { text-align: left; color: var(--quiet); font-size: .88rem; padding: 0 0 .3rem; }
caption span { display: inline-block; max-width: calc(100vw - 2.5rem); }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top;
  overflow-wrap: break-word; }
tbody th { font-weight: 600; }
.numbers td, .numbers thead th { white-space: nowrap; font-variant-numeric: tabular-nums; }
.numbers tbody th { min-width: 8rem; }
.pairs { table-layout: fixed; width: 100%; } .pairs th { width: 40%; overflow-wrap: anywhere; }
.value { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
.chart th:first-child { width: 26%; }
.chart .plotted { width: 40%; min-width: 6rem; padding-right: 1rem; }
.chart td { font-variant-numeric: tabular-nums; vertical-align: middle; }
.chart tr.group th { padding-top: .8rem; color: var(--quiet); font-weight: normal; width: auto; }
.ends { display: flex; justify-content: space-between; color: var(--quiet); font-size: .8rem; font-weight: normal; }
.plot { display: block; overflow: visible; }
.zero { stroke: var(--quiet); stroke-dasharray: 2 2; }
.span { stroke: var(--ink); stroke-width: 1.5; }
path.run { fill: var(--mark); }
path.baseline { fill: var(--paper); stroke: var(--second); stroke-width: 2; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; } figcaption { font-size: .85rem; }
.histogram rect { fill: var(--mark); } .histogram > svg { display: block; border-bottom: 1px solid var(--quiet); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
.card p, .card ul, .card dl { margin: .3rem 0; } .card ul { padding-left: 1.2rem; font-size: .9rem; }
.card .score { font-weight: 600; } .card .label, dt { color: var(--quiet); font-size: .8rem; }
dd { margin: 0 0 .35rem; } dl > dd:first-of-type { font-weight: 600; }
.photo { display: block; width: 100%; max-height: 20rem; background: #000; }
.photo .shade { fill: #000; fill-opacity: .35; }
.photo .casing, .photo .edge { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round;
  stroke-linecap: round; }
.photo .casing { stroke: #000; stroke-width: 5; } .photo .edge { stroke: #ffd100; stroke-width: 2; }
.photo .end { fill: #ffd100; stroke: #000; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.store { position: absolute; }
.missing { border: 1px dashed var(--quiet); padding: .6rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .3rem .7rem; }
summary { cursor: pointer; font-weight: 600; }
.chooser { display: block; margin: 1rem 0; } select { font: inherit; }
@media print { .card { break-inside: avoid; } }
"""

SCRIPT = """
for (const section of document.querySelectorAll("section[data-task]")) {
  const chooser = section.querySelector(".chooser"), blocks = section.querySelectorAll("[data-metric]");
  if (!chooser) continue;
  const select = chooser.querySelector("select");
  const show = () => blocks.forEach((block) => { block.hidden = block.dataset.metric !== select.value; });
  select.addEventListener("change", show);
  chooser.hidden = false;
  show();
}
"""
