"""Entry point of the `patchioner` command.

Knows: the subcommands, exit statuses, that an error is one line. Does not know: what a subcommand
does.

Exit status: 0 all went well, 1 something failed (a line on standard error says what), 2 wrong
usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from patchioner.base.errors import PatchionerError
from patchioner.cli.arguments import add_caption_arguments, attach_negative_values
from patchioner.cli.bank import add_bank_arguments
from patchioner.cli.caption import ModelLoader, caption_photos, load_pretrained
from patchioner.cli.detail import add_detail_arguments
from patchioner.cli.export import add_export_arguments
from patchioner.cli.models import add_convert_arguments, add_models_arguments
from patchioner.cli.output import report_error


def main(argv: Sequence[str] | None = None, *, load_model: ModelLoader = load_pretrained) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: arguments without the program's name; None takes those of the process.
        load_model: makes the model from (name, device, bank); tests put a small one in.

    Example:
        >>> main(["caption", "photo.jpg", "--box", "10,20,200,220"])  # doctest: +SKIP
        photo.jpg (640 x 480)
          1. box 10,20,200,220: a red bus on a street  (-0.61)
        0
    """
    parser = _parser()
    arguments = attach_negative_values(sys.argv[1:] if argv is None else argv)
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has written its message
        return stop.code if isinstance(stop.code, int) else 2
    try:
        if hasattr(options, "run"):
            return int(options.run(options))
        return caption_photos(options, load_model)
    except KeyboardInterrupt:
        report_error("stopped")
        return 130
    except BrokenPipeError:
        # Whoever reads our output has enough: the flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PatchionerError, OSError) as error:
        report_error(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="patchioner", description="Caption any region of a photo, zero-shot and offline."
    )
    parser.add_argument("--version", action="version", version=f"patchioner {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_caption_arguments(
        commands.add_parser(
            "caption",
            help="caption photos or regions of them",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_detail_arguments(commands.add_parser("detail", help="describe photos at length"))
    add_models_arguments(commands.add_parser("models", help="what can be loaded, and its size"))
    add_convert_arguments(commands.add_parser("convert", help="write a model in our own format"))
    add_export_arguments(
        commands.add_parser("export", help="run a model's backbone in another runtime")
    )
    add_bank_arguments(commands.add_parser("bank", help="build, look into or shrink memory banks"))
    return parser


def _version() -> str:
    try:
        return metadata.version("patchioner")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"
