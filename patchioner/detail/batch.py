"""`DetailCaptioner`: one photo in, one faithful paragraph out; many photos, into JSON lines that survive every stop."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from patchioner import detail
from patchioner.base import errors
from patchioner.base.files import AnyPath, differences, held
from patchioner.base.progress import progress
from patchioner.checkpoints.folder import SHIPPED
from patchioner.detail import FORMAT, VERSION, DetailedCaption, Photo, Verdict, describe, models
from patchioner.detail.describe import DivideSettings, Given, OwnSettings
from patchioner.detail.fuse import FilterSettings, FuseSettings, GreedyFuser, filter_statements
from patchioner.detail.score import DenseScorer
from patchioner.images import ImageSource, load_image, why_blank
from patchioner.model import Patchioner
from patchioner.pipeline import map_ahead

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetailSettings:
    """All numbers: which regions, how our own captioner is asked, what is kept, how the paragraph is made."""

    divide: DivideSettings = field(default_factory=DivideSettings)
    describe: OwnSettings = field(default_factory=OwnSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    fuse: FuseSettings = field(default_factory=FuseSettings)


# "careful" says less and is right more often, "full" says more (figures in docs/detail.md). "published": constants of
# Patch Matters' code, chosen for a detector (BARON), two language models (LLaVA-1.6, 7 B; Llama-3.1-8B) and BLIP.
_PRESETS: dict[str, dict[str, object]] = {
    "careful": {},
    "full": {"filter.share": 0.07, "filter.alike": 0.7, "fuse.new_share": 0.3},
    "published": {
        "divide.merge_iou": 0.3, "divide.growing_area": 1.0, "divide.objects": "union", "divide.spatial": "quadrants",
        "describe.samples": 3, "describe.jitter": 0.0, "describe.sampled": "all", "describe.temperature": 0.7,
        "describe.top_p": 1.0, "filter.rules": False, "filter.trusted_agreement": 2,
        "filter.whole_sentences": "always", "filter.lone_support": 0.0, "filter.share": 0.0,
    },
}  # fmt: skip


def preset(name: str, changes: Mapping[str, object] | None = None) -> DetailSettings:
    """The settings of a preset, "careful", "full" or "published", but for `changes`, named by stage and field.
    `UnknownNameError`: no such preset or setting; `OptionError`: a value that makes no sense."""
    if name not in _PRESETS:
        raise errors.UnknownNameError.among("preset", name, _PRESETS)
    settings = DetailSettings()
    known = [f"{stage}.{one.name}" for stage, own in vars(settings).items() for one in fields(own)]
    for path, value in {**_PRESETS[name], **(changes or {})}.items():
        if path not in known:
            raise errors.UnknownNameError.among("setting", path, known)
        stage, one = path.split(".")
        settings = replace(settings, **{stage: replace(getattr(settings, stage), **{one: value})})
    return settings


class DetailCaptioner:
    """Describe a photo at length, saying only what it supports.

    `model`: loaded, or its name; None where no stage needs one. `describer`, `fuser`: None is the model itself, and no
    language model. `scorer`: "dense" is the model's own alignment, calibrated; None: words and agreement decide.
    `settings`: numbers of all stages, or the name of a preset; stages that are given have their own.
    `OptionError`, `UnknownNameError`: a stage needs a (calibrated) model and there is none; no such model or preset."""

    def __init__(
        self,
        model: Patchioner | str | Path | None = SHIPPED,
        *,
        describer: detail.Describer | None = None,
        scorer: detail.Scorer | Literal["dense"] | None = "dense",
        fuser: detail.Fuser | None = None,
        settings: DetailSettings | str = "careful",
    ) -> None:
        self._settings = preset(settings) if isinstance(settings, str) else settings
        self._model = Patchioner.from_pretrained(model) if isinstance(model, (str, Path)) else model
        self._describer = describer or describe.PatchionerDescriber(self._needed("describer"), self._settings.describe)
        self._scorer = DenseScorer(self._needed("scorer")) if scorer == "dense" else scorer
        self._fuser = fuser or GreedyFuser(self._settings.fuse)
        self.settings: dict[str, object] = {
            "model": None if self._model is None else self._model.settings.name,
            "divider": asdict(self._settings.divide),
            "describer": self._describer.settings,
            "filter": asdict(self._settings.filter),
            "scorer": None if self._scorer is None else self._scorer.settings,
            "fuser": self._fuser.settings,
        }
        """Names and numbers of every stage, ready for JSON; no secrets."""

    def _needed(self, stage: str) -> Patchioner:
        if self._model is None:
            raise errors.OptionError(f"without a model no {stage}: give a model, or {stage}=")
        return self._model

    def describe(
        self, photo: Photo | ImageSource, regions: Sequence[Given] | None = None, *, seed: int = 0
    ) -> DetailedCaption:
        """Describe one photo: the paragraph with its provenance. The same photo, settings and seed give the same.

        `regions`: things to describe besides the whole photo and its parts: boxes, masks, entries of `read_regions`. Of
        a photo that shows nothing (`patchioner.images.why_blank`) nothing is asked.
        `ImageError`, `RegionError`, `DetailError`: a photo or region cannot be used; a stage gives no answer."""
        opened = photo if isinstance(photo, Photo) else detail.open_photo(photo)
        if opened.features is None and self._model is not None:
            opened = replace(opened, features=self._model.encode(opened.image))
        chosen = tuple(describe.divide(opened, regions or (), self._settings.divide, self._model))
        settings = {**self.settings, "seed": seed}
        if blank := why_blank(opened.image):
            return DetailedCaption("", (), (), (), chosen, opened.size, blank, settings)
        statements = self._describer.describe(opened, chosen, seed=seed)
        verdicts = filter_statements(opened, chosen, statements, scorer=self._scorer, settings=self._settings.filter)
        kept = [verdict for verdict in verdicts if verdict.kept]
        sentences, left_out = self._fuser.fuse(opened, chosen, kept) if kept else ([], [])
        said = {name for sentence in sentences for name in sentence.claim_ids}
        told = said.union(*(sentence.region_ids for sentence in sentences))
        told -= {verdict.claim.id for verdict in kept} | {region.id for region in chosen}
        if told:
            raise errors.DetailError(f"the fuser speaks of {sorted(told)}, which are not there")
        used = tuple(verdict for verdict in kept if verdict.claim.id in said)
        unused = (*(verdict for verdict in verdicts if not verdict.kept), *left_out)
        text, why = " ".join(one.text for one in sentences), None if sentences else _why_empty(unused)
        return DetailedCaption(text, tuple(sentences), unused, used, chosen, opened.size, why, settings)


def _why_empty(unused: Sequence[Verdict]) -> str:
    if not unused:
        return "nothing was said of the photo"
    counts = Counter(verdict.reason or "unknown" for verdict in unused)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return f"none of {len(unused)} sentences could be kept: {reasons}"


# What the next photo would meet as well: models are loaded with the first call, keys are refused with it.
_FINAL = errors.FutileError | errors.HubError | errors.MissingExtraError | errors.OptionError | errors.UnknownNameError
_OPENING = f'{{"format": "{FORMAT}"'.encode()
Name = tuple[str, str]  # (key, photo) of a line


class PhotoJob(NamedTuple):
    """A photo to describe: name, what reads it (upright, RGB), what tells for its (width, height) the given regions."""

    name: str
    load: Callable[[], Image.Image]
    regions: Callable[[tuple[int, int]], Sequence[Given]] = lambda size: ()


class LineFile:
    """Lines of descriptions, each a JSON object with a "key" and a "photo", that grow one by one and stay on disk. What
    a kill left of a last line is cut off when the file is opened; a damaged line elsewhere is passed over, with a
    warning. `OptionError`: the file is somebody else's, and not touched."""

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        self.places: dict[Name, int] = {}  # where each line begins
        self.first: dict[str, Name] = {}  # of each key the first line, of whatever photo
        if self.path.exists():
            self._read()

    def values(self, name: Name) -> dict[str, Any]:
        """The object of a line."""
        with self.path.open("rb") as file:
            file.seek(self.places[name])
            return dict(json.loads(file.readline()))

    def append(self, name: Name, line: str) -> None:
        """Write a line without a line break in it; a second line of one name is not written."""
        if name in self.places:
            return
        with self.path.open("ab") as file:
            self._add(name, file.tell())
            # File names that are no UTF-8 hold half characters, which JSON can escape.
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        size = 0
        with self.path.open("rb") as file:
            for number, data in enumerate(file, 1):
                whole, line = data.endswith(b"\n"), None
                with suppress(ValueError, RecursionError):
                    line = json.loads(data) if whole else None
                # A power cut can leave zeros where the end of a file was to be.
                ours = _OPENING.startswith(data[: len(_OPENING)].rstrip(b"\0\n"))
                match line:
                    case {"key": str(key), "photo": str(photo)}:
                        self._add((key, photo), size)
                    case None if ours and not whole:
                        break
                    case None if ours:
                        _LOG.warning("%s: line %d is damaged and passed over", self.path, number)
                    case _:
                        wrong = f"{str(self.path)!r} is no file of patchioner detail --out, see line {number}"
                        raise errors.OptionError(f"{wrong}; it is left as it is: choose another name")
                size += len(data)
        if size < self.path.stat().st_size:
            os.truncate(self.path, size)

    def _add(self, name: Name, start: int) -> None:
        self.places[name] = start
        self.first.setdefault(name[0], name)


@contextmanager
def _same_run(out: Path, run: str, settings: Mapping[str, Any]) -> Iterator[LineFile]:
    """The lines of a run so called, old and new, held against other processes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.open("ab").close()
    with held(out):
        lines = LineFile(out)
        if others := [name for name in lines.places if not name[0].startswith(f"{run}-")]:
            why = ", ".join(differences(lines.values(others[0]).get("settings") or {}, settings)) or "another version"
            wrong = f"{str(out)!r} holds {len(others)} photos described with other settings ({why})"
            raise errors.OptionError(f"{wrong}: choose another file, or remove it to begin anew")
        yield lines


@dataclass(frozen=True)
class BatchResult:
    """What became of many photos: how many are `described`, or `known` (had their line); (name, why) of each that
    `failed`; why the run `stopped` early (a spent budget, a refused key, no such model); (key, photo) of the lines."""

    described: int = 0
    known: int = 0
    failed: tuple[tuple[str, Exception], ...] = ()
    stopped: Exception | None = None
    names: tuple[Name, ...] = field(default=(), repr=False)

    @property
    def complete(self) -> bool:
        """Whether every photo has its description."""
        return not self.failed and self.stopped is None


def describe_many(
    captioner: DetailCaptioner,
    photos: Sequence[PhotoJob | str | Path],
    out: AnyPath | None = None,
    *,
    seed: int = 0,
    workers: int = 1,
    on_caption: Callable[[DetailedCaption, dict[str, Any]], object] = lambda caption, values: None,
    on_error: Callable[[str, Exception], object] = lambda name, error: None,
    on_stop: Callable[[], object] = lambda: None,
) -> BatchResult:
    """Describe photos, `workers` at the same time, into a file of JSON lines; go on where an earlier run was stopped.

    A line is what `detail.to_json` gives, with a "key" besides. A photo is known by its pixels, the regions given for
    it, settings and seed, not by its name. One that fails is reported (`on_error`: name, why) and has no line.
    `on_caption` gets each new description, in the order of the photos, and its JSON values. After a failure that the
    next photo would meet as well no photo is begun any more. When the run is cut short (Ctrl-C, which passes through)
    `on_stop` is called, to make those under way end soon: they are waited for, and the file is good as it is. Lines of
    photos that are not given stay. `OptionError`: the file is somebody else's, made with other settings, or another
    process writes to it. OSError: it cannot be written."""
    jobs = [job if isinstance(job, PhotoJob) else PhotoJob(str(job), partial(load_image, job)) for job in photos]
    settings = json.loads(json.dumps({**captioner.settings, "seed": seed}))
    run = _digest({**settings, "version": VERSION})[:16]
    stopped: list[Exception] = []

    def work(job: PhotoJob) -> tuple[Name, str, DetailedCaption | Exception | None] | None:
        """(key, name), sha256, what came of it: nothing where its line is known; None of what is not begun any more."""
        key = ""
        try:
            if stopped:
                return None
            photo = detail.open_photo(job.load(), name=job.name)
            given = job.regions(photo.size)
            things = [describe.as_region(one, photo.size) for one in given]
            told = [photo.sha256, [[one.box, one.name, models.mask_digest(one.mask)] for one in things]]
            key = f"{run}-{_digest(told)[:32]}"
            known = lines is not None and key in lines.first
            return (key, job.name), photo.sha256, None if known else captioner.describe(photo, given, seed=seed)
        except Exception as caught:
            error = errors.out_of_memory(caught) or caught
            if not isinstance(error, errors.PatchionerError | OSError):
                raise
            if not key or not isinstance(error, _FINAL):  # it is of this photo, or its own files
                return (key, job.name), "", error
            stopped.append(error)
            return None

    found: dict[Name, None] = {}
    described, known, failed = 0, 0, list[tuple[str, Exception]]()
    opened = nullcontext() if out is None else _same_run(Path(out), run, settings)
    outcomes = map_ahead(work, jobs, workers=workers if workers > 1 else 0, ahead=2 * workers - 1, on_stop=on_stop)
    with opened as lines, closing(outcomes):
        shown = progress(outcomes, description="describing", total=len(jobs), unit="photo")
        for (key, name), sha256, caption in filter(None, shown):
            if isinstance(caption, Exception):
                failed.append((name, caption))
                on_error(name, caption)
                continue
            if caption is not None:
                described += 1
                told = detail.to_json(caption, name, sha256=sha256)
                on_caption(caption, told)
                line = {"format": FORMAT, "version": VERSION, "key": key, **told}
            elif lines is not None:  # that of the same photo, maybe under another name
                known += 1
                line = {**lines.values(lines.first[key]), "photo": name}
            if lines is not None:
                lines.append((key, name), detail.dumps(line))
                found[key, name] = None
    return BatchResult(described, known, tuple(failed), next(iter(stopped), None), tuple(found))


def read_captions(path: AnyPath, names: Sequence[Name] | None = None) -> Iterator[tuple[str, DetailedCaption]]:
    """(name of the photo, its description) of the lines of a file of `describe_many`, read one by one; `OptionError`,
    `DetailError`: the file is somebody else's, a line is damaged."""
    lines = LineFile(path)
    return (detail.from_json(lines.values(name)) for name in (lines.places if names is None else names))


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
