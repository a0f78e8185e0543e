"""One HTML page about described photos, which loads and runs nothing: where sentences come from, what was dropped.

An element with ``data-i="3"`` is an item (a sentence, a region's row); one with ``data-for="0 3"`` is a layer of the
photo that items 0 and 3 of its section light up; those in ``data-also`` do so faintly.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.detail import DetailedCaption, DetailRegion, Photo, Rectangle, Verdict
from patchioner.detail.score import DenseScorer
from patchioner.images import data_url
from patchioner.markup import Child, Markup, element, folded, join, page, table

_LARGEST, _QUALITY = 1024, 82  # pixels of the longer side of an embedded photo; of its JPEG
_FINEST, _TINT = 400, 150  # pixels of the longer side of a mask that is drawn; its opacity
_SMOOTH = 160  # pixels of the longer side of a heat map
# Night blue, violet, red, orange, light yellow, with opacities: hot is bright, also for those who cannot tell red from
# green, and cold is dark, so that a map shows on any photo.
_COLOURS: Final = ((8, 12, 52, 185), (84, 18, 108, 165), (222, 58, 58, 140), (255, 186, 40, 140), (255, 246, 150, 150))
_HOW = (
    "Point at a sentence, tap it or reach it with the Tab key: the regions that it comes from are outlined, and warm "
    "colours show where the photo supports it most. Sentences that were left out are struck through, with the reason."
)
_DULL = frozenset({"duplicate", "length", "preamble", "fragment"})


@dataclass(frozen=True, eq=False)
class ReportPhoto:
    """A photo for the page: name, upright image (a small copy is embedded), description, and what `heat_maps` gives."""

    name: str
    image: Image.Image
    caption: DetailedCaption
    heat: Mapping[str, Markup] = field(default_factory=dict)


def report_html(photos: Iterable[ReportPhoto]) -> str:
    """The whole page as a text; photos are taken one by one."""
    names, sections, most = [], [], 0
    for number, photo in enumerate(photos, 1):
        section = _Section(photo, f"p{number}")
        sections.append(section.markup())
        names.append(photo.name)
        most = max(most, len(section.items))
    title = f"{names[0]}, described" if len(names) == 1 else f"{len(names)} photos, described"
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    links = [element("li", element("a", name, href=f"#p{n}")) for n, name in enumerate(names, 1)]
    header = element("header", element("h1", title), element("p", _HOW, class_="quiet"))
    nav = element("nav", element("ol", links), aria_label="Photos") if len(names) > 1 else None
    return page(title, css + "\n".join(map(_lighting, range(most))), header, nav, element("main", sections))


def _lighting(item: int) -> str:
    """How an item lights its layers: the pointer first, then the keyboard's focus, then what was tapped."""
    one, away = f'[data-i="{item}"]', "section:not(:has([data-i]:hover))"
    tapped = f"{away}:not(:has([data-i]:focus-visible)):has({one}:target)"
    states = (f"section:has({one}:hover)", f"{away}:has({one}:focus-visible)", tapped)
    rules = []
    for kind, opacity in (("for", 1.0), ("also", 0.4)):
        layers = ", ".join(f'{state} [data-{kind}~="{item}"]' for state in states)
        rules.append(f"{layers} {{ opacity: {opacity}; }}")
    return "\n".join(rules)


class _Section:
    """One photo's part of the page; `items` are what lights regions, by their ids."""

    def __init__(self, photo: ReportPhoto, name: str) -> None:
        self._photo, self._name, self._caption = photo, name, photo.caption
        self._names = {one.id: f"{one.name} ({one.id})" for one in photo.caption.regions if one.name}
        self.items: list[tuple[str, ...]] = []

    def markup(self) -> Markup:
        # Words and regions first: they make the items that the picture's layers answer to.
        words = [self._paragraph(), self._sources(), self._dropped(), self._regions()]
        settings = json.dumps(self._caption.settings, indent=2, ensure_ascii=False)
        (width, height), count = self._caption.image_size, len(self._caption.regions)
        scale = "; colours span each sentence's own range" if self._photo.heat else ""
        size = f"{width} x {height} pixels, {count} regions described{scale}"
        figure = element("figure", self._picture(), element("figcaption", size, class_="quiet"))
        text = element("div", words, folded("Settings", element("pre", settings)))
        columns = element("div", figure, text, class_="columns")
        return element("section", element("h2", self._photo.name), columns, id=self._name)

    def _item(self, content: Child, region_ids: Sequence[str]) -> Markup:
        number = len(self.items)
        self.items.append(tuple(region_ids))
        name = f"{self._name}i{number}"
        return element("a", content, id=name, href=f"#{name}", class_="item", data_i=number)

    def _paragraph(self) -> Markup:
        caption = self._caption
        if not caption.sentences:
            reason = caption.reason or "no sentence was left"
            return element("p", f"Nothing is said of this photo: {reason}.", class_="empty")
        links = [(self._item(one.text, one.region_ids), " ") for one in caption.sentences]
        return element("p", links, class_="paragraph")

    def _called(self, region_ids: Iterable[str]) -> str:
        return ", ".join(self._names.get(one, one) for one in region_ids)

    def _sources(self) -> Markup | None:
        claims = {verdict.claim.id: verdict for verdict in self._caption.kept}
        rows: list[Sequence[Child]] = []
        for number, one in enumerate(self._caption.sentences, 1):
            known = [claims[name] for name in one.claim_ids if name in claims]
            said = [element("div", f"{v.claim.id}: {v.claim.text}", _doubts(v)) for v in known]
            support = None if one.support is None else f"{one.support:.2f}"
            rows.append((number, said, self._called(one.region_ids), one.agreement, support))
        head = ["sentence", "said", "of", "samples", "support"]
        return folded("Where each sentence comes from", table("Sources", head, rows)) if rows else None

    def _dropped(self) -> Markup | None:
        dropped, parts = self._caption.dropped, list[Child]()
        reasons = Counter(verdict.reason or "unknown" for verdict in dropped)
        for reason in sorted(reasons, key=lambda name: (name in _DULL, name)):
            alike: dict[tuple[str, str], list[Verdict]] = {}
            for verdict in dropped:
                if (verdict.reason or "unknown") == reason:
                    alike.setdefault((verdict.claim.text, verdict.note), []).append(verdict)
            heading, dull = f"{reason} ({reasons[reason]})", reason in _DULL
            entries = element("ul", map(self._left_out, alike.values()), class_="dropped")
            parts.append(folded(heading, entries) if dull else [element("h4", heading), entries])
        return element("div", element("h3", f"Left out: {len(dropped)}"), parts) if dropped else None

    def _left_out(self, alike: Sequence[Verdict]) -> Markup:
        """Verdicts on one text, for one reason."""
        first = alike[0]
        places = dict.fromkeys(verdict.claim.region_id for verdict in alike)
        regions = dict.fromkeys([*places, *(name for one in alike for name in one.regions)])
        struck = self._item(element("s", first.claim.text), tuple(regions))
        why = element("span", first.note or first.reason, class_="why")
        where = self._called(places) + (f", {len(alike)} times" if len(alike) > 1 else "")
        return element("li", struck, " ", why, " ", element("span", where, class_="quiet"))

    def _regions(self) -> Markup:
        said = Counter(name for one in self._caption.sentences for name in one.region_ids)
        rows: list[Sequence[Child]] = []
        for one in self._caption.regions:
            box = ", ".join(f"{edge:.0f}" for edge in one.box)
            mask, link = "yes" if one.mask is not None else None, self._item(one.id, (one.id,))
            rows.append((link, one.name, one.kind, box, mask, said[one.id]))
        head = ["region", "name", "kind", "box in pixels", "mask", "sentences"]
        return folded(f"Regions: {len(rows)}", table("Regions: left, top, right, bottom in the photo", head, rows))

    def _picture(self) -> Markup:
        width, height = self._caption.image_size
        heat, told = self._photo.heat, enumerate(self._caption.sentences)  # the first items
        layers: list[Child] = [element("g", heat[one.text], data_for=str(n)) for n, one in told if one.text in heat]
        layers += map(self._outlined, self._caption.regions)
        small = self._photo.image.convert("RGB")
        small.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
        photo = _image(data_url(small, quality=_QUALITY), (0, 0, width, height))
        label = f"Photo {self._photo.name}"
        return element("svg", photo, layers, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)

    def _outlined(self, region: DetailRegion) -> Markup:
        """A region's layer: bright for what was said of it, faint for what was said of others and of it as well."""
        own = [str(n) for n, regions in enumerate(self.items) if region.id in regions[:1]]
        also = [str(n) for n, regions in enumerate(self.items) if region.id in regions[1:]]
        lines = _outline(region, self._caption.image_size)
        return element("g", lines, data_for=" ".join(own), data_also=" ".join(also) or None)


def _doubts(verdict: Verdict) -> Markup | None:
    """What of a claim no score can support."""
    if verdict.support is None or not verdict.support.unverifiable:
        return None
    return element("span", f" (not verifiable: {'; '.join(verdict.support.unverifiable)})", class_="quiet")


def heat_maps(photo: Photo, caption: DetailedCaption, source: DenseScorer) -> dict[str, Markup]:
    """Sentence -> picture of where it is supported, for those of the paragraph; empty for a photo without features."""
    if photo.features is None:
        return {}
    cells = photo.features.geometry.cell_boxes()  # the grid may reach over the photo's edges
    low, high = cells.min(axis=0).tolist(), cells.max(axis=0).tolist()
    box: Rectangle = (low[0], low[1], high[2], high[3])
    texts = dict.fromkeys(sentence.text for sentence in caption.sentences)
    return {text: _image(data_url(_coloured(source.heat_map(photo, text)), "PNG"), box) for text in texts}


def _coloured(values: npt.NDArray[np.float32]) -> Image.Image:
    """A map as a small picture with transparency; colours span its own range, and blend into one another."""
    shares = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    scale = max(1.0, _SMOOTH / max(values.shape))
    size = (round(values.shape[1] * scale), round(values.shape[0] * scale))
    smooth = np.asarray(Image.fromarray(shares).resize(size, Image.Resampling.BICUBIC))
    stops = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(smooth, stops, channel) for channel in zip(*_COLOURS, strict=True)]
    coloured = Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
    return coloured.quantize(64)  # so that a page stays small


def _image(url: str, box: Rectangle) -> Markup:
    x, y, right, bottom = box
    return element("image", href=url, x=x, y=y, width=right - x, height=bottom - y, preserveAspectRatio="none")


def _outline(region: DetailRegion, image_size: tuple[int, int]) -> Markup:
    """A region's mask, tinted; or its box, twice: a dark casing and the bright line on it, to show on any photo."""
    if region.mask is not None:
        small = Image.fromarray(region.mask.astype(np.uint8) * np.uint8(_TINT))
        small.thumbnail((_FINEST, _FINEST), Image.Resampling.BOX)
        tinted = Image.new("RGBA", small.size, (255, 209, 0, 0))
        tinted.putalpha(small)
        return _image(data_url(tinted, "PNG"), (0, 0, *image_size))
    inset = max(image_size) / 400
    left, top = (max(edge, inset) for edge in region.box[:2])
    right = max(min(region.box[2], image_size[0] - inset), left + inset)
    bottom = max(min(region.box[3], image_size[1] - inset), top + inset)
    path = f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z"
    return join(element("path", d=path, class_=name) for name in ("casing", "edge"))
