"""`patchioner detail`: photos in, paragraphs with their provenance out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner.base.files import atomic_path
from patchioner.cli import spelling
from patchioner.cli.spelling import find_photos, report, report_error, write_line

if TYPE_CHECKING:
    from patchioner.detail import DetailedCaption, Scorer
    from patchioner.detail.batch import PhotoJob
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


def _who(*known: str) -> Callable[[str], str]:
    """Reads who does a part of the work: one of the `known` words, with a model of one's own where they have one."""
    forms = [re.sub("[A-Z]+", "[^:].*", word) for word in known]
    return _matching("|".join(forms), f"is to be written {', '.join(known)}")


def _matching(pattern: str, form: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise argparse.ArgumentTypeError(f"{text!r} {form}")
        return text

    return parse


_MODELS = ("patchioner", "hf:MODEL", "openai:MODEL")
_PRESET = {"action": "store_const", "dest": "preset", "default": argparse.SUPPRESS}
_REGION = {"action": "append", "dest": "regions", "default": []}
# fmt: off
_FIRST: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("json", "one JSON object per photo and line, with provenance", {"action": "store_true"}),
    ("out", "the JSON lines, each when its photo is finished; photos that have their line are skipped",
     {"metavar": "FILE.jsonl", "type": _matching(r"(?i).*\.jsonl", "does not end in .jsonl")}),
    ("report", "a page that shows where each sentence comes from, and what was dropped",
     {"metavar": "FILE.html", "type": _matching(r"(?i).*\.html?", "does not end in .html")}),
    ("box", "left, top, right, bottom in pixels", {"metavar": "X1,Y1,X2,Y2", "type": spelling.parse_box, **_REGION}),
    ("mask", "picture of the photo's size, black outside", {"metavar": "PNG", "type": spelling.parse_mask, **_REGION}),
    ("model", "our captioner; 'none' where others do it all", {"metavar": "ID|DIR", "default": "patchioner-mini"}),
    ("describer", "who says what is in a region: patchioner, hf:MODEL or openai:MODEL",
     {"metavar": "WHO", "type": _who(*_MODELS), "default": "patchioner"}),
    ("fuser", "who makes a paragraph of it: patchioner (greedy), hf:MODEL or openai:MODEL",
     {"metavar": "WHO", "type": _who(*_MODELS), "default": "patchioner"}),
    ("base-url", "of an OpenAI-compatible server, with its /v1", {"metavar": "URL"}),
    ("careful", "say only what many captions of overlapping regions say: the default", _PRESET | {"const": "careful"}),
    ("full", "say more, of which more is wrong", _PRESET | {"const": "full"}),
    ("max-words", "of the paragraph", {"metavar": "N", "type": spelling.positive_int}),
    ("seed", "of everything drawn", {"type": int, "default": 0}),
    ("device", "cpu, cuda, cuda:1 ... (default: the model's choice)", {}),
)
_ADVANCED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("preset", "all numbers of the stages", {"choices": ["careful", "full", "published"], "default": "careful"}),
    ("grid", "rows and columns of cells in place of quadrants",
     {"metavar": "RxC", "type": _matching(r"(?i)[1-9]\d{0,2}x[1-9]\d{0,2}", "is not ROWSxCOLUMNS, such as 3x4")}),
    ("samples", "texts about every region", {"metavar": "N", "type": spelling.positive_int}),
    ("scorer", "dense (our model's own alignment), blip:MODEL, clip:NAME, or none",
     {"metavar": "WHO", "type": _who("dense", "blip:MODEL", "clip:NAME", "none"), "default": "dense"}),
    ("min-support", "least support of a sentence that is kept (default: as calibrated; of blip: 0.3)",
     {"metavar": "0..1", "type": spelling.number("[0, 1]")}),
    ("key-env", "environment variable with the key (OPENAI_API_KEY)", {"metavar": "NAME"}),
    ("cache", "keeps every answer, so that nothing is asked twice (default: FILE.jsonl.cache beside --out)",
     {"metavar": "DIR", "type": Path}),
    ("max-calls", "most requests to servers, retries included",
     {"metavar": "N", "type": spelling.natural}),
    ("max-cost", "most to spend on servers, by the prices", {"metavar": "X", "type": spelling.not_negative}),
    ("price-in", "price of a million tokens sent", {"metavar": "X", "type": spelling.not_negative}),
    ("price-out", "price of a million tokens that come back", {"metavar": "X", "type": spelling.not_negative}),
    ("concurrency", "photos, and requests to one model, under way at once, with openai:",
     {"metavar": "N", "type": spelling.positive_int, "default": 4}),
    ("timeout", "for one request", {"metavar": "SECONDS", "type": spelling.positive, "default": 120.0}),
)
# fmt: on


def add_detail_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner detail` takes."""
    about = "Describe photos at length, saying only what they support."
    add = spelling.declare(parser, detail, about, _EXAMPLES)
    add("photos", nargs="+", metavar="PHOTO", help="picture, folder, scikit-image:NAME")
    spelling.add_region_file(add)
    for group, rows in ((parser, _FIRST), (parser.add_argument_group("advanced"), _ADVANCED)):
        for name, meaning, more in rows:
            if more.get("default") not in (None, [], argparse.SUPPRESS):
                meaning += " (default: %(default)s)"
            group.add_argument(f"--{name}", help=meaning, **more)


def check_combinations(options: argparse.Namespace) -> str | None:
    """What is wrong about arguments that are right one by one; None when nothing is."""
    scorer, least = options.scorer, options.min_support
    priced = options.price_in is not None or options.price_out is not None
    ours = options.model != "none"
    # fmt: off
    wrong = (
        (options.json and options.out is not None, "--out writes the JSON lines: leave --json out"),
        (options.max_cost is not None and not priced,
         "--max-cost needs prices: give --price-in and --price-out, per million tokens"),
        (scorer.startswith("clip:") and least is None,
         "the cosines of CLIP mean nothing by themselves: give --min-support"),
        (least is not None and scorer == "none", "--min-support needs a scorer: leave --scorer none out"),
        (not ours and options.describer == "patchioner",
         "--model none leaves nobody to describe: name another --describer"),
        (not ours and scorer == "dense", "--model none leaves the dense scorer without a model: add --scorer none"),
    )
    # fmt: on
    return next((message for applies, message in wrong if applies), None)


def detail(options: argparse.Namespace) -> int:
    """Describe all photos; returns the exit status.

    Raises:
        PatchionerError: nothing can be done at all: no photos, no model, a file of other settings.
    """
    problem = check_combinations(options) or spelling.without_region_file(options)
    if problem is not None:
        report_error(problem)
        return 2
    from patchioner.detail.client import Budget

    remote = any(who.startswith("openai:") for who in (options.describer, options.fuser))
    for name in ("base_url", "key_env", "max_calls", "max_cost", "price_in", "price_out"):
        if getattr(options, name) is not None and not remote:
            flag = f"--{name.replace('_', '-')}"
            report(f"warning: {flag} does nothing without --describer or --fuser openai:MODEL")
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
        from patchioner.detail import DetailCaptioner, describe, fuse, preset
        from patchioner.detail.client import ChatClient
        from patchioner.detail.models import CallCache

        self._options, self._budget, self._jobs = options, budget, list(_jobs(options))
        others = [who for who in (options.describer, options.fuser) if who != "patchioner"]
        folder = options.cache or (f"{options.out}.cache" if options.out and others else None)
        self._cache = None if folder is None else CallCache(folder)
        rows, columns = map(int, options.grid.lower().split("x")) if options.grid else (None, None)
        changes: dict[str, object] = {
            "describe.samples": options.samples, "fuse.max_words": options.max_words,
            "filter.whole_sentences": None if options.min_support is None else "always",
            "divide.spatial": "grid" if options.grid else None, "divide.rows": rows, "divide.columns": columns,
        }  # fmt: skip
        changes = {name: value for name, value in changes.items() if value is not None}
        self._model = model = None
        if options.model != "none":
            self._model = model = Patchioner.from_pretrained(options.model, device=options.device)
        elif not options.grid:
            changes["divide.spatial"] = "quadrants"  # fewer questions to servers that are paid
        settings = preset(options.preset, changes)
        seeing = reader = self._other(options.describer, sees=True)
        # One client for both, so that together they keep to the bound on requests under way.
        if options.fuser != options.describer or not isinstance(seeing, ChatClient):
            reader = self._other(options.fuser, sees=False)
        self._scorer = _scorer(options, model)
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

            names = ("base_url", "key_env", "timeout", "concurrency")
            given = {one: getattr(options, one) for one in names}
            return ChatClient(name, **given, budget=self._budget, cache=self._cache)
        return None

    def describe(self) -> int:
        """To standard output in the order of the photos; or into `--out`, going on where a run was stopped."""
        from patchioner.detail.batch import describe_many, read_captions

        out, total = self._options.out, len(self._jobs)
        how: dict[str, Any] = {**self._how, "on_error": _failed}
        if out is None:
            how["on_caption"] = self._tell
        result = describe_many(self._captioner, self._jobs, out, **how)
        if result.stopped is not None:
            report_error(f"stopped: {result.stopped}")
        if out is not None:
            counts = f"{result.described} described, {result.known} had their line already"
            counts += f", {len(result.failed)} failed" if result.failed else ""
            report(f"{out}: {counts}, of {total} photos")
        elif not result.complete:
            report(f"{result.described} of {total} photos described")
            if self._budget.answered and self._cache is None:
                told = "answers about photos that failed are lost: --out or --cache would keep them"
                report(told)
        if self._options.report is not None:
            self._report(self._told if out is None else read_captions(out, result.names))
        return 0 if result.complete else 1

    def _tell(self, caption: DetailedCaption, values: dict[str, Any]) -> None:
        from patchioner.detail import dumps

        name = values["photo"]
        text = f"{name}:\n{caption.text}\n" if len(self._jobs) > 1 else caption.text
        write_line(dumps(values) if self._options.json else text)
        if caption.reason is not None:
            report(f"{name}: nothing is said: {caption.reason}")
        if self._options.report is not None:
            self._told.append((name, caption))

    def _report(self, captions: Iterable[tuple[str, DetailedCaption]]) -> None:
        from patchioner.detail import open_photo
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


def _scorer(options: argparse.Namespace, model: Patchioner | None) -> Scorer | None:
    from patchioner.detail.score import SCORERS, DenseScorer, IndependentScorer

    (kind, _, name), least = options.scorer.partition(":"), options.min_support
    if kind == "none":
        return None
    if kind != "dense":
        return IndependentScorer(SCORERS[kind](name), name=options.scorer, threshold=least)
    assert model is not None  # `check_combinations`
    return DenseScorer(model, threshold=least)


def _jobs(options: argparse.Namespace) -> Iterator[PhotoJob]:
    from patchioner.detail.batch import PhotoJob

    file = spelling.region_file(options)

    def reader(name: str) -> Any:
        return lambda size: [*options.regions, *(file.for_photo(size, name) if file else ())]

    for photo in find_photos(options.photos):
        yield PhotoJob(photo.name, photo.load, reader(photo.file_name))


def _failed(name: str, error: Exception) -> None:
    said = str(error)
    report_error(said if name in said else f"{name}: {said}")
