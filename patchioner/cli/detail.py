"""`patchioner detail`: photos in, paragraphs with their provenance out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner.base.files import atomic_path
from patchioner.cli import spelling
from patchioner.cli.spelling import find_photos, report, report_error, write_line
from patchioner.detail import DetailedCaption, Scorer, dumps, open_photo
from patchioner.regions import Region

if TYPE_CHECKING:
    from patchioner.detail.batch import DetailSettings, PhotoJob
    from patchioner.detail.client import Budget
    from patchioner.model import Patchioner

_EXAMPLES = """\
A PHOTO is a picture, a folder of pictures, or one that scikit-image ships (see patchioner caption --help).

examples:
  patchioner detail photo.jpg --report photo.html
  patchioner detail photos/ --out photos.jsonl               (stop it, start it again: it goes on)
  patchioner detail photo.jpg --describer openai:qwen2.5vl:7b --base-url http://localhost:11434/v1
  patchioner detail photos/ --out photos.jsonl --describer openai:gpt-4o-mini --fuser openai:gpt-4o-mini \\
      --max-cost 2.50 --price-in 0.15 --price-out 0.60
  patchioner detail photo.jpg --describer hf:HuggingFaceTB/SmolVLM-256M-Instruct --scorer none

Keys of servers come from the environment alone: OPENAI_API_KEY, or the variable that --key-env names.

exit status: 0 all described; 1 a photo failed or the run was stopped by a budget, a key, a model (see standard error;
what is finished stays); 2 wrong usage; 130 stopped with Ctrl-C.
"""


def _who(forms: str) -> Callable[[str], str]:
    """Reads who does a part of the work: one of `forms`, such as "none|hf:MODEL", with a model of one's own."""
    return _matching(re.sub("[A-Z]+", "[^:].*", forms), f"is to be written {forms.replace('|', ', ')}")


def _matching(pattern: str, form: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise argparse.ArgumentTypeError(f"{text!r} {form}")
        return text

    return parse


def add_detail_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner detail` takes."""
    add = spelling.declare(parser, detail, "Describe photos at length, saying only what they support.", _EXAMPLES)
    add("photos", nargs="+", metavar="PHOTO", help="picture, folder, scikit-image:NAME")
    spelling.add_region_file(add)
    add("--json", action="store_true", help="one JSON object per photo and line, with provenance")
    lines = "the JSON lines, each when its photo is finished; photos that have their line are skipped"
    add("--out", type=_matching(r"(?i).*\.jsonl", "does not end in .jsonl"), metavar="FILE.jsonl", help=lines)
    page = "a page that shows where each sentence comes from, and what was dropped"
    add("--report", type=_matching(r"(?i).*\.html?", "does not end in .html"), metavar="FILE.html", help=page)
    region = partial(add, action="append", dest="regions", default=[])  # one list keeps their order
    region("--box", type=spelling.parse_box, metavar="X1,Y1,X2,Y2", help="left, top, right, bottom in pixels")
    region("--mask", type=spelling.parse_mask, metavar="PNG", help="picture of the photo's size, black outside")
    add("--model", metavar="ID|DIR|none", default="patchioner-mini", help="our captioner (default: %(default)s)")
    who = "patchioner|hf:MODEL|openai:MODEL"
    add("--describer", type=_who(who), metavar=who, default="patchioner", help="describes a region (default: ours)")
    add("--fuser", type=_who(who), metavar=who, default="patchioner", help="makes a paragraph of that (default: ours)")
    add("--base-url", metavar="URL", help="of an OpenAI-compatible server, with its /v1")
    preset = partial(add, action="store_const", dest="preset", default=argparse.SUPPRESS)
    preset("--careful", const="careful", help="say only what many captions of overlapping regions say: the default")
    preset("--full", const="full", help="say more, of which more is wrong")
    add("--max-words", type=spelling.positive_int, metavar="N", help="of the paragraph")
    add("--seed", type=int, default=0, help="of everything drawn (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1 ... (default: the model's choice)")
    _add_advanced(parser.add_argument_group("advanced").add_argument)


def _add_advanced(add: Callable[..., Any]) -> None:
    add("--preset", choices=["careful", "full", "published"], default="careful", help="all numbers of the stages")
    cells = _matching(r"(?i)[1-9]\d{0,2}x[1-9]\d{0,2}", "is not ROWSxCOLUMNS, such as 3x4")
    add("--grid", type=cells, metavar="RxC", help="rows and columns of cells in place of quadrants")
    add("--samples", type=spelling.positive_int, metavar="N", help="texts about every region")
    who = "dense|blip:MODEL|clip:NAME|none"
    add("--scorer", type=_who(who), metavar=who, default="dense", help="dense: our model's own alignment, the default")
    least = "least support of a sentence that is kept (default: as calibrated; of blip: 0.3)"
    add("--min-support", type=spelling.number("[0, 1]"), metavar="0..1", help=least)
    add("--key-env", metavar="NAME", help="environment variable with the key (OPENAI_API_KEY)")
    add("--cache", type=Path, metavar="DIR", help="keeps every answer: none is asked twice (default: FILE.jsonl.cache)")
    add("--max-calls", type=spelling.natural, metavar="N", help="most requests to servers, retries included")
    add("--max-cost", type=spelling.not_negative, metavar="X", help="most to spend on servers, by the prices")
    add("--price-in", type=spelling.not_negative, metavar="X", help="price of a million tokens sent")
    add("--price-out", type=spelling.not_negative, metavar="X", help="price of a million tokens that come back")
    most = "photos, and requests to one model, under way at once, with openai: (default: %(default)s)"
    add("--concurrency", type=spelling.positive_int, metavar="N", default=4, help=most)
    add("--timeout", type=spelling.positive, metavar="SECONDS", default=120.0, help="for one request (%(default)s)")


def wrong_combination(options: argparse.Namespace) -> str | None:
    """What is wrong about arguments that are right one by one; None when nothing is."""
    least = options.min_support
    if options.json and options.out is not None:
        return "--out writes the JSON lines: leave --json out"
    if options.max_cost is not None and options.price_in is None and options.price_out is None:
        return "--max-cost needs prices: give --price-in and --price-out, per million tokens"
    if options.scorer.startswith("clip:") and least is None:
        return "the cosines of CLIP mean nothing by themselves: give --min-support"
    if least is not None and options.scorer == "none":
        return "--min-support needs a scorer: leave --scorer none out"
    if options.model == "none" and options.describer == "patchioner":
        return "--model none leaves nobody to describe: name another --describer"
    if options.model == "none" and options.scorer == "dense":
        return "--model none leaves the dense scorer without a model: add --scorer none"
    return spelling.without_region_file(options)


def detail(options: argparse.Namespace) -> int:
    """Describe all photos; returns the exit status. PatchionerError: no photos, no model, a file of other settings."""
    if problem := wrong_combination(options):
        options.error(problem)
    from patchioner.detail.client import Budget

    remote = any(who.startswith("openai:") for who in (options.describer, options.fuser))
    for name in ("base_url", "key_env", "max_calls", "max_cost", "price_in", "price_out"):
        if getattr(options, name) is not None and not remote:
            report(f"warning: --{name.replace('_', '-')} does nothing without --describer or --fuser openai:MODEL")
    budget = Budget(options.max_calls, options.max_cost, options.price_in or 0.0, options.price_out or 0.0)
    run = _Run(options, budget)
    try:
        return run.describe()
    finally:
        run.close()
        if remote:
            guess = f" (estimated for {budget.estimated} calls)" if budget.estimated else ""
            price = f"; price: {budget.cost:.4f}" if budget.cost else ""
            tokens = f"{budget.tokens_in:,} sent, {budget.tokens_out:,} came back{guess}{price}"
            report(f"asked {budget.calls} times, {budget.answered} answered; tokens: {tokens}")


class _Run:
    """One call of the command: photos, the stages that the arguments name, and where results go."""

    def __init__(self, options: argparse.Namespace, budget: Budget) -> None:
        from patchioner import Patchioner
        from patchioner.detail import DetailCaptioner, describe, fuse
        from patchioner.detail.client import ChatClient
        from patchioner.detail.models import CallCache

        self._options, self._budget, self._jobs = options, budget, _jobs(options)
        others = [who for who in (options.describer, options.fuser) if who != "patchioner"]
        folder = options.cache or (f"{options.out}.cache" if options.out and others else None)
        self._cache = None if folder is None else CallCache(folder)
        model = None if options.model == "none" else Patchioner.from_pretrained(options.model, device=options.device)
        settings = _settings(options)
        seeing = reader = self._other(options.describer, sees=True)
        # One client for both, so that together they keep to the bound on requests under way.
        if options.fuser != options.describer or not isinstance(seeing, ChatClient):
            reader = self._other(options.fuser, sees=False)
        self._model, self._scorer = model, _scorer(options, model)
        self._captioner = DetailCaptioner(
            model,
            describer=seeing and describe.VisionDescriber(seeing, samples=options.samples or 3),
            scorer=self._scorer,
            fuser=reader and fuse.LanguageFuser(reader, settings.fuse, seed=options.seed),
            settings=settings,
        )
        self._clients = [one for one in (seeing, reader) if isinstance(one, ChatClient)]
        workers = options.concurrency if self._clients and len(self._jobs) > 1 else 1
        self._told: list[tuple[str, DetailedCaption]] = []  # for the page
        self._how = {"seed": options.seed, "workers": workers, "on_stop": self._stop}

    def _other(self, who: str, *, sees: bool) -> Any:
        """The client or local model that a word stands for; None for our own part."""
        options, (kind, _, name) = self._options, who.partition(":")
        if kind == "hf":
            from patchioner.detail.models import LocalModel

            return LocalModel(name, sees=sees, device=options.device, cache=self._cache)
        if kind == "openai":
            from patchioner.detail.client import ChatClient

            given = {one: getattr(options, one) for one in ("base_url", "key_env", "timeout", "concurrency")}
            return ChatClient(name, **given, budget=self._budget, cache=self._cache)
        return None

    def describe(self) -> int:
        """To standard output in the order of the photos; or into `--out`, going on where a run was stopped."""
        from patchioner.detail.batch import describe_many, read_captions

        out, total = self._options.out, len(self._jobs)
        more: dict[str, Any] = {"on_caption": self._tell} if out is None else {}
        result = describe_many(self._captioner, self._jobs, out, **self._how, **more, on_error=_failed)
        if result.stopped is not None:
            report_error(f"stopped: {result.stopped}")
        if out is not None:
            counts = f"{result.described} described, {result.known} had their line already"
            counts += f", {len(result.failed)} failed" if result.failed else ""
            report(f"{out}: {counts}, of {total} photos")
        elif not result.complete:
            report(f"{result.described} of {total} photos described")
            if self._budget.answered and self._cache is None:
                report("answers about photos that failed are lost: --out or --cache would keep them")
        if self._options.report is not None:
            self._report(self._told if out is None else read_captions(out, result.names))
        return 0 if result.complete else 1

    def _tell(self, caption: DetailedCaption, values: dict[str, Any]) -> None:
        name = values["photo"]
        text = f"{name}:\n{caption.text}\n" if len(self._jobs) > 1 else caption.text
        write_line(dumps(values) if self._options.json else text)
        if caption.reason is not None:
            report(f"{name}: nothing is said: {caption.reason}")
        if self._options.report is not None:
            self._told.append((name, caption))

    def _report(self, captions: Iterable[tuple[str, DetailedCaption]]) -> None:
        from patchioner.detail.report import ReportPhoto, heat_maps, report_html
        from patchioner.detail.score import DenseScorer

        loaders = {job.name: job.load for job in self._jobs}

        def pages() -> Iterator[ReportPhoto]:
            for name, caption in captions:
                image, heat = loaders[name](), {}
                if isinstance(self._scorer, DenseScorer) and caption.sentences:
                    heat = heat_maps(open_photo(image, self._model), caption, self._scorer)
                yield ReportPhoto(name, image, caption, heat)

        with atomic_path(self._options.report) as page:
            page.write_text(report_html(pages()), encoding="utf-8")
        report(f"{self._options.report}: written")

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def _stop(self) -> None:
        """No request is sent any more, and no pause waited for; requests under way are, and their answers kept."""
        report("stopping: waiting for what is under way")
        for client in self._clients:
            client.stop()


def _settings(options: argparse.Namespace) -> DetailSettings:
    from patchioner.detail import preset

    changes = {"describe.samples": options.samples, "fuse.max_words": options.max_words}
    if options.min_support is not None:
        changes["filter.whole_sentences"] = "always"
    if options.grid:
        rows, columns = map(int, options.grid.lower().split("x"))
        changes |= {"divide.spatial": "grid", "divide.rows": rows, "divide.columns": columns}
    elif options.model == "none":
        changes["divide.spatial"] = "quadrants"  # fewer questions to servers that are paid
    return preset(options.preset, {name: value for name, value in changes.items() if value is not None})


def _scorer(options: argparse.Namespace, model: Patchioner | None) -> Scorer | None:
    from patchioner.detail.score import SCORERS, DenseScorer, IndependentScorer

    (kind, _, name), least = options.scorer.partition(":"), options.min_support
    if kind == "none":
        return None
    if kind != "dense":
        return IndependentScorer(SCORERS[kind](name), name=options.scorer, threshold=least)
    assert model is not None  # `wrong_combination`
    return DenseScorer(model, threshold=least)


def _jobs(options: argparse.Namespace) -> list[PhotoJob]:
    from patchioner.detail.batch import PhotoJob

    file = spelling.region_file(options)

    def regions(name: str, size: tuple[int, int]) -> list[Region]:
        return [*options.regions, *(file.for_photo(size, name) if file else ())]

    return [PhotoJob(one.name, one.load, partial(regions, one.file_name)) for one in find_photos(options.photos)]


def _failed(name: str, error: Exception) -> None:
    said = str(error)
    report_error(said if name in said else f"{name}: {said}")
