"""Teach the captioner a new way of writing from a file of sentences: no photo needed.

python train_text_decoder.py --corpus examples/catalogue.txt --out catalogue-model
python train_text_decoder.py --corpus captions.txt --out DIR --noise 0.08 --from-scratch
python train_text_decoder.py --corpus captions.txt --out DIR --decoder viecap --language-model gpt2
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner.base.errors import OptionError, TextError
from patchioner.base.progress import guarded, log_to_terminal, quiet_interrupts

if TYPE_CHECKING:
    from patchioner.adaptation import NewDecoder


def parser() -> argparse.ArgumentParser:
    """Everything the script takes."""
    result = argparse.ArgumentParser(
        description="Train a decoder on text alone and build its memory bank. Captions of photos "
        "then read like the corpus. The result loads with Patchioner.from_pretrained(DIR).",
        epilog="exit status: 0 done; 1 something failed (see standard error); 2 wrong usage; "
        "130 stopped with Ctrl-C, go on with --resume",
    )
    files = "sentences: .txt, one per line, or any file that `patchioner bank build` reads"
    add = result.add_argument
    add("--corpus", required=True, metavar="FILE", help=files)
    add("--column", metavar="NAME", help="of a table: the column of sentences")
    add("--out", required=True, metavar="DIR", help="new folder for the result")
    lends = "checkpoint that lends everything but decoder and bank (default: %(default)s)"
    add("--text-encoder", default="patchioner-mini", metavar="ID|DIR", help=lends)
    add("--resume", action="store_true", help="go on with a stopped run in DIR")
    add = result.add_mutually_exclusive_group().add_argument
    memory = "train behind the new memory bank; regions will pass it, too (default)"
    add("--memory", action="store_true", help=memory)
    noise = "train with noise of this strength instead (0.08 if left out); regions will go straight to the decoder"
    add("--noise", nargs="?", type=float, const=0.08, metavar="SIGMA", help=noise)
    add = result.add_argument_group("training").add_argument
    add("--epochs", type=float, help="default: 15, from scratch 30")
    add("--batch", type=int, default=64, help="default: %(default)s")
    rate = "default: 1e-3, or 1e-4 where a language model is trained"
    add("--learning-rate", type=float, metavar="RATE", help=rate)
    held_out = "sentences to validate on, or the share of the corpus held out (default: %(default)s)"
    add("--validation", default="0.05", metavar="FILE|SHARE", help=held_out)
    add("--bank-rows", type=int, metavar="N", help="compress the bank to N rows")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--storage", choices=["fp32", "fp16", "int8"], default="fp16")
    add = result.add_argument_group("shape of a new decoder").add_argument
    scratch = "do not go on from the checkpoint's decoder"
    add("--from-scratch", action="store_true", help=scratch)
    for name in ("layers", "width", "heads", "vocab-size", "positions"):
        add(f"--{name}", type=int, metavar="N", help="needs --from-scratch")
    _add_language_model(result)
    return result


def _add_language_model(result: argparse.ArgumentParser) -> None:
    title = "a new decoder on a language model (extra language-models)"
    add = result.add_argument_group(title).add_argument
    kinds = (
        "viecap: soft prompt and the entities near a region; meacap: what the nearest sentences agree on instead; "
        "prefix_lm: soft prompt alone, longer text (default: %(default)s, ours)"
    )
    names = ["prefix_gpt2", "viecap", "meacap", "prefix_lm"]
    add("--decoder", choices=names, default="prefix_gpt2", help=kinds)
    model = "hub id (gpt2, facebook/opt-125m) or a folder"
    add("--language-model", metavar="NAME|DIR", help=model)
    entities = "viecap: names, one per line (default: COCO's 80 classes)"
    add("--entities", metavar="FILE", help=entities)
    tune = "prefix_lm: what is trained of it (frozen)"
    add("--tune", choices=["frozen", "full"], help=tune)


def options_from(arguments: argparse.Namespace, share: float | None) -> dict[str, Any]:
    """The options of `adapt`; OptionError where they make no sense."""
    from patchioner.adaptation import usual_training

    fresh, names = _fresh(arguments), ("epochs", "batch", "learning_rate", "seed")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.noise is not None:
        if arguments.noise <= 0:
            raise OptionError(f"noise is {arguments.noise}: give more than 0; about 0.08 is usual")
        given["noise_sigma"] = arguments.noise
    training = usual_training(fresh, **given, validation_share=share or 0.0)
    own = {name: getattr(arguments, name) for name in ("bank_rows", "storage")}
    return {"training": training, "fresh": fresh, **own}


def _fresh(arguments: argparse.Namespace) -> NewDecoder | None:
    """The new decoder that is asked for, or None to go on from the checkpoint's."""
    from memory_bank import read_captions
    from patchioner.adaptation import NewDecoder

    names = ("layers", "width", "heads", "vocab_size", "positions")
    shape = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    own, scratch = arguments.decoder == "prefix_gpt2", arguments.from_scratch
    if (shape or scratch) and not (own and scratch):
        raise OptionError("shapes of a new decoder are for --from-scratch --decoder prefix_gpt2")
    lines = read_captions(arguments.entities) if arguments.entities else []
    entities = (name.strip() for line in lines for name in line.split(","))
    told: dict[str, Any] = {
        "language_model": arguments.language_model,
        "entities": tuple(filter(None, entities)),
        "tune": arguments.tune,
    }
    told = {name: value for name, value in told.items() if value}
    if told and own:
        raise OptionError(f"{', '.join(told)}: for --decoder viecap, meacap or prefix_lm; name it")
    return NewDecoder(arguments.decoder, **told, **shape) if scratch or not own else None


def validation_from(text: str) -> tuple[float | None, str | None]:
    """`0.05` is a share, anything else the name of a file."""
    try:
        return float(text), None
    except ValueError:
        return None, text


def run(arguments: argparse.Namespace, options: dict[str, Any], validation: str | None) -> Path:
    """Load, adapt, save."""
    from memory_bank import read_captions
    from patchioner import Patchioner
    from patchioner.adaptation import adapt

    column = arguments.column
    texts = read_captions(arguments.corpus, column)
    held_out = None if validation is None else read_captions(validation, column)
    model = Patchioner.from_pretrained(arguments.text_encoder, device=arguments.device)
    how = {**options, "validation": held_out, "resume": arguments.resume}
    return adapt(model.parts, texts, arguments.out, **how)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments, train, say where the result is."""
    usage = parser()
    arguments = usage.parse_args(argv)
    share, validation = validation_from(arguments.validation)
    try:
        options = options_from(arguments, share)
    except (OptionError, TextError) as error:
        usage.error(str(error))
    log_to_terminal(logging.INFO)

    def work() -> None:
        sys.stdout.write(f"{run(arguments, options, validation)}\n")

    return guarded(work, stopped="stopped: go on with --resume")


if __name__ == "__main__":
    quiet_interrupts()
    sys.exit(main())
