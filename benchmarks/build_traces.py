"""Trace-captioning samples out of Localized Narratives: `python -m benchmarks.build_traces NARRATIVES.jsonl ...`.

A narrative is cut into its sentences; the points drawn while a sentence was spoken are its trace; a language model
makes a caption of its words, or marks them as invalid. Answers are kept: a run that was stopped goes on with them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import command_parser, natural, positive, run_command
from benchmarks.data import BenchmarkDataError, printable, text_of
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import atomic_path, file_sha256, write_json
from patchioner.base.progress import progress
from patchioner.detail.client import Budget, ChatClient
from patchioner.detail.models import Answer, AskedModel, CallCache, EmptyAnswerError, Question

PROMPT = """\
Somebody describes a photo aloud while moving the mouse over what is spoken of. You get the transcript of it all, and \
one sentence of it. Write a caption of the part of the photo that this sentence speaks of.

- One short phrase or sentence, as under a photo; only what the sentence says is there, nothing added.
- Leave out the speaker and the photo itself ("I can see", "in this image", "on the left side of the picture"), \
hesitations and slips of the tongue.
- Use the transcript for nothing but what a pronoun stands for.
- Where the sentence names nothing that can be seen (talk about the photo, its quality or its frame; a broken \
sentence), answer INVALID.

Answer with the caption or with INVALID, and nothing else."""
SAMPLING = {"temperature": 0.0, "max_tokens": 100}
MIN_POINTS, MIN_WORDS, MAX_WORDS = 2, 3, 40
_PART = 256  # sentences asked for at a time
_ENDS = re.compile(r"[.!?][\"'\u201d\u2019)]*$")
_LEAD = re.compile(r"^(?:the\s+)?(?:caption|answer)\s*:\s*", re.IGNORECASE)

Samples = dict[str, list[tuple[str, str]]]
"""By image id: captions, each with its trace as JSON."""
Points = list[dict[str, float]]
"""{x, y, t}: 0..1 of the photo, seconds since the sentence began; one off the photo parts two strokes."""
Strokes = Sequence[Sequence[tuple[float, float, float]]]


@dataclass(frozen=True)
class Spoken:
    """One sentence of a narrative: image id, its words, all that was said, and what was drawn meanwhile."""

    image: str
    words: str
    narrative: str
    points: Points


def split(record: Any) -> Iterator[Spoken | str]:
    """The sentences of a record of Localized Narratives; a text is why one is left out. BenchmarkDataError: no record.

    Example:
        >>> word = {"utterance": "A dog sleeps.", "start_time": 0.5, "end_time": 2.0}
        >>> drawn = [[{"x": 0.1, "y": 0.2, "t": 0.7}, {"x": 0.3, "y": 0.2, "t": 1.9}]]
        >>> next(split({"image_id": "7", "timed_caption": [word], "traces": drawn})).points[0]
        {'x': 0.1, 'y': 0.2, 't': 0.2}
    """
    try:
        image = text_of(str(record["image_id"]))
        words, traces = record["timed_caption"], record["traces"]
        timed = [(text_of(one["utterance"]).strip(), float(one["start_time"]), float(one["end_time"])) for one in words]
        strokes = [[(float(p["x"]), float(p["y"]), float(p["t"])) for p in one] for one in traces]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise BenchmarkDataError(f"no record of Localized Narratives ({error!r})") from error
    numbers = [*(one[1:] for one in timed), *itertools.chain.from_iterable(strokes)]
    if not all(map(math.isfinite, itertools.chain.from_iterable(numbers))):
        raise BenchmarkDataError("a time or a coordinate is not finite")
    ends = [index + 1 for index, (word, *_) in enumerate(timed) if _ENDS.search(word)]
    for first, last in itertools.pairwise(dict.fromkeys([0, *ends, len(timed)])):
        words = " ".join(word for word, *_ in timed[first:last])
        points, inside = _drawn(strokes, timed[first][1], timed[last - 1][2])
        if len(words.split()) < MIN_WORDS:
            yield f"sentences of fewer than {MIN_WORDS} words"
        elif inside < MIN_POINTS:
            yield f"sentences with fewer than {MIN_POINTS} points on the photo meanwhile"
        else:
            yield Spoken(image, words, " ".join(word for word, *_ in timed), points)


def _drawn(strokes: Strokes, begin: float, end: float) -> tuple[Points, int]:
    """The points of those seconds, and how many of them lie on the photo."""
    points: Points = []
    for stroke in strokes:
        drawn = [(x, y, round(t - begin, 3)) for x, y, t in stroke if begin <= t <= end]
        up = [(-1.0, -1.0, drawn[0][2])] if points and drawn else []
        points += [{"x": x, "y": y, "t": t} for x, y, t in up + drawn]
    return points, sum(0 <= one["x"] <= 1 and 0 <= one["y"] <= 1 for one in points)


def read_narratives(path: Path, left_out: Counter[str], *, limit: int | None = None, seed: int = 0) -> Iterator[Spoken]:
    """The sentences of a file of records, of `limit` drawn at random; what is left out is counted by its reason."""
    lines = range(sum(1 for _ in _lines(path))) if limit is not None else range(0)
    chosen = set(random.Random(seed).sample(lines, min(limit or 0, len(lines))))
    for index, line in enumerate(_lines(path)):
        if limit is not None and index not in chosen:
            continue
        try:
            for found in split(json.loads(line)):
                if isinstance(found, Spoken):
                    yield found
                else:
                    left_out[found] += 1
        except (ValueError, RecursionError) as error:
            said = printable(f"{path}, record {index + 1}: left out: {error}"[:400])
            sys.stderr.write(f"{said!a}\n")
            left_out["malformed records"] += 1


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from (line for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkDataError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_reply(text: str) -> str | None:
    """The caption in a rewriter's answer; None where it marks the words as invalid, or is none.

    Example:
        >>> read_reply('Caption: "a dog on a bed"'), read_reply("INVALID.")
        ('a dog on a bed', None)
    """
    caption = _LEAD.sub("", text.strip()).strip(" \t\"'\u201c\u201d")
    wrong = "\n" in caption or not 0 < len(caption.split()) <= MAX_WORDS
    return None if wrong or re.match(r"\W*invalid\b", caption, re.IGNORECASE) else caption


def rewrite(spoken: Iterator[Spoken], model: AskedModel, left_out: Counter[str], *, seed: int = 0) -> Samples:
    """The samples whose words the rewriter takes for valid; PatchionerError: an answer could not be had."""
    found: Samples = {}
    bar = progress(spoken, description="rewriting", unit="sentence")
    while part := list(itertools.islice(bar, _PART)):
        said = [f"Transcript: {one.narrative}\n\nSentence: {one.words}" for one in part]
        asked = ("rewrite", model.identity)
        questions = [Question(*asked, user, PROMPT, SAMPLING, seed) for user in said]
        answers = model.answers((question, None) for question in questions)
        for one, question in zip(part, questions, strict=True):
            answer = answers[question.key]
            if isinstance(answer, PatchionerError) and not isinstance(answer, EmptyAnswerError):
                raise answer
            caption = read_reply(answer.text) if isinstance(answer, Answer) else None
            if caption is None:
                left_out["sentences that the rewriter marks as invalid"] += 1
            else:
                found.setdefault(one.image, []).append((caption, json.dumps(one.points)))
    return found


def write_samples(samples: Samples, out: Path) -> None:
    """Write what `benchmarks.trace` reads."""
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for index, (image, rows) in enumerate(samples.items()):
            captions = json.dumps([caption for caption, _ in rows], ensure_ascii=False)
            traces = ", ".join(trace for _, trace in rows)
            entry = f'{json.dumps(image)}: {{"captions": {captions}, "traces": [{traces}]}}'
            file.write((",\n" if index else "{\n") + entry)
        file.write("\n}\n")


def build(arguments: argparse.Namespace) -> None:
    """From the command's arguments to the file, and what is to be known of it beside."""
    kind, _, name = arguments.rewriter.partition(":")
    if kind != "openai" or not name:
        raise OptionError(f"--rewriter is {arguments.rewriter!r:.60}; it is written openai:MODEL")
    path, out, left_out = arguments.narratives, arguments.out, Counter[str]()
    chosen = {"limit": arguments.limit, "seed": arguments.seed}
    how = {key: getattr(arguments, key) for key in ("base_url", "key_env", "concurrency")}
    cache, budget = CallCache(f"{out}.cache"), Budget(arguments.max_calls)
    client = ChatClient(name, **how, budget=budget, cache=cache)
    spoken = read_narratives(path, left_out, **chosen)
    with closing(client):
        samples = rewrite(spoken, client, left_out, seed=arguments.seed)
    for reason, times in left_out.items():
        sys.stderr.write(f"left out: {times:,} {reason}\n")
    if not samples:
        raise BenchmarkDataError(f"{path}: no sample is left; nothing is written")
    write_samples(samples, out)
    count = sum(map(len, samples.values()))
    about = {"narratives": file_sha256(path), "rewriter": client.settings, **chosen}
    about |= {"samples": count, "left_out": left_out, "prompt": PROMPT, "sampling": SAMPLING}
    write_json(f"{out}.about.json", about)
    sys.stdout.write(f"{out}: {count:,} samples of {len(samples):,} photos\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    told = "Make trace-captioning samples from Localized Narratives."
    parser = command_parser("build_traces", told)
    add = parser.add_argument
    records = "records with timed_caption and traces"
    add("narratives", type=Path, metavar="NARRATIVES.jsonl", help=records)
    add("--rewriter", required=True, metavar="openai:MODEL", help="of an OpenAI-compatible server")
    beside = "samples; beside it FILE.about.json and the answers"
    add("--out", type=Path, required=True, metavar="FILE", help=beside)
    add("--base-url", metavar="URL", help="of the server, with its /v1")
    add("--limit", type=positive, metavar="N", help="only N narratives, drawn at random")
    add("--seed", type=natural, default=0, help="of --limit and of the answers")
    add("--key-env", metavar="NAME", help="environment variable with the key (OPENAI_API_KEY)")
    add("--max-calls", type=natural, metavar="N", help="most requests, retries included")
    add("--concurrency", type=positive, default=4, metavar="N", help="requests under way at once")
    return run_command(parser, build, argv)


if __name__ == "__main__":
    sys.exit(main())
