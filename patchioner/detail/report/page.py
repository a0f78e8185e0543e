"""The page: a section per photo, and how it is written.

Knows: what stands where. Does NOT know: how regions and heat maps are drawn (`outlines`, `heat`), looks (`style`).

The page is one file: it loads nothing and runs nothing, and a policy in its head forbids it to, so that what a foreign
server wrote cannot do more than be read.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from patchioner.base.files import atomic_path
from patchioner.detail.report.heat import HeatMap
from patchioner.detail.report.markup import Child, Markup, element, table
from patchioner.detail.report.outlines import outline
from patchioner.detail.report.style import CSS, lighting
from patchioner.detail.values import DetailedCaption, DetailRegion, FusedSentence, Verdict

LARGEST = 1024
"""Pixels of the longer side of an embedded photo."""
_QUALITY = 82
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, eq=False)
class ReportPhoto:
    """A photo for the page.

    Attributes:
        name: what it is called.
        image: upright, any size; a small copy is embedded.
        caption: its description.
        heat: sentence -> where it is borne out; sentences without a map light their regions alone.
    """

    name: str
    image: Image.Image
    caption: DetailedCaption
    heat: Mapping[str, HeatMap] = field(default_factory=dict)


def write_report(photos: Iterable[ReportPhoto], path: str | os.PathLike[str]) -> None:
    """Write the page, atomically; photos are taken one by one.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> write_report([ReportPhoto("bus.jpg", image, caption)], "report.html")  # doctest: +SKIP
    """
    text = report_html(photos)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def report_html(photos: Iterable[ReportPhoto]) -> str:
    """The whole page as a text."""
    sections: list[_Section] = []
    names: list[str] = []
    for number, photo in enumerate(photos, 1):
        sections.append(_Section(photo, f"p{number}"))
        names.append(photo.name)
        sections[-1].build()
    title = f"{names[0]}, described" if len(names) == 1 else f"{len(names)} photos, described"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        # A style sheet is not escaped, and holds nothing from outside.
        element(
            "style", Markup(CSS + lighting(max((len(one.items) for one in sections), default=0)))
        ),
    )
    body = element(
        "body",
        element("header", element("h1", title), element("p", _HOW, class_="quiet")),
        _index(names) if len(names) > 1 else None,
        element("main", [one.markup for one in sections]),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


_HOW = (
    "Point at a sentence, tap it or reach it with the Tab key: the regions that it comes from are outlined, and warm "
    "colours show where the photo bears it out most. Sentences that were left out are struck through, with the reason."
)


def _index(names: Sequence[str]) -> Markup:
    links = [
        element("li", element("a", name, href=f"#p{number}"))
        for number, name in enumerate(names, 1)
    ]
    return element("nav", element("ol", links), aria_label="Photos")


class _Section:
    """One photo's part of the page; `items` are what lights regions, by their ids."""

    def __init__(self, photo: ReportPhoto, name: str) -> None:
        self._photo, self._name = photo, name
        self._caption = photo.caption
        self._regions = {region.id: region for region in photo.caption.regions}
        self.items: list[tuple[str, ...]] = []
        self.markup = Markup("")

    def build(self) -> None:
        """Make `markup`, and `items` with it; what is large (the photo) is then in the text alone."""
        caption = self._caption
        words: list[Child] = [self._paragraph(), self._sources(), self._dropped()]
        regions = self._region_table()
        settings = json.dumps(caption.settings, indent=2, ensure_ascii=False)
        self.markup = element(
            "section",
            element("h2", self._photo.name),
            element(
                "div",
                element("figure", self._picture(), element("figcaption", self._size())),
                element("div", words, regions, _folded("Settings", element("pre", settings))),
                class_="columns",
            ),
            id=self._name,
        )
        self._photo = ReportPhoto(self._photo.name, Image.new("RGB", (1, 1)), caption)

    def _item(self, content: Child, region_ids: Sequence[str], **more: str | None) -> Markup:
        number = len(self.items)
        self.items.append(tuple(region_ids))
        name = f"{self._name}i{number}"
        return element("a", content, id=name, href=f"#{name}", class_="item", data_i=number, **more)

    def _paragraph(self) -> Markup:
        caption = self._caption
        if not caption.sentences:
            reason = caption.reason or "no sentence was left"
            return element("p", f"Nothing is said of this photo: {reason}.", class_="empty")
        links: list[Child] = []
        for sentence in caption.sentences:
            links += [
                self._item(sentence.text, sentence.region_ids, title=self._told(sentence)),
                " ",
            ]
        return element("p", links, class_="paragraph")

    def _told(self, sentence: FusedSentence) -> str:
        support = "not scored" if sentence.support is None else f"support {sentence.support:.2f}"
        samples = f"{sentence.agreement} sample{'s' if sentence.agreement != 1 else ''}"
        return f"{samples}, {support}; from {', '.join(map(self._called, sentence.region_ids))}"

    def _called(self, region_id: str) -> str:
        region = self._regions.get(region_id)
        if region is None or region.name is None:
            return region_id
        return f"{region.name} ({region_id})"

    def _sources(self) -> Markup | None:
        caption = self._caption
        if not caption.sentences:
            return None
        claims = {verdict.claim.id: verdict for verdict in caption.kept}
        rows: list[tuple[str | None, list[Child]]] = []
        for number, sentence in enumerate(caption.sentences, 1):
            said = [
                element("div", f"{name}: {claims[name].claim.text}", _doubts(claims[name]))
                for name in sentence.claim_ids
                if name in claims
            ]
            support = None if sentence.support is None else f"{sentence.support:.2f}"
            regions = ", ".join(map(self._called, sentence.region_ids))
            rows.append((None, [number, said, regions, sentence.agreement, support]))
        head = ["sentence", "said", "of", "samples", "support"]
        return _folded("Where each sentence comes from", table("Sources", head, rows))

    def _dropped(self) -> Markup | None:
        groups: dict[str, list[Verdict]] = {}
        for verdict in self._caption.dropped:
            groups.setdefault(verdict.reason or "unknown", []).append(verdict)
        if not groups:
            return None
        parts: list[Child] = []
        for reason in sorted(groups, key=lambda name: (name in _DULL, name)):
            alike: dict[tuple[str, str], list[Verdict]] = {}
            for verdict in groups[reason]:
                alike.setdefault((verdict.claim.text, verdict.note), []).append(verdict)
            heading = f"{reason} ({len(groups[reason])})"
            entries = element("ul", map(self._left_out, alike.values()), class_="dropped")
            parts.append(
                _folded(heading, entries) if reason in _DULL else [element("h4", heading), entries]
            )
        count = sum(map(len, groups.values()))
        return element("div", element("h3", f"Left out: {count}"), parts)

    def _left_out(self, alike: Sequence[Verdict]) -> Markup:
        """Verdicts on one text, for one reason."""
        first = alike[0]
        places = dict.fromkeys(verdict.claim.region_id for verdict in alike)
        regions = dict.fromkeys([*places, *(name for one in alike for name in one.regions)])
        times = f", {len(alike)} times" if len(alike) > 1 else ""
        return element(
            "li",
            self._item(element("s", first.claim.text), tuple(regions)),
            " ",
            element("span", first.note or first.reason or "", class_="why"),
            " ",
            element("span", f"{', '.join(map(self._called, places))}{times}", class_="quiet"),
        )

    def _region_table(self) -> Markup:
        said: dict[str, int] = {}
        for sentence in self._caption.sentences:
            for name in sentence.region_ids:
                said[name] = said.get(name, 0) + 1
        rows: list[tuple[str | None, list[Child]]] = [
            (
                None,
                [
                    self._item(region.id, (region.id,)),
                    region.name,
                    region.kind,
                    ", ".join(f"{edge:.0f}" for edge in region.box),
                    "yes" if region.mask is not None else None,
                    ", ".join(region.parents),
                    said.get(region.id, 0),
                ],
            )
            for region in self._caption.regions
        ]
        head = ["region", "name", "kind", "box in pixels", "mask", "part of", "sentences"]
        caption = "Regions: left, top, right, bottom in pixels of the photo"
        return _folded(f"Regions: {len(rows)}", table(caption, head, rows))

    def _picture(self) -> Markup:
        width, height = self._caption.image_size
        layers = [*self._heat(), *(self._outlined(one) for one in self._caption.regions)]
        return element(
            "svg",
            _image(_photo_url(self._photo.image), (0, 0, width, height)),
            layers,
            viewBox=f"0 0 {width} {height}",
            role="img",
            aria_label=f"Photo {self._photo.name}",
        )

    def _heat(self) -> list[Markup]:
        """A layer per sentence that has a map; sentences are the first items."""
        found = []
        for number, sentence in enumerate(self._caption.sentences):
            heat = self._photo.heat.get(sentence.text)
            if heat is not None:
                found.append(element("g", _image(heat.picture(), heat.box), data_for=str(number)))
        return found

    def _outlined(self, region: DetailRegion) -> Markup | None:
        """A region's layer: bright for what was said of it, faint for what was said of others and of it as well."""
        own = [str(n) for n, regions in enumerate(self.items) if region.id in regions[:1]]
        also = [str(n) for n, regions in enumerate(self.items) if region.id in regions[1:]]
        if not own and not also:
            return None
        lines = outline(region, self._caption.image_size)
        return element("g", lines, data_for=" ".join(own), data_also=" ".join(also) or None)

    def _size(self) -> Markup:
        width, height = self._caption.image_size
        scale = "; colours span each sentence's own range" if self._photo.heat else ""
        text = f"{width} x {height} pixels, {len(self._caption.regions)} regions described{scale}"
        return element("span", text, class_="quiet")


_DULL = frozenset({"duplicate", "length", "preamble", "fragment"})


def _doubts(verdict: Verdict) -> Markup | None:
    """What of a claim no score can bear out."""
    doubts = () if verdict.support is None else verdict.support.unverifiable
    if not doubts:
        return None
    return element("span", f" (not verifiable: {'; '.join(doubts)})", class_="quiet")


def _folded(title: str, content: Child) -> Markup:
    return element("details", element("summary", title), content)


def _image(url: str, box: tuple[float, float, float, float]) -> Markup:
    left, top, right, bottom = box
    return element(
        "image",
        href=url,
        x=left,
        y=top,
        width=right - left,
        height=bottom - top,
        preserveAspectRatio="none",
    )


def _photo_url(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
