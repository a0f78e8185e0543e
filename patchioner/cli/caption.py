"""`patchioner caption`: photos in, captions out. One bad photo or region must not stop the rest."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from patchioner.base.errors import ImageError, MemoryBankError, OptionError, PatchionerError, UnknownNameError
from patchioner.base.files import require_other
from patchioner.base.progress import progress
from patchioner.cli import spelling
from patchioner.cli.spelling import PhotoSource, report, report_error, write_line
from patchioner.geometry import ImageGeometry
from patchioner.regions import Kind, NamedRegion, Patch, Region, RegionFile, Weighting, WholeImage
from patchioner.results import Caption, Label

_EXAMPLES = f"""\
A PHOTO is a picture, a folder of pictures (with those below it), or one that scikit-image ships:
{" ".join(f"scikit-image:{name}" for name in spelling.SAMPLES)}.
Regions are in pixels of the photo, x to the right, y down. No region means the whole image.

examples:
  patchioner caption photo.jpg
  patchioner caption photo.jpg --box 10,20,200,220 --trace "30,40 60,80 90,85" --out overlay.png
  patchioner caption photos/ --regions regions.json --json > captions.jsonl
  patchioner caption photo.jpg --patches --out map.png
  patchioner caption photo.jpg --box 10,20,200,220 --labels "a cat;a dog;a chair"

exit status: 0 all captioned; 1 a photo, a region or the model failed (see standard error); 2 wrong usage.
"""


def add_caption_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare everything that `patchioner caption` takes."""
    add = spelling.declare(parser, caption_photos, "Print a caption for every region of every photo.", _EXAMPLES)
    add("photos", nargs="+", metavar="PHOTO", help="picture, folder, or sample")
    add = parser.add_argument_group("regions, captioned in the order given").add_argument
    listed = partial(add, action="append", dest="regions", default=[])  # one list keeps their order
    path = '"X,Y X,Y ..."'
    listed("--box", metavar="X1,Y1,X2,Y2", type=spelling.parse_box, help="left, top, right, bottom")
    listed("--point", metavar="X,Y", type=spelling.parse_point, help="the patch under a point")
    listed("--mask", metavar="PNG", type=spelling.parse_mask, help="of the photo's size, not black where the region is")
    listed("--polygon", metavar=path, type=spelling.parse_polygon, help='several outlines separated by ";"')
    listed("--trace", metavar=f"{path}|FILE", type=spelling.parse_trace, help="a pointer's path, or a JSON file of one")
    listed("--region-set", metavar='"BOX;BOX;..."', type=spelling.parse_region_set, help="several boxes, one caption")
    add("--whole", action="append_const", const=WholeImage(), dest="regions", help="the whole image, beside others")
    spelling.add_region_file(add)
    add("--patches", action="store_true", help="caption every patch; draws a map")

    add = parser.add_argument_group("model and output").add_argument
    spelling.add_model(add)
    add("--labels", metavar='FILE|"A;B;C"', type=spelling.parse_texts, help="choose among these texts, write none")
    add("--beam", type=spelling.positive_int, metavar="N", help="beam search of width N")
    drawn = "draw the regions and captions; a folder when there are several photos"
    add("--out", type=spelling.argument(spelling.picture_name), metavar="PICTURE|DIR", help=drawn)
    add("--json", action="store_true", help="one JSON object per photo and line")

    add = parser.add_argument_group("advanced").add_argument
    add("--bank", metavar="DIR", help="memory bank in place of the model's (patchioner bank build)")
    counted = (
        f"how patches of a region count: {', '.join(get_args(Kind))} (default: the model's), as gaussian,variance=0.5 "
        "with its width; or an option of the Patch-ioner authors (docs/reference_mode.md): registers, heads, "
        "double_pass, orthogonal_projection, contrastive_mask, with ,KEY=VALUE"
    )
    add("--weighting", metavar="HOW", type=spelling.argument(_how_counted), help=counted)
    add("--rounding", choices=["coverage", "reference"], help="shares of patches: exact (default), or as published")
    add("--crop", action="store_const", const=True, help="encode each region cut out: slow; where patches say little")
    added = "add what each region's crop shows to its patches: surer of small regions, a quarter of a pass each"
    add("--add-crops", dest="crop", action="store_const", const="add", help=added)
    add("--min-confidence", type=spelling.number("[0, 1]"), metavar="P", help="leave out texts that are less sure")
    add("--plain", action="store_true", help="the likeliest captions, not kept to what the region shows")
    add("--style", choices=["auto", "phrase", "sentence"], default="auto", help="auto: the model's for that region")
    add("--gendered", action="store_true", help="men and women, not persons alone")
    add("--max-tokens", type=spelling.positive_int, metavar="N", help="longest caption, in tokens")
    add("--temperature", type=spelling.positive, metavar="T", help="draw words at random")
    add("--seed", type=int, default=0, help="of --temperature (default: %(default)s)")


def _how_counted(text: str) -> Any:
    """A kind of weighting, or an option of the authors' interface."""
    name, _, more = text.partition(",")
    if name in get_args(Kind):
        key, _, width = more.partition("=")
        if more and (name, key) != ("gaussian", "variance"):
            raise OptionError(f"{text!r}: only gaussian takes more, as gaussian,variance=0.5")
        return {"kind": name} | ({"variance": spelling.not_negative(width)} if more else {})
    from patchioner.checkpoints.published import Name, PublishedOption

    known = (*get_args(Kind), *get_args(Name))
    if name not in known:
        raise UnknownNameError.among("weighting", name, known)
    return PublishedOption.of(text)


def wrong_combination(options: argparse.Namespace) -> str | None:
    """What is wrong about arguments that are right one by one; None when nothing is."""
    numbers = (options.beam, options.temperature, options.max_tokens)
    writes = options.plain or options.gendered or options.style != "auto" or any(one is not None for one in numbers)
    regions = options.regions or options.region_file
    if options.patches and regions:
        return "--patches captions every patch: leave the other regions out"
    name = getattr(options.weighting, "name", None)
    if name in ("registers", "heads") and (regions or options.patches):
        return f"--weighting {name} captions the whole photo: leave the regions out"
    if options.beam is not None and options.temperature is not None:
        return "--beam and --temperature exclude each other: give one"
    if options.labels is not None and writes:
        return "--labels writes no caption: leave --beam, --temperature, --max-tokens, --plain, --gendered, --style out"
    return spelling.without_region_file(options)


@dataclass(frozen=True)
class _Answered:
    """A caption or label of one region."""

    answer: Caption | Label
    about: NamedRegion

    @property
    def text(self) -> str:
        """What stands in lists and pictures; also where there is no text."""
        return self.answer.text or ("none of these" if isinstance(self.answer, Label) else "not sure")

    def line(self) -> str:
        """For people."""
        answer, name = self.answer, f" [{self.about.label}]" if self.about.label else ""
        if isinstance(answer, Label):
            more = f"  ({100 * answer.probability:.0f} %)"
        elif answer.reason is not None:
            more = f": {answer.reason}"
        elif answer.confidence is not None:
            more = f"  ({100 * answer.confidence:.0f} %)"
        else:
            more = "" if math.isnan(answer.score) else f"  ({answer.score:.2f})"
        return f"{answer.region.describe()}{name}: {self.text}{more}"

    def entry(self, texts: Sequence[str]) -> dict[str, Any]:
        """For programs: the region as `--regions` reads it, and all that was said."""
        said = self.answer.to_dict()
        for key in ("cosines", "probabilities") if isinstance(self.answer, Label) else ():
            said[key] = dict(zip(texts, said[key], strict=True))
        known = {"region": said.pop("region"), "label": self.about.label}
        return known | ({} if self.about.id is None else {"id": self.about.id}) | said


@dataclass
class _Job:
    """One photo of the command, and its regions."""

    photo: PhotoSource
    picture: Path | None
    options: argparse.Namespace
    file: RegionFile | None
    geometry: ImageGeometry | None = None
    asked: list[NamedRegion] = field(default_factory=list)
    errors: list[PatchionerError] = field(default_factory=list)

    def regions(self, geometry: ImageGeometry) -> Sequence[Region]:
        """What to caption, once the photo's size is known; entries of the file that are none are noted."""
        self.geometry = geometry
        given = Patch.all(geometry) if self.options.patches else self.options.regions
        self.asked = [NamedRegion(region) for region in given]
        entries = self.file.entries(geometry.image_size, self.photo.file_name) if self.file else []
        self.errors += [entry for entry in entries if isinstance(entry, PatchionerError)]
        self.asked += [entry for entry in entries if not isinstance(entry, PatchionerError)]
        if not self.asked and self.errors:
            raise self.errors.pop(0)
        if not self.asked and self.file is not None:
            report(f"{self.photo.name}: {self.options.region_file} has no region of it")
        elif not self.asked:
            self.asked = [NamedRegion(WholeImage())]
        return [one.region for one in self.asked]

    def finish(self, found: Sequence[Any]) -> None:
        """Write what was said of the photo, and draw it."""
        assert self.geometry is not None, "an answered photo was encoded"
        self.errors += [one for one in found if isinstance(one, PatchionerError)]
        # Of a whole photo there is one caption for each register or head.
        asked = self.asked if len(self.asked) == len(found) else self.asked * len(found)
        pairs = zip(found, asked, strict=True)
        answered = [_Answered(*pair) for pair in pairs if not isinstance(pair[0], PatchionerError)]
        write_line("\n".join(self._lines(answered, self.geometry)))
        if self.picture is not None:
            self._draw(answered, self.picture, self.geometry)

    def _lines(self, answered: Sequence[_Answered], geometry: ImageGeometry) -> Iterator[str]:
        name, size, grid = self.photo.name, geometry.image_size, geometry.grid
        if self.options.json:
            entries = [one.entry(self.options.labels or ()) for one in answered]
            content = {"photo": name, "size": size, "grid": grid, "captions": entries}
            errors = {"errors": list(map(str, self.errors))} if self.errors else {}
            yield json.dumps(content | errors, allow_nan=False)
            return
        head = f"{name} ({size[0]} x {size[1]})"
        if not self.options.patches:
            yield head
            yield from (f"  {place}. {one.line()}" for place, one in enumerate(answered, start=1))
            return
        from patchioner.drawing import cluster_captions

        yield f"{head}, {grid[0]} x {grid[1]} patches"
        for cluster in cluster_captions([one.text for one in answered]):
            yield f"  {100 * cluster.share:5.1f} %  {cluster.text or 'other'}"

    def _draw(self, answered: Sequence[_Answered], path: Path, geometry: ImageGeometry) -> None:
        from patchioner.drawing import draw_overlay, draw_patch_map

        shown = [Caption(one.text, 0.0, one.answer.region) for one in answered]
        photo = self.photo.load()
        if self.options.patches:
            picture = draw_patch_map(photo, shown, geometry)
        else:
            picture = draw_overlay(photo, shown, geometry=geometry, labels=[one.about.label for one in answered])
        spelling.save_picture(picture, path)


def caption_photos(options: argparse.Namespace) -> int:
    """Caption all photos and return the exit status; PatchionerError: nothing can be done at all: no photos, no model.

    What can be checked is checked before the model is loaded.
    """
    if problem := wrong_combination(options):
        options.error(problem)
    jobs, failed = _jobs(options)
    if not jobs:
        return 1
    try:
        asked = _asked(options)
    except OptionError as error:
        options.error(str(error))
    from patchioner.model import Patchioner
    from patchioner.pipeline import Batching

    model = Patchioner.from_pretrained(options.model, device=options.device, bank=options.bank)
    if not isinstance(options.weighting, dict | None):
        from patchioner.checkpoints.published import PublishedCaptioner

        model = PublishedCaptioner(model.parts, options.weighting, device=model.device)
    # Smaller batches than the library's, so that lines appear as the work goes on.
    asked["batching"] = replace(Batching.on(model.device.type, jobs), regions=32 if model.device.type == "cpu" else 512)
    items = ((job.photo.source(), job.regions) for job in jobs)
    ask: Callable[..., Iterator[Any]] = model.caption_many if options.labels is None else model.label_many
    found = ask(items, on_error="return", **asked)
    if len(jobs) > 1:
        found = progress(found, description="captioning", total=len(jobs), unit="photo")
    for job, outcome in zip(jobs, found, strict=True):
        try:
            if isinstance(outcome, PatchionerError):
                raise outcome
            job.finish(outcome)
        except PatchionerError as error:
            job.errors.append(error)
        for one in job.errors:
            report_error(f"{job.photo.name}: {one}")
        failed += bool(job.errors)
    return 1 if failed else 0


def _jobs(options: argparse.Namespace) -> tuple[list[_Job], int]:
    """The photos that are there, and how many are not; those are reported."""
    if options.bank is not None and not Path(options.bank).is_dir():
        raise MemoryBankError(f"no memory bank at {options.bank!r}: see patchioner bank build")
    photos = spelling.find_photos(options.photos)
    pictures = spelling.plan_pictures(options.out, photos)
    file = spelling.region_file(options)
    ambiguous = file.ambiguous(photo.file_name for photo in photos) if file else {}
    jobs = []
    for photo, picture in zip(photos, pictures, strict=True):
        try:
            photo.check()
            if photo.file_name in ambiguous:
                raise ambiguous[photo.file_name]
            if picture is not None:
                require_other(picture, photo.name, options.region_file)
            jobs.append(_Job(photo, picture, options, file))
        except PatchionerError as error:
            # An `ImageError` names the photo itself.
            report_error(str(error) if isinstance(error, ImageError) else f"{photo.name}: {error}")
    return jobs, len(photos) - len(jobs)


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked of the model, by its parameters' names; what was not has the model's defaults."""
    from decoders import DecodeOptions

    asked: dict[str, Any] = {"crop": options.crop}
    weighting = dict(options.weighting) if isinstance(options.weighting, dict) else {}
    weighting |= {"rounding": options.rounding} if options.rounding else {}
    if weighting:
        asked["weighting"] = Weighting(**weighting)
    if options.labels is not None:
        return asked | {"texts": options.labels, "threshold": options.min_confidence}
    asked |= {name: getattr(options, name) for name in ("plain", "gendered", "style", "min_confidence")}
    decoding: dict[str, Any] = {}
    if options.beam is not None:
        decoding.update(strategy="beam" if options.beam > 1 else "greedy", beam_width=options.beam)
    if options.temperature is not None:
        decoding.update(strategy="sample", temperature=options.temperature, seed=options.seed)
    if options.max_tokens is not None:
        decoding["max_tokens"] = options.max_tokens
    return asked | ({"options": DecodeOptions(**decoding)} if decoding else {})
