"""How good detailed captions are: `python -m benchmarks.detail --data FOLDER --parts objects planted`.

* objects: things that our paragraphs name against COCO's boxes (of FOLDER/annotations).
* planted: does the scorer drop people's captions with one thing, colour or number exchanged, or of another photo?
* among: does the whole filter drop one exchanged thing among all that a 7-billion-parameter model said of a photo?
* did: DID-Bench on the words of that model, fused by us, beside controls of equal length.
* end-to-end: DID-Bench with our own paragraphs. The last three need FOLDER/did.

DID-Bench (sterzhang/image-textualization) splits captions at white space, so its numbers compare with no other caption
benchmark, and mostly pays for length: read a score only beside its word count and the controls.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

from PIL import Image

from benchmarks import command, detail_texts
from benchmarks.command import markdown_table
from benchmarks.data import SAMPLE
from benchmarks.detail_texts import OBJECT_METRICS, WORDS, Part, Setup, percent, score_texts
from benchmarks.metrics import Meteor, java_available
from benchmarks.scoring import finite
from patchioner.base.errors import DetailError, OptionError
from patchioner.base.files import atomic_path, write_json
from patchioner.base.progress import progress
from patchioner.detail import DetailCaptioner, DetailedCaption, Photo
from patchioner.detail.batch import describe_many, read_captions
from patchioner.detail.fuse import FilterSettings, FuseSettings, GreedyFuser, filter_statements

PARAGRAPH, UNFILTERED, FILTERED = "our paragraph", "ours, without any filter", "ours, filtered"


def run_did(setup: Setup) -> Part:
    """Our fusion of the large model's words beside its controls. No photo is looked at."""
    photos = detail_texts.referenced(setup.data / "did", setup.limit)
    fuser = GreedyFuser(FuseSettings(setup.words, new_share=0.0, coverage=True))
    kinds = {UNFILTERED: FilterSettings(rules=False), FILTERED: FilterSettings()}
    texts: dict[str, list[str]] = {name: [] for name in kinds}
    for photo in progress(photos, description="fusing", unit="photo"):
        unseen = Photo(photo.name, Image.new("RGB", photo.size), "")  # its size is all that counts
        for name, settings in kinds.items():
            judged = filter_statements(unseen, photo.regions, photo.statements, settings=settings)
            kept = [verdict for verdict in judged if verdict.kept]
            sentences = fuser.fuse(unseen, photo.regions, kept)[0] if kept else []
            texts[name].append(" ".join(sentence.text for sentence in sentences))
    references = [photo.references for photo in photos]
    told = f"{len(photos)} photos; one budget of {setup.words} words"
    text = [f"{told}; controls are as long as ours."]
    values: dict[str, Any] = {"photos": len(photos)}
    missed = [] if setup.meteor else ["METEOR was not measured (no Java): half of the bar is open"]
    for name, own in texts.items():
        block = {name: own, **detail_texts.controls(photos, [max(1, len(t.split())) for t in own])}
        scored = {key: score_texts(found, references, setup.meteor) for key, found in block.items()}
        text.append(f"### {name}\n\n{detail_texts.did_tables(scored, setup.seed)}")
        values[name] = detail_texts.did_json(scored, setup.seed)
        if name == UNFILTERED:
            missed += detail_texts.missed_rivals(scored)
    return Part("DID-Bench on a large model's words", "\n\n".join(text), values, tuple(missed))


def paragraphs(setup: Setup, photos: Sequence[Path], name: str) -> list[DetailedCaption]:
    """Describe photos, or read from the file of a former run what was finished; OptionError for fewer than two."""
    if len(photos) < 2:
        raise OptionError(f"{len(photos)} photos: give at least 2, texts of others are a control")
    captioner = DetailCaptioner(setup.model, settings=setup.preset)
    text = json.dumps(captioner.settings, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    out = setup.out / "photos" / f"{name}-{digest}-{setup.seed}.jsonl"
    result = describe_many(captioner, photos, out, seed=setup.seed)
    if not result.complete:
        problems = [*(f"{one}: {error}" for one, error in result.failed), str(result.stopped or "")]
        raise DetailError(f"not all photos could be described: {'; '.join(filter(None, problems))}")
    found = dict(read_captions(out, result.names))
    return [found[str(path)] for path in photos]


def texts_of(captions: Sequence[DetailedCaption], seed: int = 0) -> dict[str, list[str]]:
    """Paragraphs and what they are compared with; random captions are of regions of the same photo, as many words."""
    own = [one.text for one in captions]
    whole, chance = [], []
    for place, one in enumerate(captions):
        said = [verdict.claim for verdict in (*one.kept, *one.dropped)]
        claims = sorted(said, key=lambda c: (c.region_id, c.sample, c.place))
        of_whole = [claim.text for claim in claims if claim.region_id == "global"]
        whole.append(_as_sentence(of_whole[0]) if of_whole else "")
        texts = list(dict.fromkeys(_as_sentence(claim.text) for claim in claims))
        random.Random(f"{seed} {place}").shuffle(texts)
        words = len(one.text.split())
        chance.append(detail_texts.filled(texts, words) if words else "")
    found = {PARAGRAPH: own, "caption of the whole photo": whole, "random captions, as long": chance}
    return found | {"another photo's paragraph": [*own[1:], *own[:1]]}


def _as_sentence(caption: str) -> str:
    text = caption.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def run_objects(setup: Setup) -> Part:
    """Objects that paragraphs name, against the boxes of the data folder."""
    present = detail_texts.annotated(setup)
    photos = [setup.data / "photos" / name for name in present]
    texts = texts_of(paragraphs(setup, photos, "objects"), setup.seed)
    classes = list(present.values())
    text = f"{len(photos)} photos with boxes; 95 % of bootstrap rounds over photos.\n\n"
    values: dict[str, Any] = {"photos": len(photos)}
    head = ["text", "words", "objects", *OBJECT_METRICS]
    for title, people in (("all classes", True), ("but people", False)):
        count = partial(detail_texts.object_scores, present=classes, people=people)
        scores = {name: count(found) for name, found in texts.items()}
        own = scores[PARAGRAPH]
        rows, gains = [], []
        values[title] = {}
        for name, one in scores.items():
            found = {metric: one.interval(metric, setup.seed) for metric in OBJECT_METRICS}
            words = float(one.words.mean())
            means = [f"{words:.0f}", f"{one.named.mean():.1f}"]
            rows.append([name, *means, *map(percent, found.values())])
            values[title][name] = {"words": words, **{m: finite(i) for m, i in found.items()}}
            if name != PARAGRAPH:
                more = (own.gain_over(one, metric, setup.seed) for metric in OBJECT_METRICS)
                gains.append([name, *(percent(gain, signed=True) for gain in more)])
        text += f"### {title}\n\n{markdown_table(head, rows)}\n"
        text += f"{markdown_table([f'{PARAGRAPH!r} minus', *OBJECT_METRICS], gains)}\n"
    return Part("Objects named, against COCO's boxes", text, values)


def run_end_to_end(setup: Setup) -> Part:
    """DID-Bench with the loaded model's own paragraphs."""
    folder = setup.data / "did"
    photos = detail_texts.referenced(folder, setup.limit)
    found = paragraphs(setup, [folder / "photos" / photo.name for photo in photos], "did")
    references = [photo.references for photo in photos]
    texts = texts_of(found, setup.seed)
    scored = {name: score_texts(said, references, setup.meteor) for name, said in texts.items()}
    text = f"{len(photos)} photos.\n\n{detail_texts.did_tables(scored, setup.seed)}"
    values = {"photos": len(photos), **detail_texts.did_json(scored, setup.seed)}
    return Part("DID-Bench end to end", text, values)


PARTS: Final[Mapping[str, Callable[[Setup], Part]]] = {
    "objects": run_objects, "planted": detail_texts.run_planted, "among": detail_texts.run_among, "did": run_did,
    "end-to-end": run_end_to_end,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, 1 after an error or with `--check` where a bar is missed, 130 when stopped."""
    told = "Measure detailed captions: objects, planted falsehoods, DID-Bench."
    parser = command.command_parser("detail", told)
    add = parser.add_argument
    add("--data", type=Path, default=SAMPLE, help="annotations/, photos/, did/ (the sample set)")
    add("--out", type=Path, default=Path("build/detail"), help="folder of the reports")
    add("--parts", nargs="+", choices=list(PARTS), help="default: those that --data has data for")
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--preset", choices=["careful", "full", "published"], default="careful", help="of ours")
    add("--limit", type=command.positive, help="photos of each set, the first ones")
    add("--words", type=command.positive, default=WORDS, help="budget on DID-Bench (240)")
    add("--seed", type=command.natural, default=0)
    java = "METEOR: auto = where there is Java"
    add("--java", choices=["auto", "yes", "no"], default="auto", help=java)
    add("--check", action="store_true", help="exit status 1 when a bar is missed")
    return command.run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> int:
    """Parts one after another; the report is written after each, so that what was finished stays."""
    there = list(PARTS) if (arguments.data / "did").is_dir() else list(PARTS)[:2]
    java = arguments.java == "yes" or (arguments.java == "auto" and java_available())
    found: dict[str, Part] = {}
    with Meteor() if java and (arguments.data / "did").is_dir() else nullcontext() as meteor:
        told = {key: getattr(arguments, key) for key in ("limit", "words", "seed", "preset")}
        setup = Setup(arguments.data, arguments.out, arguments.model, meteor=meteor, **told)
        for name in dict.fromkeys(arguments.parts or there):
            found[name] = part = PARTS[name](setup)
            text = "# Detailed captions: how good\n"
            for one in found.values():
                text += f"\n## {one.title}\n\n{one.text.rstrip()}\n"
                text += "".join(f"\n**Missed**: {bar}\n" for bar in one.missed)
            with atomic_path(setup.out / "report.md") as temporary:
                temporary.write_text(text, encoding="utf-8")
            parts = {key: {**one.values, "missed": list(one.missed)} for key, one in found.items()}
            written = {"settings": command.as_json(arguments), "parts": parts}
            write_json(setup.out / "report.json", written)
            sys.stderr.writelines(f"missed: {name}: {bar}\n" for bar in part.missed)
    sys.stdout.write(text)
    return int(arguments.check and any(part.missed for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
