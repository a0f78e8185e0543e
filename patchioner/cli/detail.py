"""`patchioner detail`: photos in, paragraphs with their provenance out.

Knows: the order of work, what goes to which stream or file. Does not know: how arguments are spelled
(`detail_arguments`), how stages are made (`detail_stages`), how photos are described.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.cli.detail_arguments import (
    check_combinations,
    declare_arguments,
    idle_options,
    is_remote,
)
from patchioner.cli.output import report_error, write_line
from patchioner.cli.photos import PhotoSource, find_photos

if TYPE_CHECKING:
    from patchioner.cli.detail_stages import Stages
    from patchioner.detail.batch import Outcome
    from patchioner.detail.photo_list import PhotoJob, RegionReader
    from patchioner.detail.report import ReportPhoto
    from patchioner.detail.values import DetailedCaption


def add_detail_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner detail` takes."""
    declare_arguments(parser)
    parser.set_defaults(run=detail)


def detail(options: argparse.Namespace) -> int:
    """Describe all photos; returns the exit status.

    Raises:
        PatchionerError: nothing can be done at all: no photos, no model, a file of other settings.
    """
    problem = check_combinations(options)
    if problem is not None:
        report_error(problem)
        return 2
    for name in idle_options(options):
        _say(f"warning: {name} does nothing without --describer or --fuser openai:MODEL")
    jobs = _jobs(options)
    from patchioner.cli.detail_stages import build_stages

    stages = build_stages(options, regions_given=all(job.regions is not None for job in jobs))
    run = _Run(options, stages, jobs)
    try:
        return run.to_file() if options.out is not None else run.to_output()
    finally:
        if is_remote(options):
            _say(_usage(stages))


class _Run:
    """One call of the command."""

    def __init__(
        self, options: argparse.Namespace, stages: Stages, jobs: Sequence[PhotoJob]
    ) -> None:
        self._options, self._stages, self._jobs = options, stages, jobs
        self._workers = options.concurrency if is_remote(options) and len(jobs) > 1 else 1

    def to_file(self) -> int:
        """Into `--out`, going on where an earlier run was stopped."""
        from patchioner.detail.batch import describe_many

        result = describe_many(
            self._stages.captioner,
            self._jobs,
            self._options.out,
            seed=self._options.seed,
            workers=self._workers,
            on_error=_failed,
            on_stop=self._stop,
        )
        counts = [f"{result.described} described", f"{result.known} had their line already"]
        counts += [f"{len(result.failed)} failed"] if result.failed else []
        if result.stopped is not None:
            report_error(f"stopped: {result.stopped}")
        _say(f"{self._options.out}: {', '.join(counts)}, of {len(self._jobs)} photos")
        if self._options.report is not None:
            self._report(self._from_file(result.names))
        return 0 if result.complete else 1

    def to_output(self) -> int:
        """To standard output, in the order of the photos."""
        from patchioner.detail.batch import describe_each

        found: list[tuple[str, DetailedCaption]] = []
        status, described = 0, 0
        stopped: Exception | None = None
        outcomes = describe_each(
            self._stages.captioner,
            self._jobs,
            seed=self._options.seed,
            workers=self._workers,
            on_stop=self._stop,
        )
        for outcome in self._in_order(outcomes):
            if outcome.caption is None:
                status = 1
                if outcome.final:
                    stopped = stopped or outcome.error
                else:
                    _failed(outcome.name, outcome.error or RuntimeError("no description"))
                continue
            self._write(outcome)
            described += 1
            if self._options.report is not None:
                found.append((outcome.name, outcome.caption))
        if stopped is not None:
            report_error(f"stopped: {stopped}")
            _say(f"{described} of {len(self._jobs)} photos described")
        if status and self._stages.budget.usage.answered and self._stages.cache is None:
            _say("answers about photos that failed are lost: --out or --cache would keep them")
        if self._options.report is not None:
            self._report(iter(found))
        return status

    def _in_order(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """As the photos were given, each as soon as those before it are there."""
        from patchioner.base.progress import progress

        total = len(self._jobs)
        if total > 1:
            outcomes = progress(outcomes, description="describing", total=total, unit="photo")
        waiting: dict[int, Outcome] = {}
        following = 0
        for outcome in outcomes:
            waiting[outcome.place] = outcome
            while following in waiting:
                yield waiting.pop(following)
                following += 1
        # Where the run was stopped, photos in between are missing.
        yield from (waiting[place] for place in sorted(waiting))

    def _write(self, outcome: Outcome) -> None:
        from patchioner.detail.provenance import dumps, to_json

        caption = outcome.caption
        assert caption is not None
        if self._options.json:
            write_line(dumps(to_json(caption, outcome.name, sha256=outcome.sha256)))
        else:
            heading = f"{outcome.name}:\n" if len(self._jobs) > 1 else ""
            write_line(heading + caption.text + ("\n" if heading else ""))
        if caption.reason is not None:
            _say(f"{outcome.name}: nothing is said: {caption.reason}")

    def _from_file(self, names: Sequence[tuple[str, str]]) -> Iterator[tuple[str, DetailedCaption]]:
        from patchioner.detail.batch import read_captions

        return read_captions(self._options.out, names)

    def _report(self, captions: Iterator[tuple[str, DetailedCaption]]) -> None:
        from patchioner.detail.report import write_report

        write_report(self._pages(captions), self._options.report)
        _say(f"{self._options.report}: written")

    def _pages(self, captions: Iterator[tuple[str, DetailedCaption]]) -> Iterator[ReportPhoto]:
        from patchioner.detail.report import ReportPhoto, heat_maps

        loaders = {job.name: job.load for job in self._jobs}
        for name, caption in captions:
            image = loaders[name]()
            heat = {}
            if self._stages.heat is not None and caption.sentences:
                photo = self._stages.captioner.open(image)
                heat = heat_maps(photo, caption, self._stages.heat)
            yield ReportPhoto(name, image, caption, heat)

    def _stop(self) -> None:
        """No request is sent any more, and no pause waited for; requests under way are, and their answers kept."""
        _say("stopping: waiting for what is under way")
        for client in self._stages.clients:
            client.stop()


def _jobs(options: argparse.Namespace) -> list[PhotoJob]:
    from patchioner.detail.photo_list import PhotoJob, read_photo_list

    jobs = []
    for argument in options.photos:
        if argument.lower().endswith(".json") and not Path(argument).is_dir():
            listed = [(PhotoSource(one.photo), one.regions) for one in read_photo_list(argument)]
        else:
            listed = [(photo, None) for photo in find_photos([argument])]
        jobs += [
            PhotoJob(photo.name, photo.load, own or _given(options, photo)) for photo, own in listed
        ]
    return jobs


def _given(options: argparse.Namespace, photo: PhotoSource) -> RegionReader | None:
    """What gives the regions of the command line for a photo; None where there are none."""
    if not options.regions and options.region_file is None:
        return None
    from patchioner.region_files import read_regions

    def read(size: tuple[int, int]) -> list[object]:
        named = (
            []
            if options.region_file is None
            else read_regions(options.region_file, size, image_name=photo.file_name)
        )
        return [*options.regions, *named]

    return read  # type: ignore[return-value]


def _usage(stages: Stages) -> str:
    used = stages.budget.usage
    text = (
        f"asked {used.calls} times, {used.answered} answered; tokens: {used.tokens_in:,} sent, {used.tokens_out:,} "
        f"came back"
    )
    text += f" (estimated for {used.estimated} calls)" if used.estimated else ""
    return f"{text}; price: {used.cost:.4f}" if used.cost else text


def _failed(name: str, error: Exception) -> None:
    said = str(error)
    report_error(said if name in said else f"{name}: {said}")


def _say(message: str) -> None:
    """One line on standard error that is no error."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    sys.stderr.write(f"patchioner: {' '.join(message.split())}\n")
    sys.stderr.flush()
