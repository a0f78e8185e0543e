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

_SHAPE = ("layers", "width", "heads", "vocab_size", "positions")


def parser() -> argparse.ArgumentParser:
    """Everything the script takes."""
    result = argparse.ArgumentParser(
        description="Train a decoder on text alone and build its memory bank. Captions of photos "
        "then read like the corpus. The result loads with Patchioner.from_pretrained(DIR).",
        epilog="exit status: 0 done; 1 something failed (see standard error); 2 wrong usage; "
        "130 stopped with Ctrl-C, go on with --resume",
    )
    add = result.add_argument
    add("--corpus", required=True, metavar="FILE", help="sentences, as .txt or what `patchioner bank build` reads")
    add("--column", metavar="NAME", help="of a table: the column of sentences")
    add("--out", required=True, metavar="DIR", help="new folder for the result")
    lends = "checkpoint that lends everything but decoder and bank (default: %(default)s)"
    add("--text-encoder", default="patchioner-mini", metavar="ID|DIR", help=lends)
    add("--resume", action="store_true", help="go on with a stopped run in DIR")
    add = result.add_mutually_exclusive_group().add_argument
    add("--memory", action="store_true", help="train behind the new memory bank; regions will pass it, too (default)")
    noise = "train with noise of this strength instead (0.08 if left out); regions will go straight to the decoder"
    add("--noise", nargs="?", type=float, const=0.08, metavar="SIGMA", help=noise)
    add = result.add_argument_group("training").add_argument
    add("--epochs", type=float, help="default: 15, from scratch 30")
    add("--batch", type=int, default=64, help="default: %(default)s")
    add("--learning-rate", type=float, metavar="RATE", help="default: 1e-3, or 1e-4 to train a language model")
    held_out = "sentences to validate on, or the share of the corpus held out (default: %(default)s)"
    add("--validation", default="0.05", metavar="FILE|SHARE", help=held_out)
    add("--bank-rows", type=int, metavar="N", help="compress the bank to N rows")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--storage", choices=["fp32", "fp16", "int8"], default="fp16")
    add = result.add_argument_group("shape of a new decoder").add_argument
    add("--from-scratch", action="store_true", help="do not go on from the checkpoint's decoder")
    for name in _SHAPE:
        add(f"--{name.replace('_', '-')}", type=int, metavar="N", help="needs --from-scratch")
    add = result.add_argument_group("a new decoder on a language model (extra language-models)").add_argument
    kinds = (
        "viecap: soft prompt and the entities near a region; meacap: what the nearest sentences agree on instead; "
        "prefix_lm: soft prompt alone, longer text (default: %(default)s, ours)"
    )
    add("--decoder", choices=["prefix_gpt2", "viecap", "meacap", "prefix_lm"], default="prefix_gpt2", help=kinds)
    add("--language-model", metavar="NAME|DIR", help="hub id (gpt2, facebook/opt-125m) or a folder")
    add("--entities", metavar="FILE", help="viecap: names, one per line (default: COCO's 80 classes)")
    add("--tune", choices=["frozen", "full"], help="prefix_lm: what is trained of it (frozen)")
    return result


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
    return {"training": training, "fresh": fresh, "bank_rows": arguments.bank_rows, "storage": arguments.storage}


def _fresh(arguments: argparse.Namespace) -> NewDecoder | None:
    """The new decoder that is asked for, or None to go on from the checkpoint's."""
    from memory_bank import read_captions
    from patchioner.adaptation import NewDecoder

    shape = {name: value for name in _SHAPE if (value := getattr(arguments, name)) is not None}
    own, scratch = arguments.decoder == "prefix_gpt2", arguments.from_scratch
    if (shape or scratch) and not (own and scratch):
        raise OptionError("shapes of a new decoder are for --from-scratch --decoder prefix_gpt2")
    lines = read_captions(arguments.entities) if arguments.entities else []
    names = tuple(name.strip() for line in lines for name in line.split(",") if name.strip())
    given = {"language_model": arguments.language_model, "entities": names, "tune": arguments.tune}
    told = {name: value for name, value in given.items() if value}
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
    return adapt(model.parts, texts, arguments.out, validation=held_out, resume=arguments.resume, **options)


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
